"""The broker of the demo and the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.demo.broker import KafkaNode, available, node
from service.demo.broker.jars import fetch
from service.errors import TransportUnavailable

pytestmark = pytest.mark.broker


def answers(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_node_answers_at_the_same_address_after_it_was_killed(kafka: KafkaNode) -> None:
    with KafkaNode({"broker.session.timeout.ms": "4000"}) as running:
        address = running.bootstrap
        assert address != kafka.bootstrap
        assert answers(address)
        running.kill()
        assert not answers(address)
        running.restart()
        assert running.bootstrap == address
        assert answers(address)
        data = running.log.parent
    assert not answers(address)
    assert not data.exists()


def test_the_broker_dies_with_a_process_that_is_killed(kafka: KafkaNode) -> None:
    program = (
        "import time; from service.demo.broker import KafkaNode; node = KafkaNode(); node.start();"
        "print(node.bootstrap, node.log.parent, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        address, folder = holder.stdout.readline().split()
        assert answers(address)
        os.kill(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while answers(address) or Path(folder).exists():
        assert time.monotonic() < deadline, "the broker outlived its process"
        time.sleep(0.05)


def test_a_port_that_somebody_takes_meanwhile_is_another_next_time(kafka: KafkaNode, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [node._free_ports(), (int(kafka.bootstrap.split(":")[1]), node._free_ports()[1])]
    wanted = free[0]
    monkeypatch.setattr(node, "_free_ports", free.pop)
    with KafkaNode() as started:
        assert started.bootstrap == f"127.0.0.1:{wanted[0]}"
        assert answers(started.bootstrap)


def test_a_node_that_does_not_start_says_why(kafka: KafkaNode) -> None:
    with pytest.raises(TransportUnavailable, match=r"ended; of its log:\n.*ERROR.*"):
        KafkaNode(port=int(kafka.bootstrap.split(":")[1])).start()


def test_without_java_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    missing = available()
    assert missing is not None
    assert "Java 17" in missing
    assert "Maven" in missing


def test_a_half_finished_fetch_is_not_taken_for_a_whole_one(
    kafka: KafkaNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    (tmp_path / ".fetch-killed" / "jars").mkdir(parents=True)
    jars = {jar.name for jar in fetch().glob("*.jar")}
    assert "kafka_2.13-4.1.1.jar" in jars
    assert "kafka-tools-4.1.1.jar" in jars
