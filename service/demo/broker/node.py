"""One Kafka node in KRaft mode, for as long as a `with` block or the process lasts."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from service.demo.broker.jars import VERSION, available, fetch
from service.errors import TransportUnavailable

__all__ = ["KafkaNode", "available"]

log = structlog.get_logger("penstock.demo")

_READY = "Kafka Server started"
_STARTS = 2  # another process may take a port between the look for free ones and the node's start
_PORTS = range(20_000, 30_000)  # below the ephemeral range: else a client could hold the port while the node is down

# The leash: reads a pipe that nobody writes to. It ends with the process that holds the other side, however that dies.
_LEASH = 'cat >/dev/null; kill -9 "$1" 2>/dev/null; rm -rf "$2"'

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # Heartbeats come late on a busy machine, and a node that is given up for dead serves nobody.
    "broker.session.timeout.ms": "30000",
    "broker.heartbeat.interval.ms": "300",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.coordinator.rebalance.protocols": "classic,consumer",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "200",
    "group.consumer.heartbeat.interval.ms": "500",
}


class KafkaNode:
    """A broker of its own on 127.0.0.1, with its data in a temporary folder that goes with it.

    The Java process dies with this process, even when this one is killed. `settings` are added to the node's properties: to be
    `kill`ed and up again soon it needs a shorter `broker.session.timeout.ms`, before which its successor may not register.
    Raises `TransportUnavailable` when the node does not come up, on other ports either unless `port` says which; with what its log
    says of it.
    """

    version = VERSION

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        heap: str = "768m",
        start_timeout: float = 60.0,
        port: int | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._wanted = port
        self._heap = heap
        self._start_timeout = start_timeout
        self._folder = Path()
        self._port = 0
        self._jvm: subprocess.Popen[bytes] | None = None
        self._leash: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap.servers`; the same after a restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def session_timeout(self) -> float:
        """Seconds until a silent member of KIP-848's protocol is given up. Members of the classic protocol say it themselves."""
        return int((_SETTINGS | self._settings)["group.consumer.session.timeout.ms"]) / 1000

    @property
    def log(self) -> Path:
        """What the node has written, over all its restarts."""
        return self._folder / "node.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Format a new node and wait until it answers."""
        missing = available()
        if missing:
            raise TransportUnavailable(missing)
        for left in reversed(range(_STARTS)):
            try:
                self._start()
                return
            except BaseException as error:
                self.stop()
                if not isinstance(error, TransportUnavailable) or not left or self._wanted is not None:
                    raise
                log.warning("kafka_node_tried_again", reason=str(error))

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        self._port, controller = _free_ports()
        self._port = self._wanted or self._port
        self._write_properties(controller)
        self._format()
        self._launch()

    def kill(self) -> None:
        """SIGKILL: what the node had not written is lost. Its data stays for `restart`."""
        if self._jvm is not None:
            self._jvm.kill()
            self._jvm.wait()
            self._jvm = None
        if self._leash is not None:
            self._leash.kill()
            self._leash.wait()
            if self._leash.stdin is not None:
                self._leash.stdin.close()
            self._leash = None

    def restart(self) -> None:
        """Up again on the same data and port, killed before if it still ran."""
        self.kill()
        self._launch()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and, when this returns, nothing answers."""
        jvm = self._signal(signal.SIGSTOP)
        os.waitpid(jvm.pid, os.WUNTRACED)  # until then it may still answer, on a busy machine for some milliseconds

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Gone, with its data. Nothing is worth an orderly shutdown, which takes seconds."""
        self.kill()
        if self._folder.name:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        if self._jvm is None:
            raise TransportUnavailable("the Kafka node is not running")
        self._jvm.send_signal(number)
        return self._jvm

    def _write_properties(self, controller: int) -> None:
        properties = {
            **_SETTINGS,
            "listeners": f"PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._folder / "data"),
            **self._settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (self._folder / "node.properties").write_text(text)

    def _format(self) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ["format", f"--cluster-id={cluster}", "--config", str(self._folder / "node.properties")]
        done = subprocess.run(
            [*_java("256m"), "kafka.tools.StorageTool", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise TransportUnavailable(f"the Kafka node could not be formatted:\n{done.stdout}")

    def _launch(self) -> None:
        before = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            # In a session of their own: a Ctrl-C at the terminal is for the program, which then stops the node.
            self._jvm = subprocess.Popen(
                [*_java(self._heap), "kafka.Kafka", str(self._folder / "node.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._leash = subprocess.Popen(
            ["/bin/sh", "-c", _LEASH, "leash", str(self._jvm.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._wait_until_ready(before)

    def _wait_until_ready(self, log_offset: int) -> None:
        deadline = time.monotonic() + self._start_timeout
        jvm = self._jvm
        assert jvm is not None
        while _READY not in (written := self.log.read_bytes()[log_offset:].decode(errors="replace")):
            if jvm.poll() is not None or time.monotonic() > deadline:
                state = "ended" if jvm.poll() is not None else f"did not start within {self._start_timeout:.0f} s"
                raise TransportUnavailable(f"the Kafka node on {self.bootstrap} {state}; of its log:\n{_telling(written)}")
            time.sleep(0.02)


def _telling(written: str) -> str:
    """The first errors of a log, and its end."""
    lines = written.splitlines()
    errors = [line for line in lines if " ERROR " in line or "Exception" in line]
    return "\n".join([*errors[:8], "…", *lines[-8:]])


def _java(heap: str) -> list[str]:
    # The serial collector starts fastest, and leaves the few cores of a laptop or CI machine to the others.
    flags = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-Xshare:auto", "-Djava.awt.headless=true"]
    log = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    return ["java", *flags, *log, "-cp", f"{fetch()}{os.sep}*"]


def _free_ports() -> tuple[int, int]:
    free: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        free.append(port)
        if len(free) == 2:
            return free[0], free[1]
    raise TransportUnavailable(f"no two free ports on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop - 1}")
