"""The live view as text: what it shows, on wide terminals, narrow ones and none."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from service.demo.view import FaultFigures, Figures, Phase, PumpFigures, render, sparkline, summary

PUMPS = tuple(PumpFigures(f"pump-{number:02d}", 0.03, False, (0.0, 0.03)) for number in range(1, 13))
FIGURES = Figures(
    broker="kafka 4.1.1 at 127.0.0.1:9092",
    phase=Phase.RUNNING,
    elapsed=17.3,
    seconds=30,
    records_per_second=57.2,
    samples_per_second=12010,
    predictions_per_second=56.8,
    lag=3,
    keys_per_step=2.2,
    samples_per_step=430,
    commit_ms=4.26,
    latency_ms=61.4,
    pumps=PUMPS,
    fault=None,
    false_alarms=0,
)


def shown(figures: Figures, width: int = 100) -> str:
    console = Console(width=width, record=True, file=StringIO(), force_terminal=True)
    console.print(render(figures, width))
    return console.export_text()


def with_pump(number: int, **changes: object) -> Figures:
    pumps = list(PUMPS)
    pumps[number - 1] = replace(pumps[number - 1], **changes)
    return replace(FIGURES, pumps=tuple(pumps))


@pytest.mark.parametrize("width", [100, 80])
def test_all_figures_are_on_the_screen(width: int) -> None:
    text = shown(FIGURES, width)
    for figure in ("57", "12,010", "430", "4.3 ms", "61 ms", "kafka 4.1.1 at 127.0.0.1:9092", "running, 17 of 30 s", "pump-12"):
        assert figure in text
    assert "alarm" not in text


def test_a_fault_is_told_when_it_begins_and_again_when_it_is_heard() -> None:
    assert "All bearings are sound" in shown(FIGURES)
    begun = replace(FIGURES, fault=FaultFigures("pump-07", began=9.8, detected=None))
    assert "A bearing of pump-07 began to fail at 9.8 s; not yet heard." in shown(begun)
    heard = replace(FIGURES, fault=FaultFigures("pump-07", began=9.8, detected=11.5))
    assert "detected at 11.5 s: 1.7 s later." in shown(heard)


def test_an_alarm_marks_its_pump_alone() -> None:
    lines = [line for line in shown(with_pump(7, score=0.93, alarm=True)).splitlines() if "● alarm" in line]
    assert len(lines) == 1
    assert "pump-07" in lines[0]
    assert "0.93" in lines[0]


def test_a_pump_without_a_stream_is_stopped() -> None:
    (line,) = [line for line in shown(with_pump(4, score=None)).splitlines() if "stopped" in line]
    assert "pump-04" in line


@pytest.mark.parametrize("width", [20, 34, 60, 80, 83, 84, 110, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, shown(with_pump(7, score=1.0, alarm=True), width).splitlines())) <= width


def test_it_fits_a_terminal_of_80_by_24() -> None:
    assert len(shown(FIGURES, 80).splitlines()) <= 24


def test_what_is_missing_for_the_real_broker_is_on_the_screen() -> None:
    assert "needs Maven" in shown(replace(FIGURES, notice="the Kafka broker needs Maven"))


def test_without_a_terminal_one_line_says_it_all() -> None:
    line = summary(with_pump(7, score=0.93, alarm=True))
    assert "\n" not in line
    for figure in ("17.3 s", "57 records/s", "lag 3", "61 ms", "alarm: pump-07"):
        assert figure in line
    assert "no alarm" in summary(FIGURES)


def test_figures_that_are_not_known_yet_are_dashes() -> None:
    assert "end to end –" in summary(replace(FIGURES, latency_ms=None))


def test_a_sparkline_has_one_character_a_value() -> None:
    assert sparkline((0.0, 0.5, 1.0, 1.2)) == " ▄██"
