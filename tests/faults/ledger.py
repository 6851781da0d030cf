"""What the fault suite has done and seen, a line for each scenario."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.audit import AuditReport


@dataclass(frozen=True, slots=True)
class Entry:
    """`row` is the fault's number in docs/exactly-once.md; `states` says that every key's last state was what the whole input makes
    it, None where the scenario ends without a clean stop."""

    row: int
    scenario: str
    faults: int
    records: int
    predictions: int
    missing: int
    duplicates: int
    unexpected: int
    out_of_order: int
    bit_equal: bool
    states: bool | None
    seconds: float

    @classmethod
    def of(cls, row: int, scenario: str, faults: int, report: AuditReport, states: bool | None, seconds: float) -> Entry:
        return cls(
            row,
            scenario,
            faults,
            report.records,
            report.expected,
            report.missing + report.letters_missing,
            report.duplicates,
            report.unexpected + report.letters_unexpected,
            report.out_of_order,
            report.bit_equal,
            states,
            round(seconds, 1),
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """A contradiction that has to end in an error: after how many seconds it did, and what was written for all that (records in the
    output and dead-letter topics, snapshots, moved offsets)."""

    row: int
    scenario: str
    seconds: float
    written: int


@dataclass(slots=True)
class Ledger:
    entries: list[Entry] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    def tables(self) -> list[str]:
        """As Markdown, which is readable in a terminal too."""
        found = [_table(Entry, self.entries), _table(Refused, self.refusals)]
        return [line for lines in found if lines for line in [*lines, ""]]

    def write(self, path: Path) -> None:
        """`path` with `.md` and with `.json`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".md").write_text("\n".join(self.tables()))
        found = {"judged": [asdict(entry) for entry in self.entries], "refused": [asdict(entry) for entry in self.refusals]}
        path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def _table(kind: type[Entry] | type[Refused], entries: Sequence[Entry] | Sequence[Refused]) -> list[str]:
    if not entries:
        return []
    names = [part.name for part in fields(kind)]
    rows = [[_shown(getattr(entry, name)) for name in names] for entry in sorted(entries, key=lambda e: (e.row, e.scenario))]
    heads = [name.replace("_", " ") for name in names]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(names))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
