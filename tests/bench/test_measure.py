"""How a rate comes from what a group has committed."""

import signal
import sys
from pathlib import Path

import pytest

from service.bench.measure import Progress, Throughput, running, throughput
from service.errors import PenstockError


def test_the_rate_is_taken_from_the_first_commit_seen_to_the_last() -> None:
    progress = [Progress(10, 0), Progress(14, 0), Progress(15, 100), Progress(16, 100), Progress(17, 900), Progress(99, 900)]
    measured = throughput(started=9, progress=progress)
    assert measured == Throughput(records=800, seconds=2, startup=6)
    assert measured.records_per_second == 400


def test_a_program_that_has_committed_at_the_first_look_counts_from_there() -> None:
    assert throughput(0, [Progress(1, 50), Progress(2, 80)]) == Throughput(30, 1, 1)


def test_one_commit_makes_no_rate() -> None:
    with pytest.raises(ValueError, match="1 commits were seen"):
        throughput(0, [Progress(1, 0), Progress(2, 100), Progress(3, 100)])


def test_a_program_that_ends_early_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such topic'); raise SystemExit(3)"]
    with running("peer", command, tmp_path / "log") as program:
        program.process.wait(30)
        with pytest.raises(PenstockError, match=r"peer ended with 3 (?s:.*)no such topic"):
            program.expect_running()


def test_a_program_is_stopped_at_the_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with running("peer", command, tmp_path / "log") as program:
        program.expect_running()
    assert program.process.poll() is not None


def test_a_program_is_stopped_when_the_bench_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, running("peer", command, tmp_path / "log") as program:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert program.process.poll() is not None
    assert signal.getsignal(signal.SIGTERM) is before
