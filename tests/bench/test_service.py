"""What `penstock bench service` reports, and that penstock passes it on a real broker."""

from pathlib import Path

import pytest

from service.bench.load import Load
from service.bench.measure import Throughput
from service.bench.service import Bench, Comparison, Figure, compare
from service.demo.broker import KafkaNode


def figure(name: str, *rates: float) -> Figure:
    return Figure(name, [Throughput(records=1000, seconds=1000 / rate, startup=2.0) for rate in rates])


def test_a_ratio_is_that_of_the_median_rounds() -> None:
    line = Comparison("network", figure("penstock", 100, 400, 300), [figure("quix", 10), figure("other", 600, 500, 900)]).line()
    assert line["penstock"]["records_per_second"] == 300
    assert line["penstock"]["rounds"] == [100, 400, 300]
    assert {name: peer["ratio"] for name, peer in line["peers"].items()} == {"quix": 30.0, "other": 0.5}


@pytest.mark.broker
def test_penstock_runs_both_jobs_and_its_outputs_are_the_modules(kafka: KafkaNode, tmp_path: Path) -> None:
    said: list[str] = []
    load = Load(records=100_000, keys=100)  # long enough for several commits to be seen
    network, through = compare(Bench(kafka.bootstrap, tmp_path, said.append), load, rounds=1, python=None)
    assert (network.case, through.case) == ("network", "pass-through")
    assert network.subject.records_per_second > 0
    assert sum("outputs verified" in line for line in said) == 2
