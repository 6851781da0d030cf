"""Modules from files, in the service: what is read, what is refused, and a worker that runs them on windows."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from service.app import Application
from service.cli import main
from service.errors import ConfigurationError, NotStreamable
from service.model import build, program
from service.model_file import read_module
from service.streaming import verify
from tests.applications import configured, write
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


@pytest.mark.parametrize("make", [script, exported])
def test_a_file_gives_what_its_module_gives(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / ("m.pt2" if make is exported else "m.pt"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    module = build(configured(tmp_path, model=settings(path, sha256=digest), postprocess=[]))
    x = torch.randn(1, 2, 40)
    expected = torch.stack([classifier()(x[..., first : first + 16]) for first in range(0, 25, 4)], -1)

    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("make", [script, exported])
def test_a_file_is_told_by_what_is_in_it_and_read_without_a_warning(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "m.pt2").rename(tmp_path / "network")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_module(path, None)(torch.zeros(3, 2, 16)).shape == (3, 2)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.ts"])
def test_what_has_been_pickled_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(classifier().state_dict(), tmp_path / name)

    with pytest.raises(ConfigurationError, match=r"model.file: .* is what torch.save has pickled, .*give its class as the factory"):
        build(configured(tmp_path, model=settings(tmp_path / name)))


@pytest.mark.parametrize("make", [script, exported])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "m.pt2")
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ConfigurationError, match=r"model.file: .* is cut off, or another kind of file, and not TorchScript"):
        build(configured(tmp_path, model=settings(path)))


@pytest.mark.parametrize(("make", "needed"), [(script, "data.pkl"), (exported, "models/model.json")])
def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path, make: Any, needed: str) -> None:
    whole, path = make(tmp_path / "whole.pt2"), tmp_path / "m.pt2"
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(path, "w") as left:
        for entry in given.infolist():
            if not entry.filename.endswith(needed):
                left.writestr(entry, given.read(entry))

    with pytest.raises(ConfigurationError, match=r"model.file: .* cannot be read by torch 2.*save it anew"):
        build(configured(tmp_path, model=settings(path)))


def test_an_export_that_takes_something_else_than_windows_is_refused(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x + y).mean(-1)

    example = torch.zeros(2, 3, 16, dtype=torch.float64)
    for module, inputs in ((Sum(), (example.float(),) * 2), (nn.Flatten(), (example,)), (nn.Flatten(), (example[0].float(),))):
        torch.export.save(torch.export.export(module, inputs), tmp_path / "m.pt2")
        with pytest.raises(ConfigurationError, match=r"model.file: .* was exported for the inputs \(torch.*one tensor of float32"):
            build(configured(tmp_path, model=settings(tmp_path / "m.pt2")))


@pytest.mark.parametrize("changes", [{"size": 17}, {"layout": "BTC"}])
def test_an_export_for_other_windows_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = configured(tmp_path, model=settings(exported(tmp_path / "m.pt2"), **changes))

    with pytest.raises(NotStreamable, match=r"does not take \[4, 1., 2\] windows, \[N, size, C\] in its layout: .*Guard failed"):
        program(config, build(config))


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


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_an_export_for_one_size_of_batch_gets_that(tmp_path: Path, batch: int) -> None:
    config = configured(tmp_path, model=settings(exported(tmp_path / "m.pt2", batch)), postprocess=[])
    module = build(config)

    assert verify(program(config, module), module, lengths=[15, 16, 90]).bit_equal
    if batch == 7:
        config = configured(tmp_path, model=settings(exported(tmp_path / "m.pt2", batch), batch=5))
        with pytest.raises(NotStreamable, match=r"does not take \[5, 16, 2\] windows.*== 7.*another number of windows"):
            program(config, build(config))


def test_an_export_for_all_sizes_of_batch_but_one_is_run_on_the_others(tmp_path: Path) -> None:
    sizes = ({0: torch.export.Dim("windows", min=2, max=64)},)
    torch.export.save(torch.export.export(classifier(), (torch.zeros(3, 2, 16),), dynamic_shapes=sizes), tmp_path / "m.pt2")
    config = configured(tmp_path, model=settings(tmp_path / "m.pt2"), postprocess=[])
    module = build(config)

    assert verify(program(config, module), module, lengths=[15, 16, 90]).bit_equal


@pytest.mark.parametrize("make", [script, exported])
def test_a_worker_runs_it_on_windows(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / ("m.pt2" if make is exported else "m.pt"))
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


def test_the_command_line_shows_the_windows_and_verifies_them(tmp_path: Path) -> None:
    path = write(tmp_path, model=settings(exported(tmp_path / "m.pt2", 3), hop=40))

    shown = CliRunner().invoke(main, ["model", "show", str(path)]).stdout
    verified = CliRunner().invoke(main, ["model", "verify", str(path)])

    assert re.search(r"^windows +16 samples, 16 ms, every 40 samples, 40 ms *$", shown, re.MULTILINE)
    assert re.search(r"^windows at a time +3 *$", shown, re.MULTILINE)
    assert re.search(r"^receptive field +", shown, re.MULTILINE)
    assert "module on windows window 16 stride 40" in shown
    assert (verified.exit_code, verified.stdout.startswith("streamed equals offline")) == (0, True), verified.output
