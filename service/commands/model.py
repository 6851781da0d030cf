"""`penstock model show` and `penstock model verify`."""

from __future__ import annotations

from rich.console import Console

from service.app import Application
from service.config import Config
from service.streaming import verify as verify_program


def show(config: Config) -> None:
    """Operators, receptive field, delay, bytes per key."""
    Console().print(Application.from_config(config).program.describe(), markup=False, highlight=False)


def verify(config: Config) -> None:
    """Streamed = offline on random chunkings, or the first difference as an error."""
    application = Application.from_config(config)
    verify_program(application.program, application.module)
    bits = "and the same bits for every chunking and company" if config.numerics.value == "exact" else ""
    Console().print(f"streamed equals offline, within 1e-5 of the largest output {bits}".rstrip())
