"""Where things are, and Helm: from PATH or the cache folder; on continuous integration it is built where neither has it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def helm(root: Path) -> str:
    cache = Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")
    present = shutil.which("helm") or list(cache.glob("bin/helm-*"))
    if not present and os.environ.get("CI") != "true":
        pytest.skip("Helm is missing: put helm on PATH, or run `make helm-tool` (needs Go, takes about two minutes)")
    return subprocess.run(["make", "--silent", "helm-tool"], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
