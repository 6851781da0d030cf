"""Slots, snapshots, dirty tracking, what lies frozen, and the way back when an epoch is aborted."""

from service.state.cold import ColdStreams, Frozen
from service.state.dirty import SnapshotPolicy, replay_from
from service.state.disk import Mark, Origin, SnapshotDisk
from service.state.snapshot import Snapshot
from service.state.streams import Chosen, Packed, Streams
from service.state.table import CLEAN, FREE, SlotTable

__all__ = [
    "CLEAN",
    "FREE",
    "Chosen",
    "ColdStreams",
    "Frozen",
    "Mark",
    "Origin",
    "Packed",
    "SlotTable",
    "Snapshot",
    "SnapshotDisk",
    "SnapshotPolicy",
    "Streams",
    "replay_from",
]
