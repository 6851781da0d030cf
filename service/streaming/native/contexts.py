"""What the kernels are called with: the structures of `rows.c`, number by number."""

from __future__ import annotations

import ctypes


def _fields(pointers: str, numbers: str) -> list[tuple[str, type[ctypes.c_void_p] | type[ctypes.c_int64]]]:
    return [(name, ctypes.c_void_p) for name in pointers.split()] + [(name, ctypes.c_int64) for name in numbers.split()]


class Product(ctypes.Structure):
    _fields_ = _fields("source weight bias added out at", "source_stride added_stride out_stride taps depth columns rectified")


class Elements(ctypes.Structure):
    _fields_ = _fields("slots start stop packed", "")


class Addressing(ctypes.Structure):
    _fields_ = _fields("found out into offsets depth ring_at low fill limit", "streams readings rows taps stride stage_at")


class Retirement(ctypes.Structure):
    _fields_ = _fields("rows ring elements", "depth channels")


class Call(ctypes.Structure):
    _fields_ = _fields("kernel context", "count grain")
