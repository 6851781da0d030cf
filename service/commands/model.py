"""`penstock model show` and `penstock model verify`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from service.app import Application
from service.config import Config, Numerics
from service.errors import NotExact
from service.nn.window import OnWindows
from service.streaming import verify as verify_program
from service.streaming.device.launches import depends_on_data


def show(config: Config) -> None:
    """Receptive field, delay, bytes per key, and the graph."""
    program = Application.from_config(config).program
    rate = config.input.rate
    field = program.receptive_field
    facts = {
        "channels": f"{program.channels} in, {program.out_channels} out",
        "rate": f"{rate:g} Hz in, {rate / program.decimation:g} Hz out",
        "receptive field": "all samples since the stream began" if field is None else _samples(field, rate),
        "delay": _samples(program.delay, rate),
        "history": _samples(program.history, rate),
        "cost": f"{program.work:,.0f} multiply-adds per sample, {program.work * rate / 1e6:,.1f} million per second and key",
        "state per key": f"{program.bytes_per_slot / 1024:.1f} KiB in memory",
        "numerics": config.numerics.value,
        "precision": config.model.precision,
        "device": str(program.device),
    }
    if program.accelerator is not None:
        anew = [node.name for node in program.graph.nodes if depends_on_data(node)]
        facts["outside CUDA graphs"] = ", ".join(anew) or "nothing"
    for node in program.graph.nodes:
        if isinstance(node.operator, OnWindows):
            window = node.operator.window
            facts["windows"] = f"{_samples(len(window.offsets), rate)}, every {_samples(window.stride, rate)}"
            facts["windows at a time"] = node.operator.sizes_of_batches
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
    print(f"\n{program.describe()}")


def verify(config: Config) -> None:
    """Streamed = offline on random chunkings, or the first difference as an error."""
    application = Application.from_config(config)
    try:
        verify_program(application.program, application.module)
    except AssertionError as error:
        raise NotExact(f"streamed and offline differ: {error}") from error
    exact = config.numerics is Numerics.EXACT
    also = ", and the same bits for every chunking and company" if exact else ""
    print(f"streamed equals offline, within {application.program.precision.tolerance:g} of the largest output{also}")


def _samples(count: int, rate: float) -> str:
    return f"{count} samples, {1000 * count / rate:g} ms"
