"""What goes wrong on a newcomer's first day: one clear message that says what to do, the right exit code, no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.config import load
from service.demo.broker import KafkaNode
from service.transport.interface import TopicDescription
from service.transport.kafka import KafkaTransport
from tests.applications import write

PENSTOCK = str(Path(sys.executable).with_name("penstock"))


def penstock(*arguments: str | Path) -> tuple[int, str]:
    """Exit code, and what was said on standard error."""
    done = subprocess.run([PENSTOCK, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr + done.stdout
    return done.returncode, done.stderr


def test_a_wrong_setting(tmp_path: Path) -> None:
    path = write(tmp_path, commmit={"interval": "50ms"})
    code, said = penstock("run", path)
    assert code == 2
    assert "commmit: there is no such setting; did you mean commit?" in said
    assert len(said.splitlines()) == 1


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = write(tmp_path)
    settings = yaml.safe_load(path.read_text())
    settings["model"]["arguments"]["width"] = 16
    path.write_text(yaml.safe_dump(settings))
    code, said = penstock("run", path)
    assert code == 2
    assert "holds the weights of another network: lift.weight is [8, 2, 1], the network has [16, 2, 1]" in said


def test_a_factory_that_is_not_there(tmp_path: Path) -> None:
    code, said = penstock("model", "verify", write(tmp_path, model={"factory": "mine.networks:Net"}))
    assert code == 2
    assert "no module named 'mine'" in said
    assert "PYTHONPATH" in said


def test_a_network_that_cannot_be_streamed(tmp_path: Path) -> None:
    model = {"factory": "torch.nn:InstanceNorm1d", "arguments": {"num_features": 2}}
    code, said = penstock("run", write(tmp_path, model=model))
    assert code == 2
    assert "InstanceNorm1d" in said


@pytest.mark.parametrize("command", ["run", "topics", "audit"])
def test_an_unreachable_broker(tmp_path: Path, command: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        code, said = penstock(command, write(tmp_path, address))
    assert code == 1
    assert f"no answer from {address}" in said
    assert len(said.splitlines()) <= 4, said


@pytest.mark.broker
def test_a_missing_topic(kafka: KafkaNode, tmp_path: Path) -> None:
    path = write(tmp_path, kafka.bootstrap, app="missing", inputs=[{"topic": "missing.in", "channels": ["a", "b"], "rate": 1}])
    code, said = penstock("run", path)
    assert code == 1
    assert "missing.in does not exist" in said
    assert "penstock topics CONFIG --create" in said
    KafkaTransport(load(path).kafka).admin().create([TopicDescription("missing.in", 2)], 10.0)
    code, _ = penstock("topics", path, "--create")
    assert code == 0
    code, _ = penstock("topics", path)
    assert code == 0
