"""A consumer group: members, generations, range assignment, committed offsets.

A rebalance is eager, as in the classic protocol: every member gives all its partitions up at its next poll, and once all have,
a new generation begins. Nothing happens by time: `expire` ends a member's session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count

from service.transport.interface import Committed, Partition
from service.transport.memory.partition import Transaction


class Standing(Enum):
    """A member's place in the group."""

    JOINED = auto()
    WAITING = auto()  # gave its partitions up, the next generation has not begun
    EXPIRED = auto()  # its session ended; it may join anew
    FENCED = auto()  # another process joined under its instance name


@dataclass(eq=False, slots=True)
class Member:
    """One process of a group; `identity` is new with each joining, `instance` stays."""

    identity: str
    instance: str
    topics: tuple[str, ...]
    standing: Standing = Standing.WAITING
    generation: int = -1
    assignment: tuple[Partition, ...] = ()


@dataclass(eq=False, slots=True)
class Group:
    """Members and offsets. `partitions` says how many partitions a topic has, 0 where there is none."""

    name: str
    partitions: Callable[[str], int]
    generation: int = 0
    rebalancing: bool = False
    members: list[Member] = field(default_factory=list)
    committed: dict[Partition, Committed] = field(default_factory=dict)
    pending: dict[Transaction, dict[Partition, Committed]] = field(default_factory=dict)
    _identities: count[int] = field(default_factory=lambda: count(1))

    def join(self, instance: str, topics: Sequence[str], static: bool) -> Member:
        """A new member; a static one takes the place of its predecessor without a rebalance."""
        member = Member(f"{instance}-{next(self._identities)}", instance, tuple(topics))
        predecessor = self._find(instance) if static else None
        if predecessor is None:
            self.members.append(member)
            self.rebalancing = True
        else:
            self.members[self.members.index(predecessor)] = member
            predecessor.standing = Standing.FENCED
            if predecessor.topics == member.topics and predecessor.generation >= 0:
                member.generation, member.assignment = predecessor.generation, predecessor.assignment
                member.standing = Standing.JOINED
            else:
                self.rebalancing = True
        return member

    def leave(self, member: Member) -> None:
        """The others share what this member had."""
        if member in self.members:
            self.members.remove(member)
            self.rebalancing = True
            self.advance()

    def expire(self, instance: str) -> None:
        """The session of the member with this instance name ends, as when its process died."""
        member = self._find(instance)
        if member is not None:
            member.standing = Standing.EXPIRED
            self.leave(member)

    def give_up(self, member: Member) -> None:
        """The member has revoked what it had and waits for the next generation."""
        if member.standing is Standing.JOINED:
            member.assignment = ()
            member.standing = Standing.WAITING
            self.advance()

    def advance(self) -> None:
        """Begin the next generation once every member waits for it."""
        if not self.rebalancing or any(member.standing is not Standing.WAITING for member in self.members):
            return
        self.rebalancing = False
        self.generation += 1
        shares = assign_range(self.members, self.partitions)
        for member in self.members:
            member.generation = self.generation
            member.assignment = tuple(shares[member.identity])
            member.standing = Standing.JOINED

    def accepts(self, identity: str, generation: int) -> bool:
        """Whether offsets may be committed in this member's name at this generation."""
        return any(member.identity == identity and member.generation == generation >= 0 for member in self.members)

    def settle(self, transaction: Transaction, commit: bool) -> None:
        """The offsets of an ended transaction become the group's, or vanish."""
        offsets = self.pending.pop(transaction, {})
        if commit:
            self.committed.update(offsets)

    def holds_back(self, partitions: Sequence[Partition]) -> bool:
        """Whether an open transaction carries offsets of any of these."""
        return any(partition in offsets for offsets in self.pending.values() for partition in partitions)

    def _find(self, instance: str) -> Member | None:
        return next((member for member in self.members if member.instance == instance), None)


def assign_range(members: Sequence[Member], partitions: Callable[[str], int]) -> Mapping[str, list[Partition]]:
    """Each member's contiguous share of each topic, members in the order of their instance names."""
    shares: dict[str, list[Partition]] = {member.identity: [] for member in members}
    for topic in sorted({topic for member in members for topic in member.topics}):
        readers = sorted((m for m in members if topic in m.topics), key=lambda member: (member.instance, member.identity))
        quotient, remainder = divmod(partitions(topic), len(readers))
        first = 0
        for place, member in enumerate(readers):
            share = quotient + (place < remainder)
            shares[member.identity].extend(Partition(topic, number) for number in range(first, first + share))
            first += share
    return shares
