"""One file per family of operators; importing this package registers them all."""

from service.streaming.operators import (
    accumulation,
    affine,
    arithmetic,
    convolution,
    expansion,
    padding,
    pointwise,
    pooling,
    recurrent,
    slicing,
    transposed,
    unsupported,
)

__all__ = [
    "accumulation",
    "affine",
    "arithmetic",
    "convolution",
    "expansion",
    "padding",
    "pointwise",
    "pooling",
    "recurrent",
    "slicing",
    "transposed",
    "unsupported",
]
