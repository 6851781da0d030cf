"""Slots, snapshots, dirty tracking, and the way back when an epoch is aborted."""

from service.state.dirty import SnapshotPolicy, replay_from
from service.state.snapshot import Snapshot
from service.state.streams import Streams
from service.state.table import CLEAN, FREE, SlotTable

__all__ = ["CLEAN", "FREE", "SlotTable", "Snapshot", "SnapshotPolicy", "Streams", "replay_from"]
