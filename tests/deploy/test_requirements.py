"""The pinned requirements are those of pyproject.toml, with hashes, from wherever the reader's installer finds them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    "runtime.txt": PROJECT["dependencies"],
    "dev.txt": PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"],
    "build.txt": ["editables", "hatchling", "uv"],
}


def pins(lock: str) -> dict[str, set[str]]:
    """Package → the versions it is pinned to (more than one where they depend on the Python version)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_declared_requirement_is_pinned_within_its_bounds(lock: str) -> None:
    pinned = pins(lock)
    stale = [
        line
        for line in LOCKS[lock]
        for declared in [Requirement(line)]
        for versions in [pinned.get(canonicalize_name(declared.name), set())]
        if not versions or not all(declared.specifier.contains(version) for version in versions)
    ]
    assert not stale, f"requirements/{lock} does not pin {stale}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|--index-url|--find-links", text)


def test_the_image_and_the_developers_have_the_same_versions() -> None:
    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert {name: dev[name] for name in runtime} == runtime
