"""Whether this process may go on: transactions that came to nothing, and a newer process that has taken its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import structlog

from service.errors import Fenced, OutcomeUnknown, PenstockError, TransportUnavailable
from service.incarnation import Incarnation
from service.observe.metrics import Metrics

log = structlog.get_logger("penstock.standing")

_ASK_EVERY = 5.0  # seconds, after a loss, whether a newer process has our name
_ASK_TIMEOUT = 1.0
_ASK_AGAIN = 1.0  # seconds after a broker did not answer


class Standing:
    """Gives up, by raising, what must not go on. `unknown`: nobody knows what became of a transaction, so that the producer has to
    be replaced; `lost`: partitions were lost, and whether another process has our name is not known since."""

    def __init__(
        self,
        incarnation: Incarnation,
        max_failures: int,
        call_timeout: float,
        outage: float,
        metrics: Metrics,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.unknown = False
        self.lost = False
        self.failures = 0  # transactions in a row that were aborted, or whose outcome nobody learnt
        self.sleep = sleep
        self._incarnation = incarnation
        self._max_failures = max_failures
        self._call_timeout = call_timeout
        self._outage = outage
        self._metrics = metrics
        self._clock = clock
        self._fenced: Fenced | None = None
        self._ask_at = clock()
        self._away_since = self._away_at = -float("inf")

    def note_outage(self, error: TransportUnavailable) -> None:
        """The broker does not answer: wait a little, then start over, which is right whatever became of the transaction at hand.

        Raises the error where there has been no answer for longer than an outage may last, or too many transactions have failed.
        """
        self.note_away(error)
        if self._away_at - self._away_since > self._outage or self.failures > self._max_failures:
            raise error
        self.sleep(_ASK_AGAIN)

    def note_away(self, error: TransportUnavailable) -> None:
        """The same from within a rebalance, which has to come to its end first: neither waits nor raises."""
        now = self._clock()
        if now - self._away_at > self._outage:
            self._away_since = now
        self._away_at = now
        self.unknown = True
        log.warning("broker_unavailable", reason=str(error), since=round(now - self._away_since, 1))

    def note_commit(self) -> None:
        """All is well: neither outages nor failures before this one count any more."""
        self.failures = 0
        self._away_since = self._away_at = -float("inf")

    def count_failure(self, error: PenstockError) -> None:
        """Wait a little longer after each failure in a row; after too many, give up with `TransportUnavailable`."""
        self.failures += 1
        if self.failures > self._max_failures:
            raise TransportUnavailable(f"{self.failures} transactions in a row came to nothing; the last one because: {error}")
        if self.failures > 1:
            self.sleep(min(0.05 * 2 ** (self.failures - 2), 1.0))

    def note_unknown(self, error: OutcomeUnknown | Fenced) -> None:
        """The transaction's end is not known, or somebody else has ended it. Raises as `count_failure` does."""
        self.unknown = True
        if isinstance(error, Fenced):
            self._fenced = error
        self._metrics.outcome_unknown()
        log.warning("outcome_unknown", reason=str(error))
        self.count_failure(error)

    def confirm(self) -> bool:
        """Whether it was by fencing that the outcome became unknown: by an older process that woke up, or a timeout. It stays so
        until all is `settled`, since a member that was fenced never works again.

        Raises `Fenced` where a newer process of this instance has started: name and transactional id are its own then.
        """
        newer = "our transaction ended without us, and a newer process of this instance has started"
        self._check_name(self._fenced or Fenced(newer))
        return self._fenced is not None

    def settled(self) -> None:
        """There is a new producer, and tasks recover."""
        self.unknown = False
        self._fenced = None

    def check_loss(self, has_tasks: bool) -> None:
        """Once there are tasks again, and every few seconds until then: under KIP-848, where a newer process of our name holds our
        place in the group, there never are. Raises `Fenced`."""
        error = Fenced("the group gave this instance's place away, and a newer process of the same instance has started")
        if has_tasks:
            self._check_name(error)
        elif self._clock() >= self._ask_at:
            self._ask_at = self._clock() + _ASK_EVERY
            with contextlib.suppress(TransportUnavailable):
                if self._incarnation.superseded(_ASK_TIMEOUT):
                    raise error

    def _check_name(self, error: Fenced) -> None:
        if self._incarnation.superseded(self._call_timeout):
            raise error
        self.lost = False
