"""One file per family of operators; importing this package registers them all."""

from service.streaming.operators import (
    accumulation,
    affine,
    arithmetic,
    attention,
    convolution,
    expansion,
    interpolation,
    padding,
    pointwise,
    pooling,
    recurrent,
    scaled_dot_product,
    shapes,
    slicing,
    transposed,
    unsupported,
)

__all__ = [
    "accumulation",
    "affine",
    "arithmetic",
    "attention",
    "convolution",
    "expansion",
    "interpolation",
    "padding",
    "pointwise",
    "pooling",
    "recurrent",
    "scaled_dot_product",
    "shapes",
    "slicing",
    "transposed",
    "unsupported",
]
