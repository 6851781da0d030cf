"""The local disk is a cache of the snapshot topic: a restart reads the rest, and a disk that cannot be trusted costs time alone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from service.app import required_topics
from service.errors import StateDiskFailed
from service.state import SnapshotDisk
from service.state.disk import Mark, Origin
from service.transport.interface import Partition, RecordBatch
from service.transport.memory import Fault, MemoryLog, MemoryTransport
from service.transport.memory.reader import MemoryReader
from tests.cluster import PARTITIONS, Cluster, Room, applications, with_room
from tests.faults.states import wrong_states

KEYS = [b"key-%d" % number for number in range(12)]
ROOM = Room(slots=4, memory_bytes=4000)
FILE = "snapshots.sqlite3"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def cluster(directory: Path) -> Cluster:
    """All keys have sent twice and were snapshotted, the disk has a mark, and some have sent once more."""
    cluster = Cluster({name: with_room(each, ROOM, directory) for name, each in applications().items()})
    cluster.start("one")
    for seconds in (3.0, 11.0):
        for key in KEYS:
            cluster.produce(key, 7)
        work(cluster)
        cluster.now += seconds
        cluster.work()
    for key in KEYS[:6]:
        cluster.produce(key, 5)
    cluster.publish(KEYS[0], None)
    work(cluster)
    return cluster


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which offset on each recovery has read a partition of the snapshot topic."""
    starts: list[int] = []
    original = MemoryReader.read

    def noted(self: MemoryReader, partition: Partition, start: int, stop: int, timeout: float) -> Iterator[RecordBatch]:
        if partition.topic == "app.snapshots":
            starts.append(start)
        return original(self, partition, start, stop, timeout)

    monkeypatch.setattr(MemoryReader, "read", noted)
    monkeypatch.setattr("service.audit.read._begun", lambda config, reader, number: 0)  # which reads that topic too
    return starts


def work(cluster: Cluster) -> None:
    for _ in range(200):
        if not cluster.lag():
            return
        cluster.work(turns=1)
    raise AssertionError(f"{cluster.lag()} records are still not committed")


def kill(cluster: Cluster) -> None:
    """The process is gone, and its file is as a kill leaves it: with SQLite's log beside it, without what was not yet committed."""
    disk = cluster.workers["one"].streams.cold.disk
    assert disk._db is not None
    assert disk._directory is not None
    kept = disk._directory.with_suffix(".kept")
    shutil.copytree(disk._directory, kept)
    disk._db.close()
    shutil.rmtree(disk._directory)
    kept.rename(disk._directory)
    cluster.crash("one")


def change(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / FILE, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def goes_on(cluster: Cluster) -> None:
    """Every stream goes on exactly where it was."""
    cluster.start("one")
    for key in KEYS:
        cluster.produce(key, 9)
    work(cluster)
    report = cluster.audit()
    assert report is not None
    assert report.passed(exact=True), report
    assert report.expected == 3 * len(KEYS) + 6


def test_a_restart_reads_only_what_came_after_the_mark(cluster: Cluster, read: list[int]) -> None:
    kill(cluster)
    goes_on(cluster)
    assert len(read) == PARTITIONS
    assert min(read) > 0


def test_a_clean_stop_and_a_restart_read_only_the_rest_too(cluster: Cluster, read: list[int]) -> None:
    cluster.stop("one")
    goes_on(cluster)
    assert min(read) > 0


def lost(directory: Path) -> None:
    shutil.rmtree(directory)


def truncated(directory: Path) -> None:
    change(directory, "PRAGMA journal_mode = DELETE")  # and its log is in the file
    path = directory / FILE
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size // 2)


def without_its_log(directory: Path) -> None:
    """The file without what SQLite has written beside it."""
    (directory / f"{FILE}-wal").unlink(missing_ok=True)


def overwritten(directory: Path) -> None:
    change(directory, "PRAGMA journal_mode = DELETE")
    (directory / FILE).write_bytes(b"no database at all" * 1000)


def an_older_one(directory: Path) -> None:
    """As it was when the mark stood at the topic's beginning, with nothing in it."""
    change(directory, "UPDATE marks SET position = 0", "DELETE FROM snapshots")


def beyond_the_log(directory: Path) -> None:
    change(directory, "UPDATE marks SET position = 1000000", "DELETE FROM snapshots")


def of_another_topic(directory: Path) -> None:
    change(directory, "UPDATE about SET value = 'another' WHERE name = 'topic'", "DELETE FROM snapshots")


def of_another_fingerprint(directory: Path) -> None:
    change(directory, "UPDATE about SET value = 'another' WHERE name = 'fingerprint'", "DELETE FROM snapshots")


def of_long_ago(directory: Path) -> None:
    """Tombstones may be gone from the topic: whoever ended since would live on here."""
    change(directory, "UPDATE marks SET at = at - 86400.0 / 2 - 1", "DELETE FROM snapshots")


def of_the_future(directory: Path) -> None:
    change(directory, "UPDATE marks SET at = at + 1000000", "DELETE FROM snapshots")


@pytest.mark.parametrize(
    "harm",
    [
        lost,
        truncated,
        without_its_log,
        overwritten,
        an_older_one,
        beyond_the_log,
        of_another_topic,
        of_another_fingerprint,
        of_long_ago,
        of_the_future,
    ],
)
def test_a_disk_that_cannot_be_trusted_costs_time_and_no_data(
    cluster: Cluster, directory: Path, read: list[int], harm: Callable[[Path], None]
) -> None:
    kill(cluster)
    harm(directory)
    goes_on(cluster)
    assert min(read) == 0


def test_a_disk_that_is_damaged_later_ends_the_process_and_the_next_start_reads_the_topic(
    cluster: Cluster, directory: Path, read: list[int]
) -> None:
    kill(cluster)
    change(directory, "UPDATE snapshots SET data = CAST(substr(data, 1, length(data) - 1) || x'55' AS BLOB)")
    with pytest.raises(StateDiskFailed, match="checksum"):
        goes_on(cluster)
    assert not (directory / FILE).exists()
    cluster.crash("one")
    read.clear()
    cluster.start("one")
    work(cluster)
    report = cluster.audit()
    assert report is not None
    assert report.passed(exact=True), report
    assert min(read) == 0


def test_damage_to_the_first_bytes_is_no_stream_that_begins_anew(cluster: Cluster, directory: Path) -> None:
    kill(cluster)
    change(
        directory, "UPDATE snapshots SET data = CAST(x'00000000' || substr(data, 5) AS BLOB) WHERE substr(data, 1, 4) = x'50534E50'"
    )
    with pytest.raises(StateDiskFailed):
        goes_on(cluster)
    assert not (directory / FILE).exists()


def test_what_an_aborted_end_has_hidden_is_found_on_the_disk_again(cluster: Cluster) -> None:
    """All are frozen and clean, so each is thawed for its end, and only the disk has it afterwards."""
    cluster.now += 3.0
    cluster.work()
    for key in KEYS:
        cluster.log.inject(Fault.ABORT_AT_COMMIT)
        cluster.publish(key, None)
        work(cluster)
    assert {value for key, value in dict(cluster.snapshots()).items()} == {None}
    cluster.stop("one")
    assert wrong_states(cluster.applications["one"], cluster.transport) == []


def test_a_disk_that_another_process_uses_is_left_alone(cluster: Cluster, directory: Path, read: list[int]) -> None:
    ending = cluster.workers.pop("one")  # and has the file still open
    before = (directory / FILE).stat().st_size
    goes_on(cluster)
    assert min(read) == 0
    assert (directory / FILE).stat().st_size >= before
    ending.streams.close()


def test_without_the_right_to_read_the_topics_settings_the_disk_is_not_used(directory: Path) -> None:
    application = with_room(applications()["one"], ROOM, directory)
    log = MemoryLog()
    transport = MemoryTransport(log)
    *others, snapshots = required_topics(application.config, PARTITIONS)
    transport.admin().create([*others, replace(snapshots, config={"cleanup.policy": "compact"})], 1.0)
    worker = application.worker(transport)
    assert not worker.streams.cold.disk.complete
    assert not directory.exists()
    worker.close()


def test_a_mark_is_proven_by_the_next_commit_and_by_no_other(cluster: Cluster) -> None:
    """What was seen of the log's end before the partitions were lost proves nothing: somebody else may have written there."""
    worker = cluster.workers["one"]
    before = {task: worker.streams.cold.disk.mark(task) for task in range(PARTITIONS)}
    cluster.now += 11.0
    for key in KEYS:
        cluster.produce(key, 3)
    while not worker.commits.landmarks._seen:  # the end is looked up with a commit
        cluster.work(turns=1)
    worker.commits.landmarks.forget([0])
    for key in KEYS:
        cluster.produce(key, 3)
    work(cluster)
    after = {task: worker.streams.cold.disk.mark(task) for task in range(PARTITIONS)}
    assert after[0] == before[0]
    assert after[1] is not None
    assert before[1] is not None
    assert after[1].position > before[1].position


def test_marks_read_back_and_a_mark_brings_along_what_was_put_before_it(directory: Path) -> None:
    origin = Origin("topic", "print", 10.0)
    disk = SnapshotDisk(directory, origin)
    disk.put(3, [(b"a", b"1"), (b"b", b"2"), (b"a", None), (b"c", b"3")])
    mark = Mark(7, True, 5, 100.0, (25.0, 1000.0))
    disk.set_mark(3, mark)
    disk.put(3, [(b"c", b"4")])
    assert disk._db is not None
    disk._db.execute("ROLLBACK")
    disk.close()
    disk = SnapshotDisk(directory, origin)
    assert disk.get(3, [b"a", b"b", b"c"]) == {b"b": b"2", b"c": b"3"}
    assert (disk.mark(3), disk.mark(4)) == (mark, None)
    assert (disk.trusted(3, 110.0), disk.trusted(3, 110.1), disk.trusted(3, 99.0)) == (mark, None, None)
    disk.close()


def test_a_file_for_what_memory_does_not_hold_goes_with_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    disk = SnapshotDisk()
    assert disk.get(0, [b"a"]) == {}
    disk.put(0, [(b"a", b"1")])
    disk.put(0, [(b"%d" % number, bytes(1000)) for number in range(20_000)])  # more than SQLite's cache
    assert disk.get(0, [b"a", b"19999"]) == {b"a": b"1", b"19999": bytes(1000)}
    assert list(tmp_path.iterdir()) == []  # nothing that a kill could leave behind
    disk.dropped(0)
    assert disk.get(0, [b"a"]) == {}
    disk.close()
