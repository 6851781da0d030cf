"""Files that the configuration names: paths relative to it, and the statistics for normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
from annotated_types import Gt, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

_FINITE = 3.4e38


def _existing(path: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory", Path())
    path = directory / path.expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


ExistingFile = Annotated[Path, AfterValidator(_existing)]
"""A file that exists; relative to the directory of the configuration file."""


def _local(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("directory", Path())) / path.expanduser()


LocalPath = Annotated[Path, AfterValidator(_local)]
"""A path that need not exist yet; relative to the directory of the configuration file."""


class Normalization(BaseModel):
    """Per channel mean and standard deviation, computed beforehand: samples become `(x − mean) / std`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[Annotated[float, Gt(-_FINITE), Lt(_FINITE)], ...]
    std: tuple[Annotated[float, Gt(0), Lt(_FINITE)], ...]


def read_normalization(path: Path, channels: int) -> Normalization:
    """Raises `ValueError` where the file does not fit `channels`."""
    try:
        statistics = Normalization.model_validate(orjson.loads(path.read_bytes()))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f'{path}: {place}: {first["msg"]}; {{"mean": [...], "std": [...]}} is expected') from error
    for name, values in (("mean", statistics.mean), ("std", statistics.std)):
        if len(values) != channels:
            raise ValueError(f"{path}: {name} has {len(values)} values, but the input has {channels} channels")
    return statistics
