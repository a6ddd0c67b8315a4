"""The one-line message with which something is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from noisescale.errors import ConfigError


def refusal_of(action: Callable[[], object]) -> str:
    """The message of the ConfigError that `action` raises."""
    with pytest.raises(ConfigError) as refusal:
        action()
    return str(refusal.value)


def error_of(action: Callable[[], object], key: str, *words: object) -> str:
    """The message, which must be a single line, start with `key=`, contain all `words`, and hide any error that it replaces."""
    with pytest.raises(ConfigError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{key}=")
    assert [str(word) for word in words if str(word) not in line] == [], line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line
