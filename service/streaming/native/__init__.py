"""Kernels of our own for packed rows, compiled when the package is built; where there are none, torch does what they would."""

from service.streaming.native.library import Library, Multiplication, Packed, Readings, library, torch_alone

__all__ = ["Library", "Multiplication", "Packed", "Readings", "library", "torch_alone"]
