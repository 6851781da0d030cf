"""Modules that come as files: TorchScript, and programs of `torch.export`."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from service.errors import ConfigurationError


class FromFile(nn.Module):
    """A module as a file holds it, told apart by the file's hash; an exported program is in the mode in which it was exported.

    `batch` is how many windows it takes at a time, where it takes no other number.
    """

    def __init__(self, module: nn.Module, digest: str, batch: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.digest = digest
        self.batch = batch

    def forward(self, x: Any) -> Any:
        return self.module(x)

    def train(self, mode: bool = True) -> Self:
        """Changes nothing below: exported programs have no modes, and refuse to be asked."""
        self.training = mode
        return self

    def extra_repr(self) -> str:
        return self.digest


def pinned(path: Path, sha256: str | None) -> bytes:
    """The file's content. Raises `ConfigurationError` where it has another hash than it should."""
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise ConfigurationError(f"model.sha256: {path} has the SHA-256 {found}, not {sha256}")
    return data


def read_module(path: Path, sha256: str | None) -> FromFile:
    """The module in a TorchScript file or a `.pt2` archive, whatever its name. Raises `ConfigurationError` where it is neither."""
    data = pinned(path, sha256)
    digest = hashlib.sha256(data).hexdigest()[:16]
    names = _names(data)
    if "archive_format" in names:
        return FromFile(*_exported(path, data, digest))
    if "constants.pkl" in names:
        return FromFile(_script(path, data), digest)
    found = "what torch.save has pickled" if "data.pkl" in names else "cut off, or another kind of file"
    raise ConfigurationError(
        f"model.file: {path} is {found}, and not TorchScript (torch.jit.save) or an archive of torch.export.save. For a pickled "
        "module or its weights, give its class as the factory and its weights as safetensors."
    )


def _names(data: bytes) -> set[str]:
    """The entries of the archive, without the folder that holds them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        return set()
    # In a file that is cut off, an archive within the archive may be what is found.
    whole = min((entry.header_offset for entry in entries), default=0) == 0
    return {entry.filename.partition("/")[2] for entry in entries} if whole else set()


def _script(path: Path, data: bytes) -> nn.Module:
    with warnings.catch_warnings():
        # Files stay in use for years after torch has begun to prefer another kind.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", FutureWarning)
        try:
            module: nn.Module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever torch finds in the file
            raise _unreadable(path, error) from error
    return module.eval()


def _exported(path: Path, data: bytes, digest: str) -> tuple[nn.Module, str, int | None]:
    try:
        program = torch.export.load(io.BytesIO(data))
        module = program.module()
    except Exception as error:  # whatever torch finds in the file
        raise _unreadable(path, error) from error
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor) or inputs[0].ndim != 3 or inputs[0].dtype != torch.float32:
        found = ", ".join(
            f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else str(value) for value in inputs
        )
        raise ConfigurationError(
            f"model.file: {path} was exported for the inputs ({found}); one tensor of float32, [batch, channels, size] or "
            "[batch, size, channels], is expected"
        )
    batch = inputs[0].shape[0]
    return module, digest, batch if isinstance(batch, int) else None


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    first = str(error).strip().partition("\n")[0]
    return ConfigurationError(
        f"model.file: {path} cannot be read by torch {torch.__version__}: {type(error).__name__}: {first}. If the file is whole, "
        "save it anew with this version."
    )
