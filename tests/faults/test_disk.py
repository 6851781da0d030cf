"""Row 19: the local disk of snapshots is lost, old, another topic's, or cut short. That costs time, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Judged, Scenes

pytestmark = pytest.mark.broker


def lost(disk: Path, earlier: Path, foreign: Path) -> None:
    shutil.rmtree(disk)


def stale(disk: Path, earlier: Path, foreign: Path) -> None:
    shutil.rmtree(disk)
    shutil.copytree(earlier, disk)


def another_topics(disk: Path, earlier: Path, foreign: Path) -> None:
    shutil.rmtree(disk)
    shutil.copytree(foreign, disk)


def truncated(disk: Path, earlier: Path, foreign: Path) -> None:
    for path in disk.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [lost, stale, another_topics, truncated])
def test_a_disk_that_is_not_what_it_was(
    scenes: Scenes, judged: Judged, tmp_path: Path, harm: Callable[[Path, Path, Path], None]
) -> None:
    disk, earlier, foreign = tmp_path / "disk", tmp_path / "earlier", tmp_path / "foreign"
    with scenes(static=False, state={"directory": str(foreign)}) as other:
        other.publish(100)
        worker = other.worker()
        other.work_off(worker)
        other.leave(worker)
    with scenes(static=False, snapshots="1s", state={"directory": str(disk)}, seed=19) as play:
        for number in range(2):
            play.publish(150)
            worker = play.worker()
            play.work_off(worker)
            play.leave(worker)
            if number == 0:
                shutil.copytree(disk, earlier)
        harm(disk, earlier, foreign)
        play.publish(150)
        worker = play.worker()
        play.work_off(worker)
        play.leave(worker)
        judged(play, 19, f"a disk: {harm.__name__.replace('_', ' ')}", 1)
