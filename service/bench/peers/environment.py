"""The peer's own virtual environment: Quix Streams pins a Kafka client older than penstock's."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

from service.errors import PenstockError

VERSION = "3.28.1"


def prepare(say: Callable[[str], None]) -> Path:
    """The interpreter of the environment, which is made in the cache folder on first use.

    Raises `PenstockError` with the installer's own words where that fails.
    """
    cache = Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")
    folder = cache / f"quix-{VERSION}-py{sysconfig.get_python_version()}"
    python, ready = folder / "bin" / "python", folder / "ready"
    cache.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            say(f"installing Quix Streams {VERSION} into {folder}, once")
            venv.create(folder, clear=True)
            _install(python)
            ready.touch()
    return python


def shared_packages() -> str:
    """Where penstock's own torch lies, which the peer uses too instead of installing another one."""
    return sysconfig.get_path("purelib")


def _install(python: Path) -> None:
    # pip of this interpreter's base may be absent; ensurepip brings one in any complete Python.
    for command in (["ensurepip", "--default-pip"], ["pip", "install", "--quiet", f"quixstreams=={VERSION}"]):
        done = subprocess.run([python, "-m", *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PenstockError(
                f"Quix Streams {VERSION} could not be installed for {sys.executable}: `python -m {' '.join(command)}` said\n"
                f"{(done.stderr or done.stdout).strip()}\n"
                "Without it, there is nothing to compare with: mend the installation, or bench without peers (--no-peers)"
            )
