"""What would go wrong on a GPU, seen without one: tensors left on the host, and launches that wait."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from service.errors import DeviceRefused, NotStreamable
from service.streaming import Program, convert
from service.streaming.device import StandIn
from service.streaming.device.cuda import RECURRENT_ROWS, Cuda, settle_numerics
from service.streaming.device.relocation import relocated
from service.streaming.device.rounds import Round
from service.streaming.kernels import PLAIN, Blas, Kernel
from service.streaming.numerics import Gemm
from service.streaming.operators.recurrent import Layer
from tests.streaming import operators_windows
from tests.streaming.device.test_device import NETWORKS, network
from tests.streaming.operators import weighted
from tests.streaming.test_contract import TABLE

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class Imagined(StandIn):
    """A CUDA device of torch's fake tensors: they know where they are and what shape they have, and nothing else."""

    name = "imagined"

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cuda", 0)

    def send(self, host: Tensor, device: Tensor) -> None:
        device.copy_(host, non_blocking=True)

    def sent(self, host: Tensor) -> None: ...

    def adopt(self, product: Gemm, exact: bool, repeated: bool) -> None:
        Cuda.adopt(self, product, exact, repeated)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def launch_all(module: nn.Module, channels: int, numerics: str) -> Program:
    """Moves a program to a GPU and runs the launches of every kind of round, as building a round does."""
    program = convert(module, channels, numerics=numerics, max_step=9, device=StandIn())
    with FakeTensorMode(allow_non_fake_inputs=True):
        program.accelerator = Imagined()
        program.device = program.accelerator.device
        program.steps = relocated(program.steps, program.accelerator, program.numerics)
        state = program.new_state(slots=5)
        assert program.cutter is not None
        for warm in (False, True):
            made = Round(program.graph, program.steps, state, program.cutter.levels[-1], program.accelerator, warm)
            assert made.launches.made[program.output.index].device.type == "cuda"
    return program


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_all_tensors_of_a_network_are_on_the_device_and_nothing_waits_for_it(name: str, numerics: str) -> None:
    module, channels = network(name)
    if name != "windows":  # whose module fake tensors cannot be moved into
        launch_all(module, channels, numerics)


def test_a_module_on_windows_is_refused_under_exact() -> None:
    module, channels = network("windows")
    with pytest.raises(NotStreamable, match=r"module on windows is not known to give the same bits on cuda:0.*numerics='fast'"):
        launch_all(module, channels, "exact")


def test_under_exact_the_products_of_a_recurrence_have_a_fixed_number_of_rows_too() -> None:
    module, channels = network("stacked recurrences")
    found = {numerics: _kernels(launch_all(module, channels, numerics)) for numerics in ("exact", "fast")}

    assert found["exact"] == ({Blas(RECURRENT_ROWS, RECURRENT_ROWS)}, {PLAIN})
    assert found["fast"] == ({PLAIN}, {PLAIN})


def _kernels(program: Program) -> tuple[set[Kernel], set[Kernel]]:
    """Those of recurrences, and all others."""
    layers = [step.node.operator for step in program.steps if isinstance(step.node.operator, Layer)]
    others = [product for step in program.steps if step.node.operator not in layers for product in step.node.operator.products()]
    return {product.kernel for layer in layers for product in (layer.into, layer.back)}, {product.kernel for product in others}


def test_a_device_that_is_not_there_is_refused_with_the_reason_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where there is one, too
    module, channels = network("tcn")
    with pytest.raises(
        ValueError, match=r"device is 'cuda:1': no CUDA device can be used here \(PyTorch .*\)\. See .*; or use cpu"
    ):
        convert(module, channels, device="cuda:1")


def test_devices_of_another_kind_and_lower_precisions_on_a_device_are_refused() -> None:
    module, channels = network("tcn")
    with pytest.raises(DeviceRefused, match="device is 'meta'; cpu, cuda and cuda:<number>"):
        convert(module, channels, device="meta")
    with pytest.raises(DeviceRefused, match="precision is 'bfloat16', which was measured on the CPU only"):
        convert(module, channels, device=StandIn(), precision="bfloat16")


@pytest.fixture
def settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    filled, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    yield
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark = filled, benchmark


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize("exact", [False, True])
def test_float32_is_float32_and_exact_asks_for_deterministic_algorithms(exact: bool) -> None:
    settle_numerics(exact)

    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() is exact
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if exact else None)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in operators_windows.TABLE])
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_all_tensors_of_every_operator_are_on_the_device(name: str, data: st.DataObject) -> None:
    module, channels = data.draw(TABLE[name])
    launch_all(weighted(module, 0), channels, "exact")
