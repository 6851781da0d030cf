"""Tracing: an unmodified module runs once on a symbol, and every torch function it calls is lowered to a node of the graph.

The symbol knows its dimensions and how they read the rows, its length is a symbol too; constants are computed by torch as always.
What has no lowering is refused where it happens, so the error names the user's own source line.
"""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from torch import nn

from service.errors import NotStreamable
from service.streaming.arguments import arranged
from service.streaming.axes import Axes
from service.streaming.copying import eval_copy, traced_modules
from service.streaming.edges import TAKEN, EdgeFrame
from service.streaming.factories import symbolic_factories
from service.streaming.fingerprint import network
from service.streaming.graph import Channels, Graph, View
from service.streaming.lowering import DEFAULT_REMEDY, Lowering, function_lowering, module_lowering, remedy, takes_any_kind
from service.streaming.memory import Put
from service.streaming.numerics import Numerics
from service.streaming.operator import Operator
from service.streaming.paths import Way, merged
from service.streaming.positions import as_values
from service.streaming.standin import found_in
from service.streaming.symbol import Layout, Symbol, symbols_in
from service.streaming.timeline import Count

OWN = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "nn"), str(Path(torch.__file__).parent))
"""Where code lies that is not the user's."""
LONGEST_LINE = 160
MOST_QUESTIONS = 16
NEW_TENSOR = "Use the operation that returns a new tensor."
INTO_CONSTANT = (
    "Make what they are written into of the input, as by torch.zeros_like(x), or use the operation that returns a new tensor."
)
INPUT_ALONE = "A module's result must depend on its input alone."


class Trace:
    """One conversion: builds the graph while the module's copy runs."""

    def __init__(self, module: nn.Module, channels: int, layout: Layout, numerics: Numerics) -> None:
        self.numerics = numerics
        self.channels = channels
        self.graph = Graph(channels)
        self.layout = layout
        self._module = eval_copy(module)
        self._path: list[tuple[str, nn.Module]] = []
        self.symbols: WeakSet[Symbol] = WeakSet()
        self.calling = "the module"
        """The function or module that is being lowered."""
        self._flattened: dict[tuple[View, Axes], View] = {}
        self.timed: dict[Count, View] = {}
        """A value of each length that the module has looked at."""
        self._asked: list[tuple[bool, str]] = []
        self._decided = 0
        self._refused: NotStreamable | None = None
        """The first refusal of a run, which the module's own `except` may catch."""
        self.prepared: dict[nn.Module, Operator] = {}
        """Operators that take long to make, since a module is traced twice."""

    @torch.no_grad()
    def run(self) -> Graph:
        """The graph of the module. Raises NotStreamable."""
        for name, child in traced_modules(self._module):
            self._follow(name, child)
        ways = [self._traced(())]
        while (answers := ways[-1].following()) is not None:
            ways.append(self._traced(answers))
        whole = [way for way in ways if way.output is not None]
        if not whole:
            raise NotStreamable(f"{ways[0].asked[0]}: the module raises at every length, whatever way it goes: {ways[0].refused!r}")
        # A module that keeps something from one call for the next shows it in the second one.
        if network(self._traced(whole[0].answers).graph) != network(whole[0].graph):
            self.refuse("a module whose second call computes something else than its first", INPUT_ALONE)
        return merged(whole)

    def _traced(self, answers: Sequence[bool]) -> Way:
        """The graph of one run, in which the first questions about lengths have these answers."""
        self.graph = Graph(self.channels)
        self._asked = [(answer, "") for answer in answers]
        self._decided = 0
        self.timed = {}
        before = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        chance = torch.get_rng_state()
        self._refused = None
        try:
            with symbolic_factories(self):
                result = self._module(Symbol(self, View.whole(self.graph.input), Axes.of(self.layout.value, self.channels)))
        except NotStreamable:
            raise
        except Exception as error:
            if self._refused is not None:
                raise self._refused from error
            if self._decided and _is_refusal(error):
                return self._way(None, error)
            lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_own(frame.filename)]
            at = f", {lines[-1].filename}:{lines[-1].lineno}: {lines[-1].line}" if lines else ""
            raise NotStreamable(
                f"{self.where()}{at}: tracing the module raised {type(error).__name__}: {error}. {DEFAULT_REMEDY}"
            ) from error
        if self._refused is not None:
            raise self._refused
        if isinstance(result, tuple | list) and len(result) == 1:
            (result,) = result
        if isinstance(result, EdgeFrame):
            result.refuse("an output")
        if not isinstance(result, Symbol):
            self.refuse(f"an output of type {type(result).__name__}", "Return one tensor [B, C, T], computed from the input.")
        if result.axes.letters != self.layout.value:
            given, wanted = result.axes, ", ".join(self.layout.value)
            self.refuse(f"an output {given}, in another layout than the input", f"Reshape or transpose it back to [{wanted}].")
        for name, buffer in self._module.named_buffers():
            if name not in before or not torch.equal(buffer, before[name]):
                self.refuse(f"buffer {name!r}, which forward changes,", INPUT_ALONE)
        if not torch.equal(chance, torch.get_rng_state()):
            self.refuse("a random number", INPUT_ALONE)
        return self._way(result.reads)

    def _way(self, output: View | None, refused: Exception | None = None) -> Way:
        asked = self._asked[: self._decided]
        return Way(self.graph, output, tuple(answer for answer, _ in asked), tuple(where for _, where in asked), refused)

    def _follow(self, name: str, child: nn.Module) -> None:
        lowering = module_lowering(child)
        if lowering is not None:
            child.forward = lambda *args, **kwargs: self._lowered(type(child).__name__, lowering, child, *args, **kwargs)

        def enter(*_: object) -> None:
            self._path.append((name, child))

        def leave(*_: object) -> None:
            self._path.pop()

        child.register_forward_pre_hook(enter)
        child.register_forward_hook(leave)

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Lowers one call of a torch function or tensor method."""
        in_place = name.startswith("__i") or (name.endswith("_") and not name.startswith("__")) or kwargs.pop("inplace", False)
        name = name.removeprefix("__i").strip("_")
        lowering = function_lowering(name)
        if lowering is None:
            self.refuse(name, remedy(name))
        args, kwargs = as_values(args), dict(zip(kwargs, as_values(kwargs.values()), strict=True))
        try:
            args, kwargs = arranged(lowering, args, kwargs)
            if (in_place or name == "setitem") and not isinstance(args[0], Symbol):
                self.refuse("values written into a constant", INTO_CONSTANT)
            result = self._lowered(name, lowering, *args, **kwargs)
        except TypeError as error:
            told = f"{self.where()}: {name} with these arguments cannot be streamed ({error}). {DEFAULT_REMEDY}"
            self._refuse(NotStreamable(told), error)
        return self.overwrite(args[0], result, symbols_in([*args[1:], *kwargs.values()])) if in_place else result

    def _lowered(self, name: str, lowering: Lowering, *args: Any, **kwargs: Any) -> Any:
        before, self.calling = self.calling, name
        if torch.is_autocast_enabled("cpu"):
            self.refuse(f"{name} under torch.autocast", "Leave it out, and set the program's precision to bfloat16.")
        try:
            edge = next(found_in([*args, *kwargs.values()], EdgeFrame), None)
            if edge is not None and name not in TAKEN:
                edge.refuse(name)
            if not takes_any_kind(lowering):
                self.require_floats(symbols_in([*args, *kwargs.values()]))
            return lowering(self, *args, **kwargs)
        except NotStreamable as error:
            self._refused = self._refused or error
            raise
        finally:
            self.calling = before

    def require_floats(self, symbols: Iterable[Symbol]) -> None:
        """Refuses truths and whole numbers among the arguments of what is being lowered."""
        for symbol in symbols:
            if not symbol.dtype.is_floating_point:
                self.refuse(f"{self.calling} of {symbol.dtype}", "Convert it with .float() before.")

    def overwrite(self, target: Symbol, result: Symbol, operands: Iterable[Symbol] = ()) -> Symbol:
        """An operation in place on `target`, which read `operands`: it stands for `result` from now on, and so do views of channels
        of the same frames. What else shares the memory, or may share it, may not be read any more."""
        if result is target:
            return target
        if result.memory is target.memory and result.stored == target.stored:
            target.axes = result.axes
            return target
        if result.dtype != target.dtype or not target.axes.is_as_large(result.axes):
            self.refuse(f"an in-place change of {target.dtype} {target.axes} to {result.dtype} {result.axes}", NEW_TENSOR)
        others = [symbol for symbol in self.symbols if symbol is not target and symbol.memory.origin is target.memory.origin]
        if target.memory.overlaps or not all(_may_be_read(operand, target) for operand in operands):
            self.refuse("an in-place change of elements that overlap, or that it reads elsewhere,", NEW_TENSOR)
        beside = []
        for symbol in others:
            if symbol.memory is target.memory and _same_rows(symbol, target):
                beside.append(symbol)
            else:
                symbol.changed = symbol.changed or self.where()
        if not beside:
            target.stored, target.axes, target.memory = result.stored, result.axes, result.memory
            return target
        put = Put(target.stored.channels, target.axes.places)
        written = self.graph.add(put, [target.stored, result.reads], self.where())
        for symbol in (target, *beside):
            symbol.stored = written
        return target

    def add(
        self,
        operator: Operator,
        inputs: Sequence[Symbol],
        shares_memory: bool = False,
        axes: Axes | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Symbol:
        """A new node that reads rows in the order of their dimensions.

        The result has the given dimensions, else those of the first input, with the operator's number of channels if there is one
        dimension of them; and where torch would make a view of it, its memory.
        """
        first = inputs[0]
        if axes is None:
            same = operator.channels == first.channels
            axes = first.axes.flat() if same else Axes.of(first.dims.value, operator.channels)
        view = self.graph.add(operator, [symbol.reads for symbol in inputs], self.where())
        return Symbol(self, view, axes, first.memory if shares_memory else None, dtype)

    def add_each(self, operator: Operator, *inputs: Symbol, axes: Axes | None = None, dtype: torch.dtype = torch.float32) -> Symbol:
        """A new node that does the same at every channel, so that rows of equal dimensions are read as they are stored."""
        whole = inputs if axes is not None else [symbol.in_any_order for symbol in inputs]
        view = self.graph.add(operator, [symbol.stored for symbol in whole], self.where())
        return Symbol(self, view, whole[0].axes if axes is None else axes, dtype=dtype)

    def flattened(self, stored: View, axes: Axes) -> View:
        """Rows that hold the factors of `axes` in their order."""
        if axes.is_flat(stored.channels):
            return stored
        key = (stored, axes)
        if key not in self._flattened:
            self._flattened[key] = self.graph.add(Channels(axes.sizes, axes.strides, axes.offset), [stored], self.where())
        return self._flattened[key]

    def refuse(self, what: str, remedy: str) -> NoReturn:
        """Raises NotStreamable for `what`, at the line that is being traced, and again at the end of a module that catches it."""
        self._refuse(self.refusal(what, remedy))

    def refusal(self, what: str, remedy: str) -> NotStreamable:
        return NotStreamable(f"{self.where()}: {what} cannot be streamed exactly. {remedy}")

    def _refuse(self, error: NotStreamable, cause: Exception | None = None) -> NoReturn:
        self._refused = self._refused or error
        raise error from cause

    def refuse_channels(self, symbol: Symbol, given: int, taken: int) -> NoReturn:
        """Raises NotStreamable because `symbol` has `given` channels where what reads it takes `taken`."""
        if symbol.stored.value is self.graph.input and given == self.channels:
            self._refuse(
                NotStreamable(
                    f"{self.where()}: the network's first layer, {self.calling}, takes {taken} channels; the input has {given}. "
                    f"Convert the network for {taken} channels, and feed it as many."
                )
            )
        self.refuse(f"{self.calling} of {given} channels, which takes {taken},", "The module itself would raise here.")

    def passing_answer(self) -> bool | None:
        """What a comparison must say for the statement that is being traced not to raise; None when it does more than raise, or
        asks more than that."""
        frame = _user_frame()
        if frame is None:
            return None
        nodes = [node for node in _nodes(frame.f_code.co_filename) if isinstance(node, ast.stmt)]
        statements = [(node, test) for node in nodes if (test := _tested(node)) is not None]
        around = [(node, test) for node, test in statements if _covers(node, test, frame.f_lineno)]
        if not around:
            return None
        statement, test = max(around, key=lambda pair: pair[0].lineno)
        if not isinstance(test, ast.Compare) or len(test.ops) > 1:
            return None
        if not isinstance(statement, ast.If):
            return True
        return False if isinstance(statement.body[0], ast.Raise) and not statement.orelse else None

    def decided(self) -> bool:
        """The answer to the next question about lengths that has not the same one at all of them: yes, until the run with no."""
        if self._decided == MOST_QUESTIONS:
            self.refuse("the length of a value", f"More than {MOST_QUESTIONS} branches in a row depend on it.")
        if self._decided == len(self._asked):
            self._asked.append((True, ""))
        answer, _ = self._asked[self._decided]
        self._asked[self._decided] = answer, self.where()
        self._decided += 1
        return answer

    @property
    def has_branched(self) -> bool:
        """Whether this run goes one of several ways."""
        return self._decided > 0

    def where(self) -> str:
        """The module and the user's source line that are being traced."""
        parts = []
        if self._path:
            name, module = self._path[-1]
            parts.append(f"module {name!r} ({type(module).__name__})" if name else type(module).__name__)
        frame = _user_frame()
        if frame is not None:
            file, number = frame.f_code.co_filename, frame.f_lineno
            parts.append(f"{file}:{number}: {linecache.getline(file, number).strip()[:LONGEST_LINE]}")
        return ", ".join(parts) or "the network"


def _same_rows(symbol: Symbol, target: Symbol) -> bool:
    return not symbol.changed and symbol.stored == target.stored


def _may_be_read(operand: Symbol, target: Symbol) -> bool:
    """Whether the order in which torch reads and writes is all the same: both lie in the same places, or in none."""
    if operand.memory.origin is not target.memory.origin:
        return True
    if operand.memory is not target.memory or not _same_rows(operand, target):
        return False
    return operand.axes == target.axes or not set(operand.axes.places) & set(target.axes.places)


def _user_frame() -> FrameType | None:
    """The innermost frame of the user's code below the module that is being traced."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_qualname.startswith("Trace.run"):
        if not _is_own(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def _is_refusal(error: Exception) -> bool:
    """Whether the user's own `raise` or `assert` raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if _is_own(frame.filename):
        return False
    statements = [node for node in _nodes(frame.filename) if isinstance(node, ast.Assert | ast.Raise)]
    return any(_covers(node, node, frame.lineno or 0) for node in statements)


def _nodes(file: str) -> list[ast.AST]:
    """All of a source file's syntax; nothing where it is no Python."""
    with suppress(SyntaxError):
        return list(ast.walk(ast.parse("".join(linecache.getlines(file)))))
    return []


def _tested(node: ast.stmt) -> ast.expr | None:
    """What an `assert`, an `if` or a `torch._assert` looks at."""
    if isinstance(node, ast.Assert | ast.If):
        return node.test
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not call.args:
        return None
    return call.args[0] if ast.unparse(call.func) in ("torch._assert", "_assert") else None


def _covers(first: ast.stmt, last: ast.stmt | ast.expr, line: int) -> bool:
    """Whether the line is one of those from the beginning of `first` to the end of `last`."""
    return first.lineno <= line <= (last.end_lineno or first.lineno)


def _is_own(file: str) -> bool:
    return file.startswith((*OWN, "<"))
