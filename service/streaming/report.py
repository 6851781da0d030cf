"""What a person wants to know of a program: receptive field, delay, and the graph as a table."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np

from service.streaming.graph import Graph, Node, Value, View
from service.streaming.operator import Recurrence, Windowed
from service.streaming.plan import Plan
from service.streaming.timeline import Frames


def receptive_field(graph: Graph) -> int | None:
    """The most input frames from the first to the last that one output depends on; None when it remembers all of them."""
    output = graph.output
    assert output is not None
    if any(isinstance(node.operator, Recurrence) for node in graph.nodes):
        return None
    # Far from the beginning; the pattern of windows repeats after as many outputs as a period makes.
    first = np.arange(output.timeline.ready.gain, dtype=np.int64) + 1_000_000 * output.timeline.ready.gain
    reads: dict[int, tuple[Frames, Frames]] = {output.index: (first, first)}
    for node in reversed(graph.nodes):
        low, high = reads[node.output.index]
        for view in node.inputs:
            below, above = node.operator.needs(low) + view.shift, node.operator.reads_until(high) + view.shift
            known = reads.get(view.value.index, (below, above))
            reads[view.value.index] = np.minimum(known[0], below), np.maximum(known[1], above)
    low, high = reads[graph.input.index]
    return int((high - low).max()) + 1


def delay(graph: Graph) -> int:
    """The most input frames that come between the frame at an output's own time and the one that makes it ready."""
    output = graph.output
    assert output is not None
    ready = output.timeline.ready
    frames = np.arange(1, ready.settled + 2 * ready.period + 1, dtype=np.int64)
    made, before = ready.numpy(frames), ready.numpy(frames - 1)
    oldest = before * ready.period // ready.gain
    return max(0, int((frames - 1 - oldest)[made > before].max()))


def work(graph: Graph) -> float:
    """Multiply-adds, or what costs as much, per input frame."""
    return sum(_work(node) for node in graph.nodes)


def _work(node: Node) -> float:
    ready = node.output.timeline.ready
    return node.operator.work * ready.gain / ready.period


def describe(plan: Plan) -> str:
    """One line per node: what it is, what it reads, channels and rate of its output, the rows it makes the arena keep, and the
    multiply-adds, or what costs as much, that it takes per input frame.
    """
    lines = [("node", "operator", "reads", "channels", "rate", "ring rows", "cost", "from")]
    lines.append(("0", "input", "", str(plan.graph.channels), "1", str(plan.depth.get(0, 0)), "", ""))
    for node in plan.graph.nodes:
        operator = node.operator
        name = operator.name
        if isinstance(operator, Windowed):
            offsets = operator.window.offsets
            apart = offsets[1] - offsets[0] if len(offsets) > 1 else 1
            name += (
                f" window {len(offsets)}"
                + (f" dilation {apart}" if apart > 1 else "")
                + f" stride {Fraction(operator.window.stride, operator.window.per)}"
            )
        ring = str(plan.depth.get(node.output.index, 0))
        reads = ", ".join(_reading(view) for view in node.inputs)
        rate = _rate(node.output)
        lines.append(
            (str(node.output.index), name, reads, str(operator.channels), rate, ring, f"{_work(node):,.0f}", _place(node.where))
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _place(where: str) -> str:
    """The module's path and its line, without the folders and the line's text, which errors show."""
    found = re.match(r"module '([^']*)' \((\w+)\)(?:, .*?([^/\\]+\.py:\d+))?", where)
    return " ".join(filter(None, [found[1], found[2], found[3]])) if found else where


def _reading(view: View) -> str:
    shifted = f"[{view.shift:+d}]" if view.shift else ""
    padded = f" padded with {view.fill:g}" if view.fill is not None else ""
    return f"{view.value.index}{shifted}{padded}"


def _rate(value: Value) -> str:
    return str(Fraction(value.timeline.ready.gain, value.timeline.ready.period))
