"""`penstock audit`: proof, for what the group has committed."""

from __future__ import annotations

import orjson
from rich.console import Console
from rich.table import Table

from service.app import Application
from service.audit import AuditReport
from service.audit.read import audit as read_and_judge
from service.config import Config, Numerics
from service.extent import EVERYTHING, Extent
from service.transport.interface import Transport


def audit(config: Config, transport: Transport, as_json: bool, extent: Extent = EVERYTHING) -> bool:
    """Print the verdict on `extent`; True where all is right."""
    report = read_and_judge(Application.from_config(config), transport, extent)
    passed = report.passed(exact=config.numerics is Numerics.EXACT)
    if as_json:
        print(orjson.dumps(report.to_dict() | {"passed": passed}).decode())
    else:
        Console().print(verdict(report, passed))
    return passed


def verdict(report: AuditReport, passed: bool) -> Table:
    table = Table(title=f"audit: {'passed' if passed else 'FAILED'}", title_style="bold green" if passed else "bold red")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in report.to_dict().items():
        if name != "examples":
            table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    for example in report.examples:
        table.add_row("", example)
    counts_right = report.missing + report.unexpected + report.duplicates == 0
    if counts_right and not (report.within_tolerance and report.bit_equal):
        table.add_row("", "Only values differ: have weights or settings been changed since these were published?")
    return table
