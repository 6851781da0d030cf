"""Configuration: what is read, and that every mistake is one line that says where, what, and what else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.config import (
    OWNED,
    Config,
    Detect,
    InputFormat,
    Layout,
    LogFormat,
    Numerics,
    OutputFormat,
    Smooth,
    configuration,
    json_schema,
    load,
    shown,
)
from service.config.durations import format_duration, parse_duration
from service.config.redaction import REDACTED
from service.config.yaml_source import parse
from service.errors import ConfigurationError

PUMPS = """\
app: pumps                        # group id, transactional ids and internal topics start with it
instance: ${HOSTNAME:-local}      # stable per process
kafka:                            # any librdkafka property
  bootstrap.servers: 127.0.0.1:9092
inputs:
  - topic: pumps.vibration
    format: json                  # json | avro | raw
    channels: [ax, ay, az]
    rate: 1000                    # Hz
model:
  factory: service.demo.network:BearingNet   # import path of an nn.Module class or factory
  arguments: {channels: 3}
  weights: bearing.safetensors
normalization: statistics.json    # per channel mean and standard deviation, computed beforehand
postprocess:                      # in order; each per key, part of its state
  - smooth: {alpha: 0.1}
  - detect: {channel: 0, on: 0.8, off: 0.5}
output:
  topic: pumps.predictions
  format: json
commit: {interval: 50ms}
state: {slots: 4096, snapshot_every: 30s}
device: auto                      # auto | cpu | cuda | cuda:1
numerics: exact                   # exact: same bits whatever the batch | fast
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bearing.safetensors").write_bytes(b"weights")
    (tmp_path / "statistics.json").write_text('{"mean": [0, 0.5, -1], "std": [1, 2, 3]}')
    return tmp_path


def read(directory: Path, text: str, **environment: str) -> Config:
    path = directory / "pumps.yaml"
    path.write_text(text)
    return load(path, environment)


def problems(directory: Path, text: str, **environment: str) -> list[str]:
    """The message's lines, without the file's name."""
    with pytest.raises(ConfigurationError) as caught:
        read(directory, text, **environment)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(directory / "pumps.yaml")) for line in lines)
    return [line.removeprefix(str(directory / "pumps.yaml") + ":") for line in lines]


def changed(old: str, new: str) -> str:
    assert PUMPS.count(old) == 1, "the change must hit one place"
    return PUMPS.replace(old, new)


def plain(**changes: Any) -> dict[str, Any]:
    """A small configuration that names no file."""
    return {
        "app": "a",
        "kafka": {"bootstrap.servers": "x:1"},
        "inputs": [{"topic": "i", "channels": ["c"], "rate": 10}],
        "model": {"factory": "m:F"},
        "output": {"topic": "o"},
    } | changes


# What is read


def test_the_documented_example_is_read(directory):
    config = read(directory, PUMPS)
    assert config.app == "pumps"
    assert config.kafka == {"bootstrap.servers": "127.0.0.1:9092"}
    assert (config.input.topic, config.input.format, config.input.rate) == ("pumps.vibration", InputFormat.JSON, 1000.0)
    assert (config.input.channels, config.channels) == (("ax", "ay", "az"), 3)
    assert config.model.arguments == {"channels": 3}
    assert config.model.weights == directory / "bearing.safetensors"
    assert [part.step for part in config.postprocess] == [Smooth(alpha=0.1), Detect(channel=0, on=0.8, off=0.5)]
    assert (config.output.topic, config.output.format) == ("pumps.predictions", OutputFormat.JSON)
    assert (config.commit.interval, config.state.slots, config.state.snapshot_every) == (0.05, 4096, 30.0)
    assert config.numerics is Numerics.EXACT
    assert config.statistics().std == (1.0, 2.0, 3.0)


def test_the_demo_s_configuration_is_valid():
    assert load(Path(__file__).parents[1] / "service/demo/pumps.yaml", {}).app == "pumps"


def test_defaults_and_derived_names():
    config = configuration(plain())
    assert config.instance == "local"
    assert config.transactional_id == "a-local"
    assert config.snapshot_topic == "a.snapshots"
    assert config.dead_letters.topic == "a.dead-letters"
    assert (config.commit.interval, config.commit.transaction_timeout) == (0.05, 15.0)
    assert (config.state.snapshot_every, config.state.replay_records) == (30.0, 1_000_000)
    assert (config.limits.record_bytes, config.metrics.port, config.metrics.host) == (1 << 20, None, "127.0.0.1")
    assert (config.log.format, config.model.layout) == (LogFormat.CONSOLE, Layout.BCT)
    assert config.statistics() is None


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        configuration(plain()).commit.interval = 1.0  # type: ignore[misc]


def test_kafka_properties_are_written_as_librdkafka_reads_them():
    kafka = {"bootstrap.servers": "x:1", "enable.ssl.certificate.verification": False, "fetch.max.bytes": 1000}
    assert configuration(plain(kafka=kafka)).kafka == {
        "bootstrap.servers": "x:1",
        "enable.ssl.certificate.verification": "false",
        "fetch.max.bytes": "1000",
    }


# The environment


def test_variables_are_put_in_and_defaults_hold_where_they_are_unset_or_empty(directory):
    text = changed("app: pumps ", "app: ${PLANT}-${LINE:-1}-$$-${EMPTY:-e} ").replace("-$$-", "-")
    assert read(directory, text, PLANT="north", EMPTY="").app == "north-1-e"
    assert read(directory, text, PLANT="north", LINE="2", EMPTY="x").app == "north-2-x"


def test_what_looks_like_a_date_is_text(directory):
    assert read(directory, changed("app: pumps ", "app: 2026-13-45 ")).app == "2026-13-45"


def test_numbers_and_durations_may_come_from_the_environment(directory):
    text = changed("rate: 1000 ", "rate: ${RATE} ").replace("interval: 50ms", "interval: '${EVERY}'")
    config = read(directory, text, RATE="250.5", EVERY="2s")
    assert (config.input.rate, config.commit.interval) == (250.5, 2.0)


@given(st.text())
def test_what_a_variable_holds_stays_one_string(secret):
    source = parse("kafka: {sasl.password: '${PASSWORD:-}', key: \"<${PASSWORD:-}>\"}", {"PASSWORD": secret})
    assert source.data == {"kafka": {"sasl.password": secret, "key": f"<{secret}>"}}
    assert not source.problems


@pytest.mark.parametrize(("text", "meant"), [("a$$b", "a$b"), ("$${NAME}", "${NAME}"), ("a$b", "a$b"), ("${X}${X:-d}", "xx")])
def test_dollars(directory, text, meant):
    config = read(directory, changed("arguments: {channels: 3}", f"arguments: {{word: '{text}'}}"), X="x")
    assert config.model.arguments == {"word": meant}


def test_unset_variables_and_broken_ones_are_told_with_their_line(directory):
    text = changed("app: pumps ", "app: ${PLANT} ").replace("factory: service.demo.network:BearingNet", "factory: ${A b}")
    lines = problems(directory, text)
    assert lines == [
        "1: app: the environment variable PLANT is not set; set it or give a default, ${PLANT:-…}",
        "11: model.factory: ${ is no variable; write ${NAME}, ${NAME:-default}, or $${ for the characters",
    ]


# Mistakes


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("app: pumps ", "app: pumps station ", "1: app: found 'pumps station', but only letters, digits"),
        ("app: pumps ", "app: 7 ", "1: app: found 7, but it should be a valid string"),
        ("app: pumps ", f"app: {'a' * 201} ", "1: app: found 'aaa"),
        ("app: pumps ", "ap: pumps ", "1: app: is missing"),
        ("rate: 1000 ", "rat: 1000 ", "6: inputs.0.rate: is missing"),
        ("rate: 1000 ", "rate: fast ", "9: inputs.0.rate: found 'fast', but it should be a valid number"),
        ("rate: 1000 ", "rate: .nan ", "9: inputs.0.rate: found nan, but it should be a finite number"),
        ("rate: 1000 ", "rate: 0 ", "9: inputs.0.rate: found 0, but it should be greater than or equal to"),
        ("rate: 1000 ", "rate: yes ", "9: inputs.0.rate: found true, but true and false"),
        ("format: json  ", "format: xml  ", "7: inputs.0.format: found 'xml', but it should be 'json', 'avro' or 'raw'"),
        ("channels: [ax, ay, az]", "channels: []", "8: inputs.0.channels: at least one is expected"),
        ("channels: [ax, ay, az]", "channels: xyz", "8: inputs.0.channels: found 'xyz', but a list is expected"),
        ("channels: [ax, ay, az]", "channels: [a, b, a]", "6: inputs.0: channels must have different names"),
        ("channels: [ax, ay, az]", "channels: [a, b]", "1: {dir}/statistics.json: mean has 3 values, but the input has 2 channels"),
        ("statistics.json", "missing.json", "14: normalization: there is no file {dir}/missing.json"),
        ("statistics.json", "pumps.yaml", "1: {dir}/pumps.yaml is not JSON"),
        ("bearing.safetensors", "gone.bin", "13: model.weights: there is no file {dir}/gone.bin"),
        ("  weights: bear", "  sha256: 12\n  weights: bear", "13: model.sha256: found 12, but it should be a valid string"),
        ("  weights: bear", "  sha256: A0\n  weights: bear", "13: model.sha256: found 'A0', but 64 lower-case hexadecimal"),
        ("  weights: bearing.safetensors", f"  sha256: {'a' * 64}", "10: model: sha256 pins the weights or the file"),
        ("  weights: bear", "  mode: window\n  weights: bear", "10: model: mode: window needs a size, in frames"),
        ("  weights: bear", "  hop: 4\n  weights: bear", "10: model: size, hop and batch belong to mode: window"),
        ("  weights: bear", "  batch: 4\n  weights: bear", "10: model: size, hop and batch belong to mode: window"),
        (
            "  weights: bear",
            "  mode: window\n  size: 0\n  weights: bear",
            "14: model.size: found 0, but it should be greater than 0",
        ),
        ("  weights: bear", "  file: pumps.yaml\n  weights: bear", "10: model: exactly one of factory (the import path"),
        (
            "  weights: bear",
            "  mode: windows\n  weights: bear",
            "13: model.mode: found 'windows', but it should be 'stream' or 'window'",
        ),
        (
            "  factory: service.demo.network:BearingNet ",
            "  file: pumps.yaml ",
            "10: model: arguments and weights belong to a factory",
        ),
        ("  weights: bear", "  precision: int8\n  weights: bear", "13: model.precision: found 'int8', but it should be"),
        ("service.demo.network:BearingNet ", "BearingNet ", "11: model.factory: found 'BearingNet', but the import path"),
        ("smooth: {alpha: 0.1}", "smoth: {alpha: 0.1}", "16: postprocess.0.smoth: there is no such setting; did you mean smooth?"),
        ("smooth: {alpha: 0.1}", "smooth: {alpha: 7}", "16: postprocess.0.smooth.alpha: found 7, but it should be less than"),
        ("smooth: {alpha: 0.1}", "smooth:", "16: postprocess.0: exactly one of smooth, detect is expected"),
        ("on: 0.8", "on: 0.2", "17: postprocess.1.detect: off (0.5) must not be above on (0.2)"),
        ("  topic: pumps.predictions", "  topic: pumps.vibration", "1: one topic serves two purposes: pumps.vibration"),
        ("  topic: pumps.predictions", "  topic: pumps.snapshots", "1: one topic serves two purposes: pumps.snapshots"),
        ("interval: 50ms", "interval: 50", "21: commit.interval: found 50, but a duration above zero with its unit"),
        ("interval: 50ms", "interval: 20s", "21: commit: transaction_timeout must be at least twice the interval"),
        ("slots: 4096", "slots: 0", "22: state.slots: found 0, but it should be greater than or equal to 2"),
        ("slots: 4096", "slots: [1]", "22: state.slots: found a list, but it should be a valid integer"),
        ("device: auto ", "device: gpu ", "23: device: found 'gpu', but auto, cpu, cuda or cuda:<number> is expected"),
        ("commit: {interval: 50ms}", "commit:", "21: commit: found nothing, but a mapping is expected"),
        ("{alpha: 0.1}", "[0.1]", "16: postprocess.0.smooth: found a list, but a mapping is expected"),
        ("device: auto ", "wibble: 1 ", "23: wibble: there is no such setting; allowed are app, instance, kafka"),
    ],
)
def test_every_mistake_is_told_with_its_line_and_path_and_what_is_allowed(directory, old, new, line):
    assert problems(directory, changed(old, new))[0].startswith(line.replace("{dir}", str(directory)))


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(directory):
    text = (
        changed("rate: 1000 ", "rate: 0 ")
        .replace("alpha: 0.1", "alpha: 0")
        .replace("slots: 4096", "slot: 1")
        .replace("app:", "ap:")
    )
    assert [line.split(": ")[1] for line in problems(directory, text)] == [
        "app",
        "ap",
        "inputs.0.rate",
        "postprocess.0.smooth.alpha",
        "state.slot",
    ]


def test_more_than_one_input_is_not_supported_yet(directory):
    text = changed("model:\n", "  - {topic: second, channels: [a], rate: 1}\nmodel:\n").replace(
        "normalization: statistics.json", ""
    )
    assert "2 input topics are given; more than one is not supported yet" in problems(directory, text)[0]


@pytest.mark.parametrize("name", OWNED)
def test_kafka_properties_that_exactly_once_rests_on_are_refused_with_the_reason(directory, name):
    text = changed("  bootstrap.servers: 127.0.0.1:9092", f"  bootstrap.servers: x:1\n  {name}: x")
    assert problems(directory, text) == [f"5: kafka.{name}: penstock sets this property itself ({OWNED[name]}); remove it"]


def test_brokers_are_needed(directory):
    assert (
        "bootstrap.servers is missing" in problems(directory, changed("  bootstrap.servers: 127.0.0.1:9092", "  client.id: x"))[0]
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("app: a\napp: b\n", "2: app: is given twice"),
        ("app: [a\nkafka: {", "2: not YAML: "),
        ("app: a\n\tkafka: {}", "2: not YAML: "),
        ("", " found nothing, but a mapping is expected"),
        ("- app", "1: found a list, but a mapping is expected"),
        ("app: a\n--- \napp: b", "2: not YAML: "),
        ("app: !!python/object/apply:os.system [ls]", "1: app: "),
        ("app: &a [*a]", "1: app.0: an alias must not contain itself"),
        ("kafka: {[1]: 2}", "1: kafka: names must be plain words"),
        ("kafka: &k {a: b}\ncommit: {<<: *k}", "2: commit: names must be plain words"),
        ("app: \x07", " not YAML: "),
    ],
)
def test_bad_yaml_is_told_with_its_line(directory, text, line):
    assert problems(directory, text)[0].startswith(line)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"app: \xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("statistics", "words"),
    [
        ({"mean": [0, 0, 0]}, "std"),
        ({"mean": [0, 0, 0], "std": [1, 1]}, "std has 2 values"),
        ({"mean": [0, 0, 0], "std": [1, 1, 0]}, "std.2"),
        ({"mean": [0, 0, 1e39], "std": [1, 1, 1]}, "mean.2"),
        ({"mean": [0, 0, "x"], "std": [1, 1, 1]}, "mean.2"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "var": 1}, "var"),
        ([1], "the file"),
    ],
)
def test_statistics_must_fit_the_channels(directory, statistics, words):
    (directory / "statistics.json").write_bytes(orjson.dumps(statistics))
    assert words in problems(directory, PUMPS)[0]


@pytest.mark.parametrize(
    ("avro", "words"),
    [
        ({"framing": "confluent"}, "need each other"),
        ({"schema_ids": [1]}, "need each other"),
        ({"framing": "confluent", "schema_ids": [-1]}, "schema_ids"),
        ({"schema": "none.avsc"}, "there is no file"),
        ({"shema": "x"}, "did you mean schema?"),
    ],
)
def test_avro_settings_of_inputs(avro, words):
    with pytest.raises(ConfigurationError, match=words):
        configuration(plain(inputs=[{"topic": "i", "channels": ["c"], "rate": 1, "format": "avro", "avro": avro}]))


def test_avro_settings_belong_to_avro():
    with pytest.raises(ConfigurationError, match="avro is for format: avro only"):
        configuration(plain(output={"topic": "o", "avro": {"framing": "confluent", "schema_id": 1}}))
    with pytest.raises(ConfigurationError, match="need each other"):
        configuration(plain(output={"topic": "o", "format": "avro", "avro": {"framing": "confluent"}}))


# Secrets


SECRETS = ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config"]


def test_secrets_are_not_shown():
    config = configuration(plain(kafka={"bootstrap.servers": "x:1"} | dict.fromkeys(SECRETS, "swordfish")))
    effective = shown(config)
    assert "swordfish" not in yaml.safe_dump(effective)
    assert {name: effective["kafka"][name] for name in SECRETS} == dict.fromkeys(SECRETS, REDACTED)
    assert effective["kafka"]["bootstrap.servers"] == "x:1"


def test_secrets_are_not_in_messages():
    with pytest.raises(ConfigurationError) as caught:
        configuration(plain(model={"factory": "m:F", "api_token": "swordfish"}, kafka={"sasl.password": ["swordfish"]}))
    assert "swordfish" not in str(caught.value)


def test_what_is_shown_is_a_configuration_again(directory):
    config = read(directory, PUMPS)
    assert configuration(shown(config)) == config


# Durations


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), ("5m", 300.0), ("2h", 7200.0), ("0.5ms", 0.0005)])
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["50", "0s", "-1s", "1 s", "1d", "s", "", "50ms ", "50ms\n", "1e3s", "∞s", 50, None])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(1, 10**9))
def test_durations_are_written_as_they_are_read(milliseconds):
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, rel=1e-12)


# The schema


def test_the_schema_accepts_what_is_accepted(directory):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load(PUMPS.replace(" on:", " 'on':").replace(" off:", " 'off':")))
    defaults = configuration(plain()).model_dump(mode="json", by_alias=True)
    validator.validate({name: value for name, value in defaults.items() if value is not None})
    assert not validator.is_valid(plain(ap="x"))
    assert not validator.is_valid(plain(app="not a name"))
