"""The command line: every error is one message on standard error, with the exit code of its kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from service import __version__
from service.cli import ErrorBoundary, exit_code, main
from service.errors import ConfigurationError, EpochAborted, Fenced, OperatorActionRequired, PenstockError, TransportUnavailable

GOOD = """\
app: a
kafka: {bootstrap.servers: 'x:1', sasl.password: swordfish}
inputs: [{topic: i, channels: [c], rate: 10}]
model: {factory: 'm:F'}
output: {topic: o}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def penstock(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_version_and_help():
    assert penstock("--version").output == f"penstock {__version__}\n"
    assert penstock("--help").exit_code == 0
    assert "config" in penstock("--help").output


def test_a_valid_configuration_checks(good):
    result = penstock("config", "check", good)
    assert result.exit_code == 0
    assert "valid" in result.stdout


def test_a_wrong_configuration_is_one_line_per_problem_and_exit_2(good):
    good.write_text(GOOD.replace("topic: o", "topik: o"))
    result = penstock("config", "check", good)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line.split(": ")[1:3] for line in result.stderr.splitlines()] == [
        ["output.topic", "is missing"],
        ["output.topik", "there is no such setting; did you mean topic?"],
    ]


def test_checking_reads_the_avro_schema_too(good):
    (good.parent / "chunk.avsc").write_text('{"type": "record", "name": "R", "fields": []}')
    good.write_text(GOOD.replace("rate: 10", "rate: 10, format: avro, avro: {schema: chunk.avsc}"))
    result = penstock("config", "check", good)
    assert result.exit_code == 2
    assert result.stderr == f"{good.parent / 'chunk.avsc'}: Avro schema R: there is no field t\n"


def test_the_debug_option_shows_the_traceback(good):
    result = penstock("--debug", "config", "check", good.parent / "none.yaml")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "Traceback" not in penstock("config", "check", good.parent / "none.yaml").stderr


def test_show_prints_effective_settings_without_secrets(good):
    result = penstock("config", "show", good)
    settings = yaml.safe_load(result.stdout)
    assert settings["commit"] == {"interval": "50ms", "transaction_timeout": "15s"}
    assert settings["dead_letters"] == {"topic": "a.dead-letters"}
    assert "swordfish" not in result.stdout


def test_schema_prints_a_json_schema(good):
    for arguments in (["config", "schema"], ["config", "schema", good]):
        assert orjson.loads(penstock(*arguments).stdout)["required"] == ["app", "kafka", "inputs", "model", "output"]


@pytest.mark.parametrize("arguments", [["nonsense"], ["config", "nonsense"], ["config", "check"], ["config", "check", "a", "b"]])
def test_wrong_usage_is_exit_2(arguments):
    assert penstock(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("no"), 2),
        (Fenced("no"), 3),
        (OperatorActionRequired("no"), 1),
        (TransportUnavailable("no"), 1),
        (EpochAborted("no"), 1),
        (PenstockError("no"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code):
    assert exit_code(error) == code


def test_the_boundary_covers_every_command():
    assert main.info.cls is ErrorBoundary


def test_an_interrupt_is_exit_130(good, monkeypatch):
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.config.load", interrupted)
    assert penstock("config", "check", good).exit_code == 130


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["config", "check", "{good}"], ["config", "schema"]])
def test_help_and_configuration_never_wait_for_torch_or_kafka(arguments, good):
    script = f"""
import sys
from service.cli import main
try:
    main({[argument.replace("{good}", str(good)) for argument in arguments]!r})
except SystemExit as done:
    assert not done.code, done.code
heavy = {{"torch", "numpy", "confluent_kafka", "fastavro"}} & set(sys.modules)
assert not heavy, heavy
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
