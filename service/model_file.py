"""Modules that come as files: TorchScript, and programs of `torch.export`."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from service.errors import ConfigurationError

EXPORTED = ".pt2"


class FromFile(nn.Module):
    """A module as a file holds it; it is in the mode in which it was saved, and told apart by the file's hash."""

    def __init__(self, module: nn.Module, digest: str) -> None:
        super().__init__()
        self.module = module
        self.digest = digest

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
    """The module in a TorchScript file or a `.pt2` archive. Raises `ConfigurationError` where it is neither."""
    data = pinned(path, sha256)
    with warnings.catch_warnings():
        # Both kinds of file stay in use for years after torch has begun to prefer one of them.
        warnings.simplefilter("ignore")
        try:
            if path.suffix == EXPORTED:
                module = torch.export.load(io.BytesIO(data)).module()
            else:
                module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever torch finds in the file
            first = str(error).strip().partition("\n")[0]
            wanted = "an archive of torch.export.save" if path.suffix == EXPORTED else "a TorchScript file (torch.jit.save)"
            raise ConfigurationError(
                f"model.file: {path} is not {wanted}: {type(error).__name__}: {first}. What torch.save has pickled is not read: "
                "give its class as the factory and its weights as safetensors."
            ) from error
    return FromFile(module, hashlib.sha256(data).hexdigest()[:16])
