"""Compiles the engine's kernels (service/streaming/native/rows.c), once for each instruction set, with the compiler that the
package ziglang brings: the wheel is for the machine at hand, and needs no compiler where it is installed.

Where there are no kernels for the machine the wheel goes without, and torch does what they would.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("service", "streaming", "native")
VARIANTS = {("Linux", "x86_64"): ("x86_64_v3", "x86_64_v4")}
TAGS = {("Linux", "x86_64"): "py3-none-manylinux_2_17_x86_64"}
TARGETS = {("Linux", "x86_64"): "x86_64-linux-gnu.2.17"}


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that hatchling calls before it puts a wheel together; `version` is "editable" or "standard"."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        machine = platform.system(), platform.machine()
        if self.target_name != "wheel" or machine not in VARIANTS:
            return
        folder = Path(self.root) / FOLDER
        made = [folder / f"_rows_{variant}.so" for variant in VARIANTS[machine]]
        for variant, library in zip(VARIANTS[machine], made, strict=True):
            _compile(folder / "rows.c", library, TARGETS[machine], variant, Path(self.root) / "build" / "zig")
        build_data["pure_python"] = False
        build_data["tag"] = TAGS[machine]
        if version != "editable":
            build_data["artifacts"] += [str(library.relative_to(self.root)) for library in made]


def _compile(source: Path, library: Path, target: str, processor: str, cache: Path) -> None:
    options = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-s", "-target", target, f"-mcpu={processor}"]
    fresh = library.with_suffix(f".{os.getpid()}")
    command = [sys.executable, "-m", "ziglang", "cc", *options, str(source), "-o", str(fresh)]
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache), **os.environ}
    subprocess.run(command, check=True, env=environment)
    fresh.replace(library)  # another process may have the old one open
