"""docs/streaming.md is true: its code runs, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import service.nn
from service.streaming import lowering, operator

DOCUMENT = Path(__file__).parents[2] / "docs" / "streaming.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text()


def section(text: str, heading: str) -> str:
    return text[text.index(f"\n## {heading}\n") :].split("\n## ", 2)[1]


def test_its_code_runs_from_top_to_bottom(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    registered = dict(lowering._modules)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "document"}
    try:
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start(1)].count("\n")
            exec(compile("\n" * line + match[1], str(DOCUMENT), "exec"), names)
    finally:
        lowering._modules.clear()
        lowering._modules.update(registered)

    assert "conv1d window 5" in capsys.readouterr().out


def test_every_operator_that_it_names_converts(text: str) -> None:
    kinds = {kind.__name__ for kind in lowering._modules}
    rows = re.findall(r"^\| (`.*?) \|", section(text, "What converts"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert len(named) > 50
    assert not [name for name in named if lowering.function_lowering(name) is None and name not in kinds]


def test_every_function_that_it_says_is_refused_has_no_lowering(text: str) -> None:
    first_column = re.findall(r"^\| (.*?) \|", section(text, "What is refused, and what to do"), re.MULTILINE)
    named = {name for row in first_column for name in re.findall(r"`(\w+)`", row)}

    assert {"group_norm", "instance_norm", "stft"} <= named
    assert not [name for name in named if lowering.function_lowering(name) is not None]


def test_it_names_every_module_over_time_and_every_kind_of_operator(text: str) -> None:
    assert not [name for name in service.nn.__all__ if f"`{name}(" not in section(text, "Modules over time")]
    kinds = (operator.Pointwise, operator.Windowed, operator.Expansion, operator.Recurrence)
    assert not [kind.__name__ for kind in kinds if f"| `{kind.__name__}` |" not in section(text, "Modules of your own")]


def test_its_own_links_lead_somewhere(text: str) -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^## (.*)$", text, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
