"""Products in bfloat16: close to the module, the same bits in any company, and the same states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from service.app import Application
from service.streaming import Ragged, convert, verify
from service.streaming.kernels import Rounded
from tests.applications import configured
from tests.cluster import Cluster
from tests.streaming.operators import weighted

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not compute in bfloat16"
)


class Wide(nn.Module):
    """Convolutions, a transposed one, a GRU and a linear map, all large enough to be rounded."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.into = nn.Conv1d(2, channels, 3, padding=1)
        self.conv = nn.Conv1d(channels, channels, 3, stride=2, padding=1)
        self.memory = nn.GRU(channels, channels, batch_first=True)
        self.linear = nn.Linear(channels, 2 * channels)
        self.up = nn.ConvTranspose1d(2 * channels, channels, 4, stride=2, padding=1)
        self.out = nn.Conv1d(channels, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(torch.relu(self.into(x)))).transpose(1, 2)
        y = self.linear(self.memory(y)[0]).transpose(1, 2)
        return self.out(torch.relu(self.up(y)))


def wide() -> nn.Module:
    torch.manual_seed(0)
    return Wide().eval()


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_outputs_are_near_the_module_s(numerics: str) -> None:
    module = wide()
    program = convert(module, 2, numerics=numerics, precision="bfloat16")

    verified = verify(program, module, lengths=[4, 16, 33, 100, 301])

    assert numerics == "fast" or verified.bit_equal
    x = torch.randn(301, 2)
    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(x, torch.tensor([301])), torch.tensor([True])).values
    with torch.no_grad():
        truth = module(x.t()[None])[0].t()
    apart = float((made - truth).abs().max() / truth.abs().max())
    assert 1e-4 < apart < 2e-2


def test_only_large_products_are_rounded() -> None:
    rounded = {
        node.where.split("'")[1]: [isinstance(product.kernel, Rounded) for product in node.operator.products()]
        for node in convert(wide(), 2, precision="bfloat16").graph.nodes
        if node.operator.products()
    }

    assert not any(rounded["into"] + rounded["out"])
    assert all(rounded["conv"] + rounded["memory"] + rounded["linear"] + rounded["up"])


def test_a_stream_goes_on_in_another_precision() -> None:
    module = weighted(nn.Sequential(nn.Conv1d(2, 128, 3), nn.ReLU(), nn.Conv1d(128, 128, 3)), 1)
    before, after = (convert(module, 2, precision=precision) for precision in ("float32", "bfloat16"))
    x, slot = torch.randn(20, 2), torch.tensor([1])
    state, other = before.new_state(2), after.new_state(2)
    before.step(state, slot, Ragged(x[:11], torch.tensor([11])))

    after.thaw(other, slot, before.freeze(state, slot))

    made = after.step(other, slot, Ragged(x[11:], torch.tensor([9]))).values
    fresh = after.step(after.new_state(2), slot, Ragged(x, torch.tensor([20]))).values
    assert torch.equal(made, fresh[-len(made) :])
    assert before.fingerprint != after.fingerprint


def test_the_worker_and_the_audit_agree_in_it(tmp_path: Path) -> None:
    model = {"factory": f"{__name__}:wide", "precision": "bfloat16"}
    cluster = Cluster({"one": Application.from_config(configured(tmp_path, model=model))})
    cluster.start("one")
    for samples in (3, 14, 30):
        for key in (b"a", b"b"):
            cluster.produce(key, samples)
    cluster.work()

    report = cluster.audit()

    assert report is not None
    assert report.passed(exact=True), report
    assert report.max_abs_difference > 0


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float8"):
        convert(wide(), 2, precision="float8")
