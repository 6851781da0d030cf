"""Modules from files, in the service: what is read, what is refused, and a worker that runs them on windows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.app import Application
from service.errors import ConfigurationError, NotStreamable
from service.model import build, program
from tests.applications import configured
from tests.cluster import Cluster

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


def classifier() -> nn.Module:
    """Pools over all time, which only windows bound."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        parts = (nn.Conv1d(2, 4, 5), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
        return nn.Sequential(*parts).eval()


def script(path: Path) -> Path:
    torch.jit.save(torch.jit.script(classifier()), path)
    return path


def exported(path: Path, batch: int | None = None) -> Path:
    """For batches of any size, or of one."""
    sizes = None if batch else ({0: torch.export.Dim("windows", min=1, max=4096)},)
    torch.export.save(torch.export.export(classifier(), (torch.zeros(batch or 2, 2, 16),), dynamic_shapes=sizes), path)
    return path


def settings(path: Path, **changes: Any) -> dict[str, Any]:
    return {"file": str(path), "mode": "window", "size": 16, "hop": 4} | changes


@pytest.mark.parametrize("write", [script, exported])
def test_a_file_gives_what_its_module_gives(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / ("m.pt2" if write is exported else "m.pt"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    module = build(configured(tmp_path, model=settings(path, sha256=digest), postprocess=[]))
    x = torch.randn(1, 2, 40)
    expected = torch.stack([classifier()(x[..., first : first + 16]) for first in range(0, 25, 4)], -1)

    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.ts"])
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(classifier().state_dict(), tmp_path / name)

    with pytest.raises(ConfigurationError, match=r"model.file: .* is not .*give its class as the factory"):
        build(configured(tmp_path, model=settings(tmp_path / name)))


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model.sha256: .* has the SHA-256"):
        build(configured(tmp_path, model=settings(script(tmp_path / "m.pt"), sha256="0" * 64)))


def test_another_file_is_another_program(tmp_path: Path) -> None:
    one = script(tmp_path / "one.pt")
    two = tmp_path / "two.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(*classifier(), nn.Hardtanh())), two)
    first, second = (
        program(config, build(config)) for config in (configured(tmp_path, model=settings(path)) for path in (one, two))
    )

    assert first.fingerprint != second.fingerprint
    assert first.state_fingerprint == second.state_fingerprint


def test_an_export_for_one_size_of_batch_alone_is_refused_unless_penstock_uses_it(tmp_path: Path) -> None:
    config = configured(tmp_path, model=settings(exported(tmp_path / "16.pt2", 16)))
    assert program(config, build(config)).graph.nodes[0].operator.batches == (16,)

    config = configured(tmp_path, model=settings(exported(tmp_path / "7.pt2", 7)))
    with pytest.raises(NotStreamable, match=r"in batches of \(1, 4, 16, 64\)"):
        program(config, build(config))


@pytest.mark.parametrize("write", [script, exported])
def test_a_worker_runs_it_on_windows(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / ("m.pt2" if write is exported else "m.pt"))
    cluster = Cluster({"one": Application.from_config(configured(tmp_path, model=settings(path)))})
    cluster.start("one")
    for samples in (3, 14, 1, 30):
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, samples)
    cluster.work()
    cluster.crash("one")
    cluster.expel("one")
    cluster.start("one")
    cluster.produce(b"a", 50)
    cluster.work(turns=9)

    report = cluster.audit()

    assert report is not None
    assert report.passed(exact=True), report
    assert report.expected == 3 * 2 + 1
    indices = sorted(prediction["index"] for prediction in cluster.predictions() if prediction["key"] == "a")
    assert indices == [0, 1, 9]
