"""A call's arguments by the names of its lowering: torch takes NumPy's too, and methods have others than functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

FIRST = ("input", "self", "tensor", "x", "a", "A", "x1")
"""What torch calls the first argument of a function, where its lowering has no parameter of that name."""
SECOND = ("other", "x2", "mat2", "vec2")
ALSO = {
    "axis": "dim",
    "axis0": "dim0",
    "axis1": "dim1",
    "keepdims": "keepdim",
    "split_size": "sizes",
    "split_sizes": "sizes",
    "split_size_or_sections": "sizes",
}


def _plain(value: Any) -> Any:
    """NumPy's numbers are Python's, as torch has it."""
    return value.item() if isinstance(value, np.generic) else value


@cache
def _signature(lowering: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(lowering)


def arranged(lowering: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments as `lowering` takes them behind the trace. Raises TypeError, which says what is wrong with them."""
    signature = _signature(lowering)
    if kwargs.get("out") is not None:
        raise TypeError("got a tensor 'out' to write to")
    given, named = list(args), {}
    kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    for names, place in ((FIRST, 0), (SECOND, 1)):
        found = [name for name in names if name in kwargs and name not in signature.parameters]
        if len(given) == place and len(found) == 1:
            given.append(kwargs.pop(found[0]))
    for name, value in kwargs.items():
        known = name in signature.parameters or ALSO.get(name) not in signature.parameters
        named[name if known else ALSO[name]] = value
    given, named = [_plain(value) for value in given], {name: _plain(value) for name, value in named.items()}
    signature.bind(None, *given, **named)
    return given, named
