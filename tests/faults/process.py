"""A worker as a process of its own. Forked from one that has imported everything, so that a start costs what joining costs."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from service.cli import exit_code
from service.commands.run import run
from service.config import load
from service.errors import PenstockError
from service.observe.logging import configure_logging
from service.transport.kafka import KafkaTransport
from tests.faults.points import Point, Sigkill, Trap, trapped

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["__main__", __name__])
_PR_SET_PDEATHSIG = 1


class Process:
    """`penstock run` on the configuration at `path`; with a `point`, until its `nth` pass. What it says goes to `log`."""

    def __init__(self, path: Path, point: Point | None = None, nth: int = 1) -> None:
        self.log = path.with_suffix(".log")
        self._before = self.log.stat().st_size if self.log.exists() else 0  # bytes that others of its name have said
        self._process = _FORKED.Process(target=_work, args=(path, self.log, point, nth), daemon=True)
        self._process.start()

    @property
    def exit(self) -> int | None:
        """None while it runs; −9 where it was killed."""
        return self._process.exitcode

    @property
    def said(self) -> str:
        """The end of what it has logged, for messages."""
        return self.log.read_bytes()[self._before :].decode()[-3000:] if self.log.exists() else ""

    def where(self) -> str:
        """The same, and where each of its threads is."""
        said = self.said
        self.send(signal.SIGUSR1)
        self.wait(1.0)
        return said + self.log.read_text()[-12_000:]

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None where it still runs after so long."""
        self._process.join(seconds)
        return self.exit

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def stop(self, seconds: float = 30.0) -> None:
        """A clean stop."""
        self._process.terminate()
        code = self.wait(seconds)
        if code is None:
            self.kill()
        too_early = code == -signal.SIGTERM and "starting" not in self.said  # the signal came before anybody listened to it
        assert code == 0 or too_early, (code, self.said)


def _work(path: Path, log: Path, point: Point | None, nth: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody outlives the tests
    out = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(out, stream)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    settings = load(path)
    configure_logging("console", settings.log.level)
    transport = KafkaTransport(settings.kafka)
    code = 0
    try:
        run(settings, trapped(transport, Trap(point, nth, Sigkill())) if point else transport)
    except PenstockError as error:
        print(error, file=sys.stderr)
        code = exit_code(error)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)
