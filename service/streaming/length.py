"""Lengths: not known at conversion, but exact functions of the frames fed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from service.streaming.standin import found_in
from service.streaming.timeline import Count, Frames

if TYPE_CHECKING:
    from service.streaming.graph import View
    from service.streaming.tracing import Trace


class Length:
    """The length of a value, or a whole number computed from it; `count` gives it for every number of frames, and `view` is the
    value, where it is the length of one."""

    def __init__(self, trace: Trace, count: Count, view: View | None = None) -> None:
        self.trace = trace
        self.count = count
        self.view = view

    def __repr__(self) -> str:
        return "a length"

    def refuse(self, use: str) -> NoReturn:
        self.trace.refuse(*self.refusal(use))

    def refusal(self, use: str) -> tuple[str, str]:
        """What cannot be streamed, and the remedy."""
        return (
            "the length of a value",
            f"The length of a stream is not known while it runs, so it cannot be {use}. Write the network so that its result "
            "at a frame does not depend on the length.",
        )

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        # That it is here lets a length pass torch's own check of arguments; factories that take one are handled before.
        next(lengths_in([*args, *(kwargs or {}).values()])).refuse(f"passed to torch.{function.__name__}")

    def _derived(self, rule: Callable[..., Frames], *others: Length, stride: int = 1) -> Any:
        """A length; a number where that is the same at every length at which the module has not raised so far."""
        counts = (self.count, *(other.count for other in others))
        made = Count.derive(rule, *counts, stride=stride, empty=None)
        values = self._values(made).tolist() if made.gain == 0 else []
        return values[0] if len(values) == 1 else Length(self.trace, made, self.view if made is self.count else None)

    def __add__(self, other: object) -> Any:
        if isinstance(other, Length):
            return self._derived(np.add, other)
        amount = self._number(other)
        return self._derived(lambda t: t + amount)

    __radd__ = __add__

    def __neg__(self) -> Any:
        return self._derived(lambda t: -t)

    def __sub__(self, other: object) -> Any:
        if not isinstance(other, Length):
            return self + -self._number(other)
        if other.count.gain and not self._grows_like(other):
            self.refuse("subtracted from another one where the difference grows")
        return self._derived(np.subtract, other)

    def __rsub__(self, other: object) -> Any:
        amount = self._number(other)
        return self._derived(lambda t: amount - t)

    def __mul__(self, other: object) -> Any:
        factor = self._number(other)
        return self._derived(lambda t: t * factor)

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Any:
        divisor = self._number(other)
        return self._derived(lambda t: t // divisor, stride=abs(divisor))

    def __truediv__(self, other: object) -> Ratio:
        divisor = self._number(other)
        if divisor < 1:
            self.refuse(f"divided by {divisor}")
        return Ratio(self, divisor)

    def __divmod__(self, other: object) -> Any:
        return self // other, self % other

    def __rshift__(self, other: object) -> Any:
        return self // 2 ** self._number(other)

    def __lshift__(self, other: object) -> Any:
        return self * 2 ** self._number(other)

    def __mod__(self, other: object) -> Any:
        divisor = self._number(other)
        return self._derived(lambda t: t % divisor, stride=abs(divisor))

    def __and__(self, other: object) -> Any:
        mask = self._number(other)
        if mask < 0:
            self.refuse(f"masked by {mask}")
        return self._derived(lambda t: t & mask, stride=1 << mask.bit_length())

    __rand__ = __and__

    def __abs__(self) -> Any:
        if self.may_be_negative and self.count.gain:
            self.refuse("taken without its sign while it falls")
        return self._derived(np.abs) if self.may_be_negative else self

    def _grows_like(self, other: Length) -> bool:
        return self.count.gain * other.count.period == other.count.gain * self.count.period

    def _values(self, of: Count) -> Frames:
        """All values that a count which does not grow takes, at the lengths at which the module has not raised so far."""
        accepts = self.trace.graph.accepts()
        frames = np.arange(1, max(of.settled, accepts.settled) + math.lcm(of.period, accepts.period) + 1, dtype=np.int64)
        return np.unique(of.numpy(frames)[accepts.numpy(frames) != 0])

    @property
    def may_be_negative(self) -> bool:
        """At a length at which the module has not raised so far."""
        if self.count.gain > 0:
            return bool(self.count.table.min() < 0)
        accepts = self.trace.graph.accepts()
        falls = self.count.gain < 0 and bool(accepts.table[accepts.settled :].any())
        return falls or bool((self._values(self.count) < 0).any())

    def asked(self) -> int:
        """The number that it is: the module is traced once for each of them."""
        if self.count.gain:
            self.refuse("used as a number")
        *others, last = self._values(self.count).tolist() or [0]
        return next((number for number in others if self.compare(number, operator.eq)), last)

    def times(self, other: Length) -> int | None:
        """The whole number that this is a multiple of `other` by, at every length at which the module has not raised so far."""
        factor, rest = divmod(self.count.gain * other.count.period, max(1, self.count.period * other.count.gain))
        if rest or not factor:
            return None
        apart = Count.derive(lambda a, b: a - factor * b, self.count, other.count, empty=None)
        return factor if self._values(apart).tolist() == [0] else None

    def left_out(self, of: Count) -> int | None:
        """How many elements `x[..., t:]` leaves out of a value of length `of`, if it is the same number at every length at which
        the module has not raised so far."""
        if self.count.gain > 0 or -self.count.gain * of.period != of.gain * self.count.period:
            return None
        # A negative number counts from the end; one from beyond the beginning is the beginning.
        made = Count.derive(
            lambda t, total: np.where(t < 0, np.maximum(0, t + total), np.minimum(t, total)), self.count, of, reach=1, empty=None
        )
        values = self._values(made).tolist()
        return values[0] if len(values) == 1 else None

    def _number(self, other: object) -> int:
        if not isinstance(other, int):
            self.refuse(f"combined with a {type(other).__name__}")
        return other

    def compare(self, other: object, relation: Callable[[Any, Any], Any]) -> bool:
        """The answer, if it is the same at every length. In an assert, or before a raise, streams may end only where it passes;
        elsewhere the module is traced once with each answer (`service.streaming.paths`).
        """
        if isinstance(other, Length):
            if not self._grows_like(other):
                self.refuse("compared with one of another rate")
            holds = Count.derive(lambda a, b: relation(a, b).astype(np.int64), self.count, other.count, empty=None)
        else:
            bound = self._number(other)
            holds = Count.derive(lambda t: relation(t, bound).astype(np.int64), self.count, reach=abs(bound) + 1, empty=None)
        answers = self._values(holds)
        if len(answers) < 2:
            # None at all where the module has raised at every length on this way through its branches.
            return bool(answers[0]) if len(answers) else False
        passed = self.trace.passing_answer()
        if passed is None:
            passed = self.trace.decided()
        self.trace.graph.require(lambda answer: answer == int(passed), holds)
        return passed


def _refusing(use: str) -> Callable[..., Any]:
    def method(self: Length, *_: object) -> NoReturn:
        self.refuse(use)

    return method


class Ratio:
    """A length over a whole number, as it is before it is rounded: `math.ceil((t - k) / stride + 1)`."""

    def __init__(self, length: Length, divisor: int) -> None:
        self._length = length
        self._divisor = divisor

    def _moved(self, other: object, sign: int = 1) -> Ratio:
        if not isinstance(other, int):
            self._length.refuse(f"combined with a {type(other).__name__}")
        return Ratio(Length(self._length.trace, self._length.count) + sign * other * self._divisor, self._divisor)

    def __add__(self, other: object) -> Ratio:
        return self._moved(other)

    __radd__ = __add__

    def __sub__(self, other: object) -> Ratio:
        return self._moved(other, -1)

    def __floor__(self) -> Any:
        return self._length // self._divisor

    def __round__(self, digits: int | None = None) -> Any:
        """Halves to the even number, as Python rounds."""
        if digits is not None:
            self._length.refuse("rounded to digits")
        return self._length._derived(lambda t: np.rint(t / self._divisor).astype(np.int64), stride=2 * self._divisor)

    def compare(self, other: object, relation: Callable[[Any, Any], Any]) -> bool:
        """With a number: so is the length, with the first whole number whose ratio is as large, or larger."""
        if not isinstance(other, int | float) or not math.isfinite(other):
            self._length.refuse(f"divided, and compared with a {type(other).__name__}")
        near = math.floor(other * self._divisor) - 1
        equal = next((whole for whole in range(near, near + 3) if whole / self._divisor == other), None)
        if relation in (operator.eq, operator.ne):
            return relation is operator.ne if equal is None else self._length.compare(equal, relation)
        beyond = operator.ge if relation in (operator.lt, operator.ge) else operator.gt
        first = next(whole for whole in range(near, near + 4) if beyond(whole / self._divisor, other))
        return self._length.compare(first, operator.lt if relation in (operator.lt, operator.le) else operator.ge)

    def __ceil__(self) -> Any:
        return -(-self._length // self._divisor)

    def __getattr__(self, name: str) -> NoReturn:
        self._length.refuse("divided and not rounded up or down")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        next(argument for argument in args if isinstance(argument, Ratio))._length.refuse("used as a number")


def _comparing(relation: Callable[[Any, Any], Any]) -> Callable[[Length | Ratio, object], bool]:
    return lambda self, other: self.compare(other, relation)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    for _kind in (Length, Ratio):
        setattr(_kind, f"__{_name}__", _comparing(getattr(operator, _name)))
Ratio.__bool__ = lambda self: self.compare(0, operator.ne)  # type: ignore[attr-defined]
for _name in ("int", "float", "index", "hash", "mul", "rmul", "truediv", "rtruediv", "mod", "pow"):
    setattr(Ratio, f"__{_name}__", lambda self, *_: self._length.refuse("divided and not rounded up or down"))
for _name in ("rtruediv", "rfloordiv", "rmod", "pow"):
    setattr(Length, f"__{_name}__", _refusing("used in arithmetic"))
Length.__bool__ = lambda self: self.compare(0, operator.ne)  # type: ignore[attr-defined]
for _name in ("int", "float"):
    setattr(Length, f"__{_name}__", _refusing("used as a number"))


def _index(self: Length) -> NoReturn:
    # Torch asks for it too where it can do without, and catches this.
    raise self.trace.refusal(*self.refusal("used as a number, as in a loop over time or to cut a constant to it"))


Length.__index__ = _index  # type: ignore[attr-defined]
Length.__hash__ = _refusing("looked up in a set or dictionary")  # type: ignore[method-assign]


def lengths_in(arguments: Sequence[Any]) -> Iterator[Length]:
    """All lengths in a call's arguments, lists and tuples included."""
    return found_in(arguments, Length)
