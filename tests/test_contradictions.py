"""What contradicts the log ends loudly, with the way out."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from service.app import Application, required_topics
from service.errors import OperatorActionRequired
from service.transport.interface import Committed, Partition, TopicDescription
from service.transport.memory.reader import MemoryReader
from service.transport.partitioning import partition_of
from tests.applications import configured
from tests.cluster import PARTITIONS, Cluster, applications, audited


class TestContradictionsEndLoudly:
    """Rule 7: never a silent reset; and nothing is written."""

    @pytest.fixture
    def stopped(self, cluster: Cluster) -> Cluster:
        for _ in range(3):
            for key in (b"a", b"b", b"c", b"d"):
                cluster.produce(key, 7)
            cluster.work(turns=3)
        cluster.stop("one")
        return cluster

    def refuses(self, cluster: Cluster, message: str) -> None:
        before = len(cluster.read("out"))
        cluster.produce(b"a", 7)
        cluster.start("one")
        with pytest.raises(OperatorActionRequired, match=message):
            cluster.work()
        cluster.workers.pop("one").close()
        assert len(cluster.read("out")) == before

    def test_committed_offset_below_the_log(self, stopped: Cluster) -> None:
        for number in range(PARTITIONS):
            partition = Partition("in", number)
            stopped.produce(b"a", 7)
            stopped.produce(b"b", 7)
            stopped.log.delete_before(partition, stopped.log.partition(partition).end)
        self.refuses(stopped, "below the log's first offset")

    def test_committed_offset_above_the_log(self, stopped: Cluster) -> None:
        """The topic was deleted and made again, or another tool has moved the offset."""
        for number in range(PARTITIONS):
            where = Partition("in", number)
            old = stopped.log.group("app").committed[where]
            end = stopped.log.partition(where).end
            stopped.log.group("app").committed[where] = Committed(end + 100, old.metadata)
        self.refuses(stopped, "above the log's end")

    def test_an_offset_that_another_tool_has_reset_carries_no_metadata(self, stopped: Cluster) -> None:
        for number in range(PARTITIONS):
            stopped.log.group("app").committed[Partition("in", number)] = Committed(0, "")
        self.refuses(stopped, "carries no metadata")

    def test_a_replay_range_that_retention_has_eaten(self, cluster: Cluster) -> None:
        for _ in range(2):
            cluster.produce(b"a", 7)
            cluster.work()
        cluster.crash("one")
        where = Partition("in", partition_of(b"a", PARTITIONS))
        cluster.log.delete_before(where, 1)
        self.refuses(cluster, "records from 0 on must be replayed, but the log begins at 1")

    def test_offsets_gone_while_snapshots_exist(self, stopped: Cluster) -> None:
        stopped.log.forget_offsets("app", [Partition("in", number) for number in range(PARTITIONS)])
        self.refuses(stopped, "no committed offset")

    def test_offsets_gone_after_every_key_has_ended(self, cluster: Cluster) -> None:
        """No snapshot is left by then; what the first commit left behind tells that there were some."""
        cluster.produce(b"a", 7)
        cluster.produce(b"b", 7)
        cluster.publish(b"a", None)
        cluster.publish(b"b", None)
        cluster.work()
        cluster.stop("one")
        cluster.log.forget_offsets("app", [Partition("in", number) for number in range(PARTITIONS)])
        self.refuses(cluster, "no committed offset")

    def test_a_program_with_another_state(self, stopped: Cluster, tmp_path: Path) -> None:
        """Without its post-processing the program has no use for what the snapshots remember of it."""
        stopped.applications = {"one": Application.from_config(configured(tmp_path, postprocess=[]))}
        self.refuses(stopped, "the snapshot cannot be used.*another `app` name")

    @pytest.mark.parametrize("offsets", ["as they are", "expired", "moved", "moved back"])
    def test_going_on_anew(self, stopped: Cluster, offsets: str) -> None:
        """What operations.md says of it, to the letter, whatever was wrong."""
        group, at = stopped.log.group("app"), {}
        for number in range(PARTITIONS):
            where = Partition("in", number)
            committed = group.committed.pop(where)
            at[where] = committed.offset
            if offsets.startswith("moved"):
                group.committed[where] = Committed(1, committed.metadata if offsets == "moved back" else "")
            if offsets == "as they are":
                group.committed[where] = committed
        if offsets != "as they are":
            self.refuses(stopped, r"set those of all partitions .*--reset-offsets.* delete and create app\.snapshots")
        group.committed.update({where: Committed(offset, "") for where, offset in at.items()})
        stopped.log.create_anew("app.snapshots")
        before = {value for _, value, _ in stopped.read("out")}
        stopped.start("one")
        for _ in range(2):
            for key in (b"a", b"b", b"c", b"d"):
                stopped.produce(key, 7)
            stopped.work()
        made = [orjson.loads(value) for _, value, _ in stopped.read("out") if value and value not in before]
        assert {each["key"] for each in made if each["index"] == 0} == {"a", "b", "c", "d"}

    def test_beginning_anew(self, stopped: Cluster) -> None:
        stopped.log.group("app").committed.clear()
        self.refuses(stopped, "To begin anew and compute everything again, delete and create app.snapshots and app.dead-letters")
        stopped.log.create_anew("app.snapshots")
        stopped.log.create_anew("app.dead-letters")
        stopped.log.create_anew("out")
        stopped.start("one")
        stopped.work(turns=9)
        assert audited(stopped) > 0

    def test_partitions_added_to_the_input(self, stopped: Cluster) -> None:
        stopped.log.add_partitions("in", PARTITIONS + 1)
        with pytest.raises(OperatorActionRequired, match="they must be the same"):
            stopped.start("one")
        stopped.log.add_partitions("app.snapshots", PARTITIONS + 1)
        self.refuses(stopped, "had 2 when offsets were committed")

    def test_partitions_added_while_it_runs(self, cluster: Cluster) -> None:
        """Where members keep what they have in a rebalance, nothing else would tell."""
        cluster.produce(b"a", 7)
        cluster.work()
        cluster.log.add_partitions("in", PARTITIONS + 1)
        cluster.log.add_partitions("app.snapshots", PARTITIONS + 1)
        cluster.now += 11.0
        with pytest.raises(OperatorActionRequired, match="had 2 when this process started"):
            cluster.work(turns=2)

    @pytest.mark.parametrize("revoked", [False, True])
    def test_an_input_that_is_deleted_while_it_runs(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, revoked: bool) -> None:
        """The broker may take its partitions away before anybody looks."""
        cluster.produce(b"a", 7)
        cluster.work()
        if revoked:
            cluster.workers["one"].revoked([Partition("in", number) for number in range(PARTITIONS)])
        monkeypatch.setattr(MemoryReader, "partitions", lambda reader, topic, timeout: None)
        cluster.now += 11.0
        with pytest.raises(OperatorActionRequired, match="in is gone; it had 2 partitions when this process started"):
            cluster.work(turns=2)

    def test_partitions_added_since_a_process_started_that_has_one_of_them(self, cluster: Cluster) -> None:
        cluster.log.add_partitions("in", PARTITIONS + 1)
        self_assigned = [Partition("in", PARTITIONS)]
        cluster.workers["one"].revoked([Partition("in", number) for number in range(PARTITIONS)])
        cluster.workers["one"].assigned(self_assigned)
        with pytest.raises(OperatorActionRequired, match="had 2 when this process started"):
            cluster.work(turns=2)

    def test_a_snapshot_topic_that_was_created_anew(self, stopped: Cluster) -> None:
        """Streams would begin in mid-stream, and nobody would know."""
        stopped.log.create_anew("app.snapshots")
        self.refuses(stopped, "emptied or created anew")

    def test_an_input_that_was_created_anew_and_is_longer_already(self, stopped: Cluster) -> None:
        stopped.log.create_anew("in")
        for _ in range(9):
            stopped.produce(b"a", 7)
            stopped.produce(b"b", 7)
        self.refuses(stopped, "committed for a topic of the same name that is gone")

    def test_a_new_process_with_nothing_but_a_partition_that_was_added(self, cluster: Cluster) -> None:
        cluster.work()
        cluster.log.add_partitions("in", PARTITIONS + 1)
        cluster.log.add_partitions("app.snapshots", PARTITIONS + 1)
        cluster.crash("one")
        cluster.start("one")
        cluster.workers["one"].assigned([Partition("in", PARTITIONS)])  # before the group gives it the others as well
        with pytest.raises(OperatorActionRequired, match="had 2 when offsets were committed"):
            cluster.work(turns=2)

    def test_an_input_that_is_compacted(self) -> None:
        cluster = Cluster(applications())
        cluster.log = type(cluster.log)()
        cluster.transport = type(cluster.transport)(cluster.log)
        _, *others = required_topics(cluster.config, PARTITIONS)
        cluster.transport.admin().create([*others, TopicDescription("in", PARTITIONS, {"cleanup.policy": "compact,delete"})], 1.0)
        with pytest.raises(OperatorActionRequired, match="in is compacted"):
            cluster.start("one")

    def test_dead_letters_that_are_compacted(self) -> None:
        """Such a topic takes no records without a key, and a record without a key is refused."""
        cluster = Cluster(applications())
        cluster.log = type(cluster.log)()
        cluster.transport = type(cluster.transport)(cluster.log)
        *others, _, snapshots = required_topics(cluster.config, PARTITIONS)
        letters = TopicDescription("app.dead-letters", 1, {"cleanup.policy": "compact,delete"})
        cluster.transport.admin().create([*others, letters, snapshots], 1.0)
        with pytest.raises(OperatorActionRequired, match=r"app\.dead-letters is compacted"):
            cluster.start("one")

    def test_an_output_that_is_compacted_is_warned_of(self, capsys: pytest.CaptureFixture[str]) -> None:
        cluster = Cluster(applications())
        cluster.log = type(cluster.log)()
        cluster.transport = type(cluster.transport)(cluster.log)
        source, _, *others = required_topics(cluster.config, PARTITIONS)
        cluster.transport.admin().create([source, TopicDescription("out", PARTITIONS, {"cleanup.policy": "compact"}), *others], 1.0)
        cluster.start("one")
        assert "out is compacted" in capsys.readouterr().out

    def test_a_snapshot_topic_that_is_not_compacted(self) -> None:
        cluster = Cluster(applications())
        cluster.log = type(cluster.log)()
        cluster.transport = type(cluster.transport)(cluster.log)
        for name in ("in", "out", "app.dead-letters"):
            cluster.log.create(TopicDescription(name, PARTITIONS))
        cluster.log.create(TopicDescription("app.snapshots", PARTITIONS, {"cleanup.policy": "delete"}))
        with pytest.raises(OperatorActionRequired, match="must be exactly compact"):
            cluster.start("one")

    def test_another_program_with_a_replay_range(self, cluster: Cluster) -> None:
        cluster.produce(b"a", 7)
        cluster.work()
        cluster.crash("one")
        cluster.applications = {"one": applications()["other weights"]}
        self.refuses(cluster, "another program")

    def test_another_program_after_a_clean_stop_goes_on(self, stopped: Cluster) -> None:
        stopped.applications = {"one": applications()["other weights"]}
        before = len(stopped.read("out"))
        stopped.produce(b"a", 7)
        stopped.start("one")
        stopped.work()
        assert len(stopped.read("out")) == before + 1
