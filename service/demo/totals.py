"""What the demo has counted so far, and the rates and means between two such counts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from service.observe.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts `at` (seconds) since the beginning, or, as a difference of two, within `at` seconds."""

    at: float = 0.0
    records: float = 0.0
    samples: float = 0.0
    predictions: float = 0.0
    steps: float = 0.0
    step_keys: float = 0.0
    step_samples: float = 0.0
    commits: float = 0.0
    commit_seconds: float = 0.0

    @classmethod
    def read(cls, at: float, records: int, samples: int, predictions: int, metrics: Metrics) -> Totals:
        """What was sent and what came back, beside what the worker says of its steps and commits."""

        def value(name: str) -> float:
            return metrics.registry.get_sample_value(f"penstock_{name}") or 0.0

        return cls(
            at,
            records,
            samples,
            predictions,
            steps=value("batch_keys_count"),
            step_keys=value("batch_keys_sum"),
            step_samples=value("batch_samples_sum"),
            commits=value("commit_seconds_count"),
            commit_seconds=value("commit_seconds_sum"),
        )

    def __sub__(self, before: Totals) -> Totals:
        return Totals(*(getattr(self, field.name) - getattr(before, field.name) for field in fields(self)))

    @property
    def records_per_second(self) -> float:
        return _ratio(self.records, self.at)

    @property
    def samples_per_second(self) -> float:
        return _ratio(self.samples, self.at)

    @property
    def predictions_per_second(self) -> float:
        return _ratio(self.predictions, self.at)

    @property
    def keys_per_step(self) -> float:
        return _ratio(self.step_keys, self.steps)

    @property
    def samples_per_step(self) -> float:
        return _ratio(self.step_samples, self.steps)

    @property
    def commit_ms(self) -> float | None:
        """The mean of snapshots, offsets and commit of one transaction; None where there was none."""
        return 1000 * self.commit_seconds / self.commits if self.commits else None


def _ratio(count: float, of: float) -> float:
    return count / of if of > 0 else 0.0
