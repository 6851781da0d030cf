"""The tree of exceptions, named by how one recovers.

    PenstockError
    ├── ConfigurationError     the operator changes a setting             exit 2
    │   └── DeviceRefused      ... which device                           exit 2
    ├── NotExact               a program and its module differ            exit 1
    ├── OperatorActionRequired the log or its topics contradict the state exit 1
    ├── TransportUnavailable   the broker cannot be reached in time       exit 1
    ├── StateDiskFailed        the local cache of snapshots fails           exit 1
    ├── Fenced                 another instance has taken over            exit 3
    ├── StepFailed             roll back in memory and look for the record at fault; exit 1 where it is none's
    ├── EpochAborted           roll back in memory and feed again
    ├── OutcomeUnknown         replace the producer, then recover
    └── OffsetsPending         ask again: an open transaction holds them

Errors of the engine (`NotStreamable`, `StreamLengthError`, `FrameRefused`, `SnapshotMismatch`) are here too, so that one file shows
them all.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of every error that penstock raises on purpose."""


class ConfigurationError(PenstockError):
    """A setting is wrong; the message gives its path, what was found and what is allowed."""


class DeviceRefused(ConfigurationError, ValueError):
    """A program cannot run on the device that is asked for; the message says why, and what to use."""


class NotExact(PenstockError):
    """A program does not do what its module does; the message gives the first difference. Please report it."""


class OperatorActionRequired(PenstockError):
    """Going on would lose or repeat data; the message says what contradicts what, and the ways out."""


class TransportUnavailable(PenstockError):
    """The broker did not answer in time, or refused for a reason that retrying cannot mend."""


class StateDiskFailed(PenstockError):
    """The local disk with frozen streams cannot be read or written; nothing is lost, since the snapshot topic has them too."""


class Fenced(PenstockError):
    """Another process holds this transactional id or this group instance id; this one must stop and write nothing more."""


class StepFailed(PenstockError):
    """The network raised in a step, or memory ran out in it; the cause is chained. The state may be half changed."""


class EpochAborted(PenstockError):
    """The transaction must be aborted; memory is rolled back and the epoch's records are fed again."""


class OutcomeUnknown(PenstockError):
    """Nobody can tell whether the commit happened; a new producer settles it, then the tasks recover from the log."""


class OffsetsPending(PenstockError):
    """Committed offsets are behind somebody's open transaction; ask again, never take it for "no offset"."""


class NotStreamable(PenstockError):
    """A module cannot be streamed exactly; the message names the node, its source line and the remedy."""


class StreamLengthError(PenstockError):
    """Streams ended at a length at which the offline module raises too.

    `slots` lists the slots concerned; no state was changed.
    """

    def __init__(self, message: str, slots: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.slots = slots


class FrameRefused(PenstockError):
    """A frame holds a number that the network cannot take, such as an index without a row; no state was changed.

    `slot` is that of its stream, `frame` its absolute index there.
    """

    def __init__(self, message: str, slot: int, frame: int) -> None:
        super().__init__(message)
        self.slot = slot
        self.frame = frame


class SnapshotMismatch(PenstockError):
    """A snapshot is damaged, or belongs to a program with another state."""


class SnapshotDamaged(SnapshotMismatch):
    """Its bytes are not what was written; nothing is wrong with the program."""
