"""The documents name what there is, and all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from service.codec.interface import Reason
from service.config import Config
from service.observe.metrics import Metrics


def settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """The path of every setting, as the documents write it; a section stands for what is in it."""
    for name, field in section.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        inner, many = _section(field.annotation)
        if inner is None:
            yield path
        else:
            yield from settings(inner, f"{path}{'[]' if many else ''}.")


def _section(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for inner in get_args(annotation):
        section, _ = _section(inner)
        if section is not None:
            return section, getattr(annotation, "__origin__", None) is tuple
    return None, False


def test_operations_md_lists_every_setting_and_no_other(root: Path) -> None:
    text = (root / "docs" / "operations.md").read_text()
    rows = set(re.findall(r"^\| `([a-z_][\w.\[\]]*)` \| [^|]* \| [^|]* \|$", text, re.MULTILINE))
    assert set(settings()) - rows == set()
    assert {row for row in rows if "." in row} - set(settings()) == set()


@pytest.mark.parametrize("reason", Reason)
def test_operations_md_explains_every_reason_of_a_dead_letter(root: Path, reason: Reason) -> None:
    assert f"| `{reason}` |" in (root / "docs" / "operations.md").read_text()


DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/design.md",
    "docs/operations.md",
    "docs/streaming.md",
    "docs/exactly-once.md",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(root: Path, document: str) -> None:
    text = (root / document).read_text()
    headings = {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        if path:
            assert ((root / document).parent / path).exists(), target
        elif anchor:
            assert anchor in headings, target


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(root: Path, document: str) -> None:
    named = re.findall(r"`((?:service|schemas|tests|helm|docs|requirements)/[\w./-]*)`", (root / document).read_text())
    assert not [path for path in named if not (root / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_is_named_exists(root: Path, document: str) -> None:
    named = re.findall(r"`(tests/[\w./]+\.py)::(\w+)`", (root / document).read_text())
    assert not [(path, test) for path, test in named if not re.search(rf"^ *def {test}\(", (root / path).read_text(), re.MULTILINE)]


def test_the_file_map_is_true(root: Path) -> None:
    text = (root / "docs" / "design.md").read_text()
    table = text[text.index("## File map") : text.index("## Non-obvious invariants")]
    entries = [path for path in (root / "service").iterdir() if path.name not in {"__init__.py", "__pycache__", "py.typed"}]
    assert not [path.name for path in entries if f"`service/{path.name}{'/' if path.is_dir() else ''}" not in table]
    engine = re.findall(r"`(\w+\.py)`", table)
    assert not [name for name in engine if not (root / "service" / "streaming" / name).is_file()]


def test_operations_md_names_every_metric(root: Path) -> None:
    text = (root / "docs" / "operations.md").read_text()
    assert not [family.name for family in Metrics().registry.collect() if family.name not in text]
