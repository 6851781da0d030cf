"""What the demo shows, as a pure function of figures: calm where all is well, red where a bearing fails."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rich import box
from rich.bar import Bar
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.audit import AuditReport

HISTORY_SECONDS = 24
"""How far back a pump's scores are shown."""

_WIDE = 84
_SPARKS = " ▁▂▃▄▅▆▇█"
_BUSY, _CALM, _ALARM = "yellow", "cyan", "bold red"


class Phase(StrEnum):
    """Where the demo is."""

    RUNNING = "running"
    DRAINING = "finishing what was sent"
    AUDITING = "auditing against the plain network"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class PumpFigures:
    """One pump: its smoothed score now and once a second before, oldest first. `score` is None while it has no stream."""

    key: str
    score: float | None
    alarm: bool
    history: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """The fault that was simulated, in seconds since the pumps started; `detected` is None until its pump's first alarm."""

    pump: str
    began: float
    detected: float | None

    @property
    def delay(self) -> float | None:
        return None if self.detected is None else self.detected - self.began


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything on the screen. Rates are per second over the last moments, times in milliseconds, `elapsed` in seconds.

    `fault` is None until it begins; `seconds` is None for a demo without end; `notice` says what a better demo would need.
    """

    broker: str
    phase: Phase
    elapsed: float
    seconds: float | None
    records_per_second: float
    samples_per_second: float
    predictions_per_second: float
    lag: int
    keys_per_step: float
    samples_per_step: float
    commit_ms: float | None
    latency_ms: float | None
    pumps: tuple[PumpFigures, ...]
    fault: FaultFigures | None
    false_alarms: int
    notice: str | None = None


def render(figures: Figures, width: int = 100) -> RenderableType:
    """The screen, for a terminal so many columns wide."""
    parts: list[RenderableType] = [_tiles(figures, width), Text(), _pumps(figures, width), Text(), _events(figures)]
    if figures.notice:
        parts += [Text(), Text(figures.notice, style=_BUSY)]
    return Panel(
        Padding(Group(*parts), (1, 1)),
        title=Text.assemble((" penstock", "bold"), f" · {len(figures.pumps)} pumps, one network, exactly once "),
        title_align="left",
        subtitle=Text.assemble(" ", (figures.broker, _CALM), (f" · {_clock(figures)} ", "dim")),
        subtitle_align="right",
        box=box.ROUNDED,
        border_style="bright_black",
        width=min(width, 110),
    )


def summary(figures: Figures) -> str:
    """The same in one line, for where there is no terminal."""
    alarms = ", ".join(pump.key for pump in figures.pumps if pump.alarm)
    parts = [
        f"{figures.elapsed:5.1f} s",
        str(figures.phase),
        f"{figures.records_per_second:,.0f} records/s",
        f"{figures.samples_per_second:,.0f} samples/s",
        f"{figures.predictions_per_second:,.0f} predictions/s",
        f"lag {figures.lag}",
        f"end to end {_milliseconds(figures.latency_ms)}",
        f"alarm: {alarms}" if alarms else "no alarm",
    ]
    return " · ".join(parts)


def verdict(report: AuditReport, passed: bool) -> Text:
    """What the audit says, in a few lines."""
    text = Text.assemble(
        ("Audit passed. " if passed else "AUDIT FAILED. ", "bold green" if passed else _ALARM),
        f"{report.expected:,} predictions of {report.streams} streams expected: {report.missing} missing, "
        f"{report.duplicates} duplicates, {report.unexpected} unexpected, {report.out_of_order} out of order.\n"
        f"Largest difference from the plain network run offline on each whole stream: {report.max_abs_difference:.1e}. "
        f"The same bits as a fresh program fed each stream at once: {'yes' if report.bit_equal else 'no'}.",
    )
    for example in report.examples:
        text.append(f"\n{example}", style="dim")
    return text


def _tiles(figures: Figures, width: int) -> RenderableType:
    tiles = [
        ("records/s", f"{figures.records_per_second:,.0f}"),
        ("samples/s", f"{figures.samples_per_second:,.0f}"),
        ("predictions/s", f"{figures.predictions_per_second:,.0f}"),
        ("lag", f"{figures.lag:,}"),
        ("keys × samples", f"{figures.keys_per_step:.0f} × {figures.samples_per_step:,.0f}"),
        ("commit", _milliseconds(figures.commit_ms)),
        ("end to end", _milliseconds(figures.latency_ms)),
    ]
    gap = 3 if width >= _WIDE else 1
    return Columns([Text.assemble((label, "dim"), "\n", (value, "bold")) for label, value in tiles], padding=(0, gap, 0, 0))


def _pumps(figures: Figures, width: int) -> RenderableType:
    wide = width >= _WIDE
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=8)
    table.add_column(justify="right", no_wrap=True)
    if wide:
        table.add_column(width=HISTORY_SECONDS, justify="right", no_wrap=True)
    table.add_column(min_width=7, no_wrap=True)
    for pump in figures.pumps:
        style = _ALARM if pump.alarm else _CALM
        score = Text("–", style="dim") if pump.score is None else Text(f"{pump.score:.2f}", style=style)
        spark = [Text(sparkline(pump.history), style=_ALARM if pump.alarm else "dim")] if wide else []
        bar = Bar(size=1.0, begin=0.0, end=pump.score or 0.0, color="red" if pump.alarm else _CALM, bgcolor="grey15")
        table.add_row(Text(pump.key), bar, score, *spark, _mark(pump))
    return table


def _mark(pump: PumpFigures) -> Text:
    if pump.alarm:
        return Text("● alarm", style=_ALARM)
    return Text("stopped", style="dim") if pump.score is None else Text("○", style="dim")


def _events(figures: Figures) -> Text:
    text = Text("All bearings are sound.", style="dim") if figures.fault is None else _fault(figures.fault)
    if figures.false_alarms:
        text.append(f"  {figures.false_alarms} false alarm{'s' if figures.false_alarms > 1 else ''}.", style=_ALARM)
    return text


def _fault(fault: FaultFigures) -> Text:
    text = Text.assemble("A bearing of ", (fault.pump, "bold"), f" began to fail at {fault.began:.1f} s")
    if fault.detected is None or fault.delay is None:
        return text.append("; not yet heard.", style="dim")
    return text.append(f", detected at {fault.detected:.1f} s: ").append(f"{fault.delay:.1f} s later.", style=_ALARM)


def sparkline(values: tuple[float, ...]) -> str:
    """Values from 0 to 1 as one character each."""
    top = len(_SPARKS) - 1
    return "".join(_SPARKS[min(top, max(0, round(value * top)))] for value in values)


def _clock(figures: Figures) -> str:
    of = f" of {figures.seconds:.0f} s" if figures.seconds is not None else " s, Ctrl-C ends"
    return f"{figures.phase}, {figures.elapsed:.0f}{of}" if figures.phase is Phase.RUNNING else str(figures.phase)


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"
