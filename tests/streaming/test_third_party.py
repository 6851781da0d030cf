"""Networks from other people's packages, as they come: nothing in them was written with streaming in mind."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from service.bench.peers.packages import provide
from service.nn import SlidingWindow
from service.streaming import NotStreamable, convert, verify
from tests.streaming.operators import weighted

PACKAGES = {"pytorch-tcn": "1.2.3", "monai": "1.6.1", "neuralforecast": "3.3.0"}


@pytest.fixture(scope="module")
def folders() -> Iterator[dict[str, Path]]:
    """Each package in a folder of its own, without what it depends on: these parts of them need torch alone."""
    found = {name: provide(name, version, print) for name, version in PACKAGES.items()}
    before = list(sys.path)
    sys.path += [str(folder) for folder in found.values()]
    yield found
    sys.path[:] = before


def imported(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def from_file(path: Path) -> ModuleType:
    """A module of a package whose `__init__` wants more than torch."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tcn(**options: object) -> nn.Module:
    return imported("pytorch_tcn").TCN(3, [8, 8, 6], kernel_size=3, **options)


def monai(name: str, *arguments: object, **options: object) -> nn.Module:
    return getattr(imported("monai.networks.nets"), name)(*arguments, **options)


NETWORKS: dict[str, tuple[str, Callable[[dict[str, Path]], nn.Module]]] = {
    "pytorch-tcn, causal": ("BCT", lambda _: tcn(causal=True)),
    "pytorch-tcn, both sides": ("BCT", lambda _: tcn(causal=False, activation="leaky_relu", use_norm="batch_norm")),
    "pytorch-tcn, time first": ("BTC", lambda _: tcn(causal=True, input_shape="NLC")),
    "MONAI residual U-Net": (
        "BCT",
        lambda _: monai("UNet", 1, 3, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch"),
    ),
    "MONAI BasicUNet": ("BCT", lambda _: monai("BasicUNet", 1, 3, 2, features=(4, 4, 8, 8, 8, 4), norm="batch")),
    "MONAI DynUNet": (
        "BCT",
        lambda _: monai("DynUNet", 1, 3, 2, [3, 3, 3], [1, 2, 2], upsample_kernel_size=[2, 2], norm_name="batch"),
    ),
    "NeuralForecast TCN": (
        "BTC",
        lambda folders: from_file(
            folders["neuralforecast"] / "neuralforecast" / "common" / "_modules.py"
        ).TemporalConvolutionEncoder(3, 8, 2, [1, 2, 4], "ReLU"),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_streams(name: str, folders: dict[str, Path]) -> None:
    layout, make = NETWORKS[name]
    module = weighted(make(folders), seed=3)
    program = convert(module, 3, layout=layout, max_step=300)
    lengths = [length for length in (1, 2, 3, 4, 7, 8, 12, 16, 33, 64, 129, 256, 400) if program.accepts(length)]

    assert len(lengths) >= 5
    for seed in range(2):
        assert verify(program, module, lengths=lengths, layout=layout, seed=seed).bit_equal


def test_what_looks_at_all_of_time_is_refused_with_its_place(folders: dict[str, Path]) -> None:
    module = monai("AttentionUnet", 1, 3, 2, (4, 8, 16), (2, 2)).eval()

    with pytest.raises(NotStreamable, match=r"module '.*' \(InstanceNorm1d\).*Use BatchNorm or LayerNorm"):
        convert(module, 3)


def test_and_runs_on_windows(folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    module = SlidingWindow(monai("AttentionUnet", 1, 3, 2, (4, 8, 16), (2, 2)), 32, 32)

    assert verify(convert(module, 3), module, lengths=[5, 32, 70, 200]).bit_equal
