"""What is installed from the wheel, away from the repository, is all that the service needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from service.streaming.native.library import for_this_processor


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=root, check=True, capture_output=True
    )
    (built,) = folder.glob("penstock-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(root: Path, wheel: Path) -> None:
    held = set(ZipFile(wheel).namelist())
    package = {path.relative_to(root).as_posix() for path in (root / "service").rglob("*") if path.is_file()}
    schemas = {f"service/{path.relative_to(root).as_posix()}" for path in (root / "schemas").rglob("*") if path.is_file()}
    wanted = {name for name in package | schemas if "__pycache__" not in name}
    assert not wanted - held
    assert {Path(name).suffix for name in wanted} >= {".avsc", ".json", ".safetensors", ".typed", ".xml", ".yaml"}


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    assert {name.split("/")[0].split("-")[0] for name in ZipFile(wheel).namelist()} == {"service", "penstock"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    ZipFile(wheel).extractall(folder)
    return folder


def penstock(installed: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as the wheel's entry point runs it, with the package from `installed` and nothing of the repository."""
    return subprocess.run(
        [sys.executable, "-c", "from service.cli import main; main()", *map(str, arguments)],
        cwd=installed,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(installed)},
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_installed_command_knows_its_version(installed: Path) -> None:
    done = penstock(installed, "--version")
    assert done.returncode == 0, done.stderr
    assert "0.1.0" in done.stdout


def test_the_installed_demo_configuration_is_valid(installed: Path) -> None:
    done = penstock(installed, "config", "check", installed / "service" / "demo" / "pumps.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(for_this_processor() is None, reason="no kernels are built for this processor")
def test_the_installed_engine_has_its_kernels(installed: Path) -> None:
    """Away from the repository, where nothing can have compiled them later."""
    code = "from service.streaming.native import library; print(library())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env={"PYTHONPATH": str(installed)}, check=True, capture_output=True, text=True
    )
    assert "Library" in found.stdout
