"""Where the figures go: a live view on a terminal, a line now and then elsewhere, nowhere where only the result is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from service.demo.view import Figures, Phase, render, summary

Show = Callable[[Figures], None]

_LINE_SECONDS = 5.0


@contextmanager
def screen(console: Console) -> Iterator[Show]:
    """A function that shows figures on `console`, for as long as the `with` block lasts."""
    if console.quiet:
        yield lambda figures: None
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda figures: live.update(render(figures, console.width), refresh=True)
    else:
        yield _Lines(console)


class _Lines:
    """A line every few seconds, and one at each change of phase."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0
        self._phase = Phase.RUNNING

    def __call__(self, figures: Figures) -> None:
        if figures.elapsed >= self._due or figures.phase is not self._phase:
            self._due, self._phase = figures.elapsed + _LINE_SECONDS, figures.phase
            self._console.print(summary(figures), highlight=False, soft_wrap=True)
