"""The broker's jars: fetched once by Maven from `pom.xml`, then kept in a cache folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from service.errors import TransportUnavailable

VERSION = "4.1.1"
_POM = Path(__file__).with_name("pom.xml")
_MINIMUM_JAVA = 17


def available() -> str | None:
    """None when a broker can be run here, else what is missing and how to get it, in one sentence."""
    missing = []
    if _java_major() < _MINIMUM_JAVA:
        missing.append(f"Java {_MINIMUM_JAVA} or later (Debian: apt install openjdk-17-jre-headless; macOS: brew install openjdk)")
    if jar_folder() is None and shutil.which("mvn") is None:
        missing.append("Maven (Debian: apt install maven; macOS: brew install maven)")
    return f"the Kafka broker needs {' and '.join(missing)}" if missing else None


def jar_folder() -> Path | None:
    """Where the jars are, None before `fetch`."""
    folder = _cache() / f"kafka-{VERSION}"
    return folder if folder.is_dir() else None


def fetch() -> Path:
    """The folder with the jars, filled on first use. Raises `TransportUnavailable` with Maven's own words."""
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"kafka-{VERSION}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = jar_folder()
        if folder is not None:
            return folder
        # A folder has its final name only once it is whole, so that a fetch that was killed is never taken for one.
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-", ignore_cleanup_errors=True) as scratch:
            target = Path(scratch) / "jars"
            _copy_dependencies(target)
            return target.rename(cache / f"kafka-{VERSION}")


def _copy_dependencies(target: Path) -> None:
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={target}", "-DincludeScope=runtime"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(_POM), *goal],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TransportUnavailable(f"Maven could not fetch the jars of Kafka {VERSION}:\n{done.stdout.strip()}")


def _cache() -> Path:
    return Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")


def _java_major() -> int:
    if shutil.which("java") is None:
        return 0
    printed = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', printed)
    return int(found.group(1)) if found else 0
