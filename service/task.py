"""A task: all that belongs to one partition number of the input, and its life cycle.

    CREATED ──▶ RESTORING ──▶ REPLAYING ──▶ LIVE ──▶ CLOSED_CLEAN
       │          │    └──────────│──────────▲ │          ┊
       │          │               │            │      the same task, assigned again with the offsets it left
       └──────────┴───────────────┴────────────┴──▶ CLOSED_DIRTY

CREATED: assigned, nothing known. RESTORING: committed offset, metadata and snapshots are being read. REPLAYING: committed input
is fed again with outputs suppressed. LIVE: new input, outputs published. A task whose replay range is empty goes from RESTORING
to LIVE. CLOSED_CLEAN: memory is what our last commit said, and a task that comes back with those very offsets goes on from
memory. CLOSED_DIRTY: memory is worth nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum

import orjson

from service.errors import OperatorActionRequired
from service.quarantine import Suspicion
from service.rebuild import Rebuild
from service.refused import RefusedRecords
from service.transport.interface import Committed, Partition


class Phase(Enum):
    CREATED = "created"
    RESTORING = "restoring"
    REPLAYING = "replaying"
    LIVE = "live"
    CLOSED_CLEAN = "closed_clean"
    CLOSED_DIRTY = "closed_dirty"


LEGAL = {
    Phase.CREATED: {Phase.RESTORING, Phase.CLOSED_DIRTY},
    Phase.RESTORING: {Phase.REPLAYING, Phase.LIVE, Phase.CLOSED_DIRTY},
    Phase.REPLAYING: {Phase.LIVE, Phase.CLOSED_DIRTY},
    Phase.LIVE: {Phase.CLOSED_CLEAN, Phase.CLOSED_DIRTY},
    Phase.CLOSED_CLEAN: set[Phase](),
    Phase.CLOSED_DIRTY: set[Phase](),
}


@dataclass(slots=True)
class Task:
    """Offsets of one task. `committed` and `metadata` are what the group holds; `live_at` the first record whose outputs are
    published; `next_offset` the first record not yet fed; `refused` those that must not be fed (again). `rebuild` are the keys
    whose damaged snapshots the next commit replaces."""

    number: int
    input: Partition
    phase: Phase = Phase.CREATED
    committed: int = -1
    metadata: str = ""
    live_at: int = -1
    next_offset: int = -1
    refused: RefusedRecords = field(default_factory=RefusedRecords)
    suspicion: Suspicion = field(default_factory=Suspicion)
    rebuild: Rebuild | None = None

    def enter(self, phase: Phase) -> None:
        """Raises `AssertionError` for a step that the drawing does not show."""
        if phase not in LEGAL[self.phase]:
            raise AssertionError(f"task {self.number} cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    @property
    def live(self) -> bool:
        return self.phase is Phase.LIVE

    def left(self) -> Committed | None:
        """What the group held when the task closed, where memory was true to it; None where there is nothing to come back to."""
        return Committed(self.committed, self.metadata) if self.phase is Phase.CLOSED_CLEAN and self.metadata else None


@dataclass(frozen=True, slots=True)
class OffsetMetadata:
    """What is committed beside each offset, in the same transaction; Kafka allows 4 KB. `writer` is the process that committed,
    `commit` counts its commits, so that no two are alike: one may have written snapshots and moved nothing."""

    replay_from: int
    partitions: int
    fingerprint: str
    writer: str = ""
    commit: int = 0

    def to_text(self) -> str:
        return orjson.dumps({"v": 1} | asdict(self)).decode()

    @classmethod
    def from_text(cls, text: str) -> OffsetMetadata:
        """Raises `OperatorActionRequired` for metadata that penstock did not write."""
        try:
            found = orjson.loads(text)
            if found["v"] == 1:
                return cls(
                    int(found["replay_from"]),
                    int(found["partitions"]),
                    str(found["fingerprint"]),
                    str(found.get("writer", "")),
                    int(found.get("commit", 0)),
                )
        except (ValueError, KeyError, TypeError):
            pass
        raise OperatorActionRequired(
            f"the metadata beside the committed offset was not written by this version of penstock ({len(text)} characters). "
            "Something else commits offsets for this group: give the application a group of its own, or stop the other writer."
        )
