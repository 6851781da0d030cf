"""What tests on the real broker need."""

from __future__ import annotations

import os

import pytest

from service.demo.broker import available


def require_broker() -> None:
    """Skips where Java or Maven is missing; where `CI=true` that is a failure."""
    missing = available()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
