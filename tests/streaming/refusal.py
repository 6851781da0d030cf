"""What an error says besides the line of source that it quotes, in which the expected words may stand too."""

from __future__ import annotations

import linecache
import re

import pytest

from service.streaming import NotStreamable


def told(error: pytest.ExceptionInfo[NotStreamable]) -> str:
    text = str(error.value)
    quoted = {linecache.getline(path, int(number)).strip()[:160] for path, number in re.findall(r"([^\s,]+\.py):(\d+): ", text)}
    for line in quoted - {""}:
        text = text.replace(line, "")
    return text
