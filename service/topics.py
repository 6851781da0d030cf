"""The topics of an application."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topics:
    """Where an epoch writes, and in whose name."""

    output: str
    dead_letters: str
    snapshots: str
    app: str = ""
