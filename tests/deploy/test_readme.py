"""The README's example works as it is printed: copied, pasted, run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.demo.broker import KafkaNode

TIME_LIMIT = 240.0
"""Seconds after which an example counts as stuck."""


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


@pytest.fixture
def folder(readme: str, tmp_path: Path) -> Path:
    """A folder with the files that the README shows, under the names that it gives them."""
    files = re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in files} == {"press.py", "press.yaml"}
    for name, text in files:
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def commands(readme: str) -> list[str]:
    (block,) = re.findall(r"^```bash\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return [line.split("#")[0].rstrip() for line in block.splitlines()]


def shell(folder: Path, lines: list[str], kafka: str) -> tuple[int, str]:
    """Exit status and output of the lines; whatever they leave running is ended."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = folder / "printed.txt"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=folder,
            env={**os.environ, "PATH": path, "KAFKA": kafka, "HOSTNAME": "reader"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):  # the status says so
            process.wait(TIME_LIMIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, printed.read_text()


def test_what_needs_no_broker(folder: Path, commands: list[str]) -> None:
    alone = [line for line in commands if line.startswith(("python", "penstock config", "penstock model"))]
    assert len(alone) == 3
    status, output = shell(folder, alone, "127.0.0.1:1")
    assert status == 0, output
    assert "streamed equals offline" in output


@pytest.mark.broker
def test_the_whole_example(folder: Path, commands: list[str], kafka: KafkaNode) -> None:
    status, output = shell(folder, commands, kafka.bootstrap)
    assert status == 0, output
    assert "audit: passed" in output
