"""The settings of one application, typed, with their defaults. Durations are seconds, sizes bytes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.config.durations import Duration, lasting
from service.config.files import ExistingFile, LocalPath, Normalization, read_normalization
from service.config.kafka import Properties

_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"
_IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
_SHA256 = r"^[0-9a-f]{64}$"
_DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"

PATTERNS = {
    _NAME: "only letters, digits, '.', '_' and '-' are allowed, and no '.' in front",
    _IMPORT_PATH: "the import path of a class or function is expected, such as package.module:Network",
    _SHA256: "64 lower-case hexadecimal digits are expected",
    _DEVICE: "auto, cpu, cuda or cuda:<number> is expected",
}
"""What each pattern means, in words."""

Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=200)]
"""What Kafka allows in the names of topics and groups."""

ImportPath = Annotated[str, StringConstraints(pattern=_IMPORT_PATH)]
Positive = Annotated[int, Field(gt=0)]


def _some(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("at least one is expected")
    return items


AtLeastOne = AfterValidator(_some)


class InputFormat(StrEnum):
    JSON = "json"
    AVRO = "avro"
    RAW = "raw"


class OutputFormat(StrEnum):
    JSON = "json"
    AVRO = "avro"


class Framing(StrEnum):
    """What comes before an Avro datum: nothing, or the magic byte and schema id of Confluent's registry."""

    NONE = "none"
    CONFLUENT = "confluent"


class Layout(StrEnum):
    """The network's order of batch, channels and time."""

    BCT = "BCT"
    BTC = "BTC"


class Numerics(StrEnum):
    """`exact`: a stream's outputs are the same bits whatever it is batched with; `fast`: kernels by measured cost."""

    EXACT = "exact"
    FAST = "fast"


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"found {str(value).lower()}, but true and false (or yes, no, on, off) mean nothing here")
        return value


class AvroInput(Section):
    """`schema` is the writers' schema (the packaged `sensor_chunk.avsc` by default), `schema_ids` its ids in the registry."""

    framing: Framing = Framing.NONE
    schema_file: Annotated[ExistingFile | None, Field(alias="schema")] = None
    schema_ids: frozenset[Annotated[int, Field(ge=0, lt=2**31)]] = frozenset()

    @model_validator(mode="after")
    def _known_schema(self) -> Self:
        if (self.framing is Framing.CONFLUENT) != bool(self.schema_ids):
            raise ValueError("framing: confluent and schema_ids, the registry's ids of the schema, need each other")
        return self


class AvroOutput(Section):
    """With `framing: confluent`, `schema_id` is the registry's id of `prediction.avsc`."""

    framing: Framing = Framing.NONE
    schema_id: Annotated[int | None, Field(ge=0, lt=2**31)] = None

    @model_validator(mode="after")
    def _known_schema(self) -> Self:
        if (self.framing is Framing.CONFLUENT) != (self.schema_id is not None):
            raise ValueError("framing: confluent and schema_id, the registry's id of the schema, need each other")
        return self


class Input(Section):
    """A topic of sensor chunks: `channels` in the samples' order, `rate` in Hz where a record names none."""

    topic: Name
    format: InputFormat = InputFormat.JSON
    channels: Annotated[tuple[str, ...], AtLeastOne]
    rate: Annotated[float, Field(ge=1e-6, le=1e9)]
    avro: AvroInput = AvroInput()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels must have different names")
        if self.format is not InputFormat.AVRO and self.avro != AvroInput():
            raise ValueError(f"avro is for format: avro only, the format is {self.format}")
        return self


class Mode(StrEnum):
    """`stream`: the network itself, exactly; `window`: any module, on the last `size` frames, every `hop` frames."""

    STREAM = "stream"
    WINDOW = "window"


class Model(Section):
    """The network: `factory(**arguments)` makes the module, `weights` is a safetensors file, `sha256` pins it.

    With `mode: window` it may also be a `file` with a TorchScript module or an exported program (`.pt2`), which `sha256` pins then.
    """

    factory: ImportPath | None = None
    arguments: dict[str, Any] = {}
    weights: ExistingFile | None = None
    file: ExistingFile | None = None
    sha256: Annotated[str | None, StringConstraints(pattern=_SHA256)] = None
    layout: Layout = Layout.BCT
    mode: Mode = Mode.STREAM
    size: Positive | None = None
    hop: Positive | None = None
    batch: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.factory is None) == (self.file is None):
            raise ValueError("exactly one of factory (the import path of a module) and file (TorchScript or .pt2) is expected")
        if self.file is not None and (self.arguments or self.weights is not None):
            raise ValueError("arguments and weights belong to a factory; a file holds its module whole")
        if self.file is not None and self.mode is Mode.STREAM:
            raise ValueError("a file's code cannot be traced: give a factory, or mode: window with a size")
        return self

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.mode is Mode.WINDOW and self.size is None:
            raise ValueError(
                "mode: window needs a size, in frames (and a hop; windows follow each other without overlap otherwise)"
            )
        if self.mode is Mode.STREAM and any(setting is not None for setting in (self.size, self.hop, self.batch)):
            raise ValueError("size, hop and batch belong to mode: window")
        return self

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.sha256 is not None and self.weights is None and self.file is None:
            raise ValueError("sha256 pins the weights or the file, but there are none")
        return self


class Smooth(Section):
    """Exponential smoothing of every output channel: `s ← s + alpha · (y − s)`."""

    alpha: Annotated[float, Field(gt=0, le=1)]


class Detect(Section):
    """1 from when the channel reaches `on` until it falls below `off`, else 0."""

    channel: Annotated[int, Field(ge=0)]
    on: float
    off: float

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.off > self.on:
            raise ValueError(f"off ({self.off:g}) must not be above on ({self.on:g})")
        return self


class PostprocessStep(Section):
    """Exactly one of these."""

    smooth: Smooth | None = None
    detect: Detect | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or self.step is None:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} is expected in each step")
        return self

    @property
    def step(self) -> Smooth | Detect | None:
        return self.smooth or self.detect


class Output(Section):
    topic: Name
    format: OutputFormat = OutputFormat.JSON
    avro: AvroOutput = AvroOutput()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format is not OutputFormat.AVRO and self.avro != AvroOutput():
            raise ValueError(f"avro is for format: avro only, the format is {self.format}")
        return self


class Commit(Section):
    """How long a transaction collects, and after what time the broker gives it up."""

    interval: Duration = lasting("50ms")
    transaction_timeout: Duration = lasting("15s")

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if self.interval * 2 > self.transaction_timeout:
            raise ValueError("transaction_timeout must be at least twice the interval")
        return self


class State(Section):
    """`slots` streams have their state in the arena at the same time; others lie frozen, in `memory_bytes` of the host's memory and
    beyond that on disk: in `directory`, which a restart then reads, or in a temporary file.

    Each is snapshotted every `snapshot_every`, so that a restart replays at most `replay_records` per partition, but no more than
    `snapshot_bytes_per_second` are written for that.
    """

    slots: Annotated[int, Field(ge=2)] = 4096
    memory_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    directory: LocalPath | None = None
    snapshot_every: Duration = lasting("30s")
    replay_records: Positive = 1_000_000
    snapshot_bytes_per_second: Positive = 16 << 20


class Group(Section):
    """`static`: the instance keeps its partitions over a restart within `session_timeout`."""

    static: bool = True
    session_timeout: Duration = lasting("10s")


class Poll(Section):
    """At most so many records enter one step."""

    max_records: Positive = 5000


class Limits(Section):
    """What one input record may cost; above, it is a dead letter. So is one whose time is farther than `time_apart` from its Kafka
    timestamp: seconds where milliseconds are meant, or a clock that was never set.

    So is the record whose prediction would be larger than `output_bytes`; a dead letter larger than that goes without its value.
    """

    output_bytes: Positive = 900_000
    record_bytes: Positive = 1 << 20
    samples: Positive = 100_000
    key_bytes: Positive = 1024
    time_apart: Duration = lasting("87600h")


class DeadLetters(Section):
    topic: Name


class Log(Section):
    format: LogFormat = LogFormat.CONSOLE
    level: LogLevel = LogLevel.INFO


class Metrics(Section):
    """Prometheus metrics over HTTP, where a port is given (0: any free one)."""

    port: Annotated[int | None, Field(ge=0, lt=65536)] = None
    host: str = "127.0.0.1"


class Config(Section):
    """Everything penstock is told. Group id, transactional id and internal topics start with `app`.

    `threads` is how many the network may use on the CPU; 0 leaves one core to the Kafka client and uses the others.
    """

    app: Name
    instance: Name = "local"
    kafka: Properties
    inputs: Annotated[tuple[Input, ...], AtLeastOne]
    model: Model
    normalization: ExistingFile | None = None
    postprocess: tuple[PostprocessStep, ...] = ()
    output: Output
    dead_letters: DeadLetters = Field(default_factory=lambda data: DeadLetters(topic=f"{data.get('app')}.dead-letters"))
    commit: Commit = Commit()
    state: State = State()
    group: Group = Group()
    poll: Poll = Poll()
    limits: Limits = Limits()
    device: Annotated[str, StringConstraints(pattern=_DEVICE)] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    numerics: Numerics = Numerics.EXACT
    log: Log = Log()
    metrics: Metrics = Metrics()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.inputs) > 1:
            raise ValueError(f"inputs: {len(self.inputs)} input topics are given; more than one is not supported yet")
        topics = [self.input.topic, self.output.topic, self.dead_letters.topic, self.snapshot_topic]
        if repeated := {topic for topic in topics if topics.count(topic) > 1}:
            raise ValueError(f"one topic serves two purposes: {', '.join(repeated)}")
        self.statistics()
        return self

    @property
    def input(self) -> Input:
        return self.inputs[0]

    @property
    def channels(self) -> int:
        return len(self.input.channels)

    @property
    def snapshot_topic(self) -> str:
        return f"{self.app}.snapshots"

    @property
    def transactional_id(self) -> str:
        return f"{self.app}-{self.instance}"

    def statistics(self) -> Normalization | None:
        """What the normalization file holds. Raises `ValueError` where it does not fit the input's channels."""
        return read_normalization(self.normalization, self.channels) if self.normalization else None
