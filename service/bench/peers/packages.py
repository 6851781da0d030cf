"""Peers that run in this process: pure Python packages, installed once into the cache folder without their dependencies."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from service.errors import PenstockError


def provide(package: str, version: str, say: Callable[[str], None]) -> Path:
    """The folder to put on `sys.path`. Raises `PenstockError` with the installer's own words where that fails."""
    cache = Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")
    folder = cache / f"{package}-{version}"
    ready = folder / "ready"
    cache.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            say(f"installing {package} {version} into {folder}, once")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run(
                [*command, "--target", folder, f"{package}=={version}"], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise PenstockError(
                    f"{package} {version} could not be installed: pip said\n{(done.stderr or done.stdout).strip()}\n"
                    "Mend the installation, or bench without peers (--no-peers)"
                )
            ready.touch()
    return folder
