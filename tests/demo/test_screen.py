"""Where figures go on a terminal, in a pipe, and where only the result is wanted."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from service.demo.screen import screen
from service.demo.view import Phase
from tests.demo.test_view import FIGURES


def test_in_a_pipe_there_is_a_line_every_few_seconds_and_at_every_change_of_phase() -> None:
    written = StringIO()
    with screen(Console(file=written, width=40)) as show:
        for tenth in range(120):
            show(replace(FIGURES, elapsed=tenth / 10))
        show(replace(FIGURES, elapsed=12.0, phase=Phase.AUDITING))
    lines = written.getvalue().splitlines()
    assert [line.split(" · ")[0].strip() for line in lines] == ["0.0 s", "5.0 s", "10.0 s", "12.0 s"]
    assert "auditing" in lines[-1]


def test_on_a_terminal_the_view_is_redrawn_in_place() -> None:
    written = StringIO()
    with screen(Console(file=written, width=100, force_terminal=True)) as show:
        show(FIGURES)
        show(replace(FIGURES, lag=77))
    assert "77" in written.getvalue()
    assert "\x1b[1A" in written.getvalue()


def test_where_only_the_result_is_wanted_nothing_is_shown() -> None:
    written = StringIO()
    with screen(Console(file=written, quiet=True)) as show:
        show(FIGURES)
    assert written.getvalue() == ""
