"""Fixtures of this folder."""

from __future__ import annotations

import pytest


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines about what the check of cuts could not check."""
    lines: list[str] = []
    monkeypatch.setattr("noisescale.execution.cut_check.rank_zero_info", lines.append)
    return lines
