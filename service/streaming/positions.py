"""Times as numbers, built by ordinary code from a length that is not known.

`torch.arange(t)` becomes `Positions`, which may be shifted, scaled and set as a column or a row; a column against a row becomes a
`Band`, and so does `torch.ones(t, t)`. With a value, or once they are float32, positions are a value like any other, and so is what
is left of them when divided by a number. Whatever else is done with them is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from service.streaming.axes import ONE, TIME, Axes
from service.streaming.band import ALIASES, RELATIONS, TYPES, Band, OverTimes
from service.streaming.constants import FILLED, REPEATED, as_long_as, filled, repeated
from service.streaming.graph import Index
from service.streaming.length import Length, lengths_in
from service.streaming.symbol import LARGEST_WHOLE, Symbol

if TYPE_CHECKING:
    from service.streaming.tracing import Trace

KINDS: dict[Any, torch.dtype] = {**TYPES, "torch.FloatTensor": torch.float32, "torch.LongTensor": torch.int64}
"""Names of kinds of numbers: of methods, and what `x.type()` says."""


VIEWS = ("view", "reshape", "unsqueeze", "getitem", "contiguous", "detach", "to", "type", "type_as", "long", "int", "float")
"""After which a change in place may be seen elsewhere."""

QUOTIENTS = ("truediv", "rtruediv", "true_divide", "div", "divide")
"""What is float32 also of whole numbers, unless it is rounded."""


class Positions(OverTimes):
    """`arange(t) * step + shift`, along dimension `axis` of `ndim`; as float32 with the numbers `added`, one after the other."""

    def __init__(
        self,
        trace: Trace,
        length: Length,
        shift: int = 0,
        axis: int = 0,
        ndim: int = 1,
        step: int = 1,
        dtype: torch.dtype = torch.int64,
        added: tuple[int, ...] = (),
    ) -> None:
        super().__init__(trace, length)
        self.shift = shift
        self.added = added
        self.step = step
        self.dtype = dtype
        self.axis = axis
        self.ndim = ndim
        self.viewed = False

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self.length if dim == self.axis else 1 for dim in range(self.ndim))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        in_place = name.endswith("_") and not name.endswith("__")
        made = self._call(name.strip("_"), args, kwargs)
        if in_place and not isinstance(made, Positions):
            self.trace.refuse(f"{name} of times", f"Write it as x = x.{name.strip('_')}(…).")
        if in_place and (self.viewed or args[0] is not self):
            self.refuse("an in-place change of times that is visible through another view")
        if in_place:
            vars(self).update(vars(made))
            return self
        if isinstance(made, Positions) and name in VIEWS:
            self.viewed = made.viewed = True
        if made is not None:
            return made
        among = [*args, *kwargs.values()]
        floats = any(_makes_float(argument) for argument in among) or (name in QUOTIENTS and not kwargs.get("rounding_mode"))
        if not self.dtype.is_floating_point and not floats:
            self.refuse(name)
        self.viewed = True  # nobody knows here whether by what is made of it
        return self.trace.call(name, as_values(args), dict(zip(kwargs, as_values(kwargs.values()), strict=True)))

    def value(self, modulo: int | None = None, dtype: torch.dtype = torch.float32) -> Symbol:
        """The positions as a value over time. A float32 holds them as torch would round them."""
        view = as_long_as(self.trace, self.length)
        made = self.trace.graph.add(Index(self.shift, self.step, modulo), [view], self.trace.where())
        axes = Axes(tuple(TIME if dim == self.axis else ONE for dim in range(self.ndim)))
        value = Symbol(self.trace, made, axes, dtype=dtype)
        for number in self.added:  # each is rounded
            value = value + number
        return value

    def _call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> OverTimes | Symbol | None:
        if name in ("to", "long", "int", "float", "contiguous", "detach", "type", "type_as"):
            return self._typed(name, [*args[1:], *kwargs.values()])
        if name == "getitem":
            return self._indexed(args[1])
        if name == "unsqueeze":
            place = kwargs.get("dim", args[-1]) % (self.ndim + 1)
            return self._with(axis=self.axis + (place <= self.axis), ndim=self.ndim + 1)
        if name in ("view", "reshape"):
            sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
            places = [place for place, size in enumerate(sizes) if isinstance(size, Length) or size == -1]
            if len(places) == 1 and all(size == 1 for place, size in enumerate(sizes) if place != places[0]):
                return self._with(axis=places[0], ndim=len(sizes))
        name = ALIASES.get(name, name)
        if len(args) != 2:
            return None
        place = next(place for place, argument in enumerate(args) if argument is self)
        other = args[1 - place]
        if isinstance(other, int) and name == "add":
            return self._shifted(other)
        if isinstance(other, int) and name == "sub" and place == 0:
            return self._shifted(-other)
        if type(other) is int and other > 0 and not self.dtype.is_floating_point:
            if name == "mul":
                return self._with(shift=self.shift * other, step=self.step * other)
            if name in ("mod", "remainder") and place == 0 and other <= LARGEST_WHOLE:
                return self.value(other, self.dtype)
        if isinstance(other, Positions) and (name == "sub" or name in RELATIONS):
            return self._against(name, self, other) if place == 0 else self._against(name, other, self)
        return None

    def _typed(self, name: str, targets: Sequence[Any]) -> Positions:
        kinds = [getattr(target, "dtype", KINDS.get(target, target)) for target in (name, *targets)]
        found = [kind for kind in kinds if isinstance(kind, torch.dtype)]
        if found and not found[0].is_floating_point:
            return self._with(dtype=found[0], shift=self.shift + sum(self.added), added=())
        return self._with(dtype=found[0]) if found else self

    def _indexed(self, key: Any) -> Positions:
        keys = list(key) if isinstance(key, tuple) else [key]
        kept = [item for item in keys if item is not None]
        if any(item is not Ellipsis and item != slice(None) for item in kept) or len(kept) > 1 or self.ndim != 1:
            self.refuse(f"indexing {key!r}")
        place = next((place for place, item in enumerate(keys) if item is not None), len(keys))
        return self._with(axis=place, ndim=len(keys) if kept else len(keys) + 1)

    def _shifted(self, number: int) -> Positions:
        if self.dtype.is_floating_point:
            return self._with(added=(*self.added, number))
        return self._with(shift=self.shift + number)

    def _with(self, **changes: Any) -> Positions:
        kept = {name: getattr(self, name) for name in ("shift", "axis", "ndim", "step", "dtype", "added")}
        return Positions(self.trace, self.length, **kept | changes)

    def _against(self, name: str, a: Positions, b: Positions) -> Band:
        sides = {a.axis - a.ndim: a, b.axis - b.ndim: b}
        if set(sides) != {-1, -2} or a.length.count is not b.length.count or (a.step, b.step) != (1, 1):
            self.refuse(f"{name} of two vectors that are not a column and a row")
        sign = 1 if a is sides[-2] else -1
        apart = a.shift + sum(a.added) - b.shift - sum(b.added)

        def function(distance: Tensor) -> Tensor:
            difference = sign * distance + apart
            return difference if name == "sub" else RELATIONS[name](difference, 0)

        self.bounded(apart)
        return Band(self.trace, self.length, function, max(a.ndim, b.ndim))


def _makes_float(argument: Any) -> bool:
    """Whether whole numbers with it are float32, which is what rows hold."""
    return isinstance(argument, Symbol | float) or (isinstance(argument, Tensor) and argument.dtype is torch.float32)


def as_values(arguments: Iterable[Any]) -> list[Any]:
    """A call's arguments, with values in place of positions."""
    return [
        argument.value()
        if isinstance(argument, Positions)
        else type(argument)(as_values(argument))
        if type(argument) in (list, tuple)
        else argument
        for argument in arguments
    ]


def _counted(trace: Trace, length: Length, args: Sequence[Any], dtype: torch.dtype | None) -> Positions:
    """`arange(stop)`, `arange(start, stop)`, `arange(start, stop, step)`."""
    start, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    if not isinstance(start, int) or not isinstance(step, int) or step < 1 or not isinstance(stop, Length):
        length.refuse("passed to torch.arange, but as where it stops")
    count = (stop - start + (step - 1)) // step
    if not isinstance(count, Length) or dtype not in (None, torch.int64, torch.int32, torch.float32):
        length.refuse(f"passed to torch.arange of {dtype}")
    return Positions(trace, count, start, step=step, dtype=dtype or torch.int64)


def factory(trace: Trace, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Positions | Band | Symbol:
    """Tensors whose size is a length: `arange(t)`, `zeros(t, t)`, `ones(b, c, t)`, `vector.expand(-1, -1, t)`."""
    length = next(length for length in lengths_in([*args, *kwargs.values()]))
    if name == "arange" and all(isinstance(number, int | Length) for number in args):
        return _counted(trace, length, args, kwargs.get("dtype"))
    if name in REPEATED and args and isinstance(args[0], Tensor):
        sizes = _sizes(args[1:], kwargs)
        if sizes is not None and len(list(lengths_in(sizes))) == 1:
            return repeated(trace, name, args[0], sizes)
    fill = kwargs.get("fill_value", args[-1] if args else None)
    sizes = _sizes(args[:-1] if name == "full" and "fill_value" not in kwargs else args, kwargs)
    if name not in FILLED or sizes is None or (name == "full" and not isinstance(fill, int | float)):
        length.refuse(f"passed to torch.{name}, but to arange(t), to ones, zeros and full, and to expand and repeat of a constant")
    number: Any = {"ones": 1.0, "zeros": 0.0, "full": fill}[name]
    dtype = kwargs.get("dtype")
    if len(list(lengths_in(sizes))) == 1:
        return filled(trace, sizes, number, dtype)
    square = all(isinstance(size, Length) and size.count is length.count for size in sizes[-2:])
    if not square or any(not isinstance(size, int) or size != 1 for size in sizes[:-2]):
        length.refuse(f"passed to torch.{name} more than once, but for a mask of size (t, t)")
    if isinstance(number, bool) and dtype is None:
        dtype = torch.bool
    return Band(trace, length, lambda distance: torch.full(distance.shape, number, dtype=dtype or torch.float32), len(sizes))


def _sizes(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any] | None:
    """One by one or as a sequence, by whatever name; None where there is something else among them."""
    named = [kwargs[name] for name in ("size", "repeats", "dims") if name in kwargs]
    given = args if args else named
    sizes = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else list(given)
    return sizes if all(isinstance(size, int | Length) for size in sizes) else None
