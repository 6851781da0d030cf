"""Modules for what networks over time need and torch does not have: ordinary `nn.Module`s that also stream exactly."""

from service.nn.attention import CausalAttention
from service.nn.resample import Resample
from service.nn.sliding import SlidingMax, SlidingMean, SlidingMin
from service.nn.smoothing import ExponentialSmoothing
from service.nn.window import SlidingWindow

__all__ = ["CausalAttention", "ExponentialSmoothing", "Resample", "SlidingMax", "SlidingMean", "SlidingMin", "SlidingWindow"]
