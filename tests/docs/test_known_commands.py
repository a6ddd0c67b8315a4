"""Every command on every page is of a kind that is checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.page_commands import (
    COMMANDS,
    OTHERS,
    PLANS,
    REST,
    SHORT,
    kind,
)
from tests.helpers.pages import PAGES, blocks, name


def test_every_command_is_of_a_kind_that_is_checked() -> None:
    assert len(PLANS) > 5
    assert len(SHORT) > 3
    assert len(REST) > 40
    assert [str(command) for command in COMMANDS if not kind(command)] == []
    assert {command.words for command in COMMANDS if kind(command) == "other"} == OTHERS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_says_what_it_is(page: Path) -> None:
    """A command in a block without a language, or with another language, would not be tested."""
    for language, content in blocks(page):
        assert language in ("bash", "console", "python", "text", "yaml"), content
        assert language in ("bash", "console") or not re.search(r"^\W*(python|make) ", content, flags=re.MULTILINE), content
        if language == "bash":  # a comment must not exceed the width of a page; a long command has its comment above it
            assert [line for line in content.splitlines() if "#" in line and len(line) > 105] == []
    assert not re.search(r"^    .*(python \w+\.py|make \w)", page.read_text(), flags=re.MULTILINE)
