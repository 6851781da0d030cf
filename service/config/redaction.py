"""Effective settings for people's eyes, without secrets."""

from __future__ import annotations

import re
from typing import Any

from service.config.model import Config

_SECRET = re.compile(r"passw|passphrase|secret|token|credential|private|jaas|oauthbearer\.config|\.pem$|api.?key", re.IGNORECASE)
REDACTED = "********"


def is_secret(name: str) -> bool:
    """Whether a setting of this name may hold a secret. Rather one too many."""
    return _SECRET.search(name) is not None


def shown(config: Config) -> dict[str, Any]:
    """The effective settings, defaults included, ready for YAML, with secrets redacted."""
    redacted: dict[str, Any] = _redacted(config.model_dump(mode="json", by_alias=True, exclude_none=True))
    return redacted


def _redacted(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {inner: _redacted(item, inner) for inner, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, name) for item in value]
    return REDACTED if is_secret(name) and value is not None else value
