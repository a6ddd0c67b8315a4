"""The progress bar: on a terminal, after a moment, with what is being done and the time left."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from noisescale import progress
from noisescale.progress import in_words, part_of, progress_bar, progress_of


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What was drawn, one after the other."""
        return [line for line in re.split(r"[\r\n]+", self.getvalue()) if line.strip()]


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal on which a bar shows at once."""
    monkeypatch.setattr(progress, "A_MOMENT", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    return terminal


def test_work_that_takes_time_shows_a_bar_with_what_is_done_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress_bar("measuring") as advance:
        assert advance is not None
        for tenth in range(11):
            advance(tenth / 10, f"B = {8 * (1 + tenth // 6)}" if tenth % 2 == 0 else "")
            if tenth in (4, 8):
                time.sleep(0.11)  # tqdm draws every tenth of a second
    assert any(line.startswith("measuring: B = 8 ") for line in terminal.lines), terminal.lines
    assert any(re.search(r"measuring: B = 16  \d+% .*\d\d:\d\d left", line) for line in terminal.lines), terminal.lines
    assert terminal.getvalue().endswith("\r"), "the bar is removed"


def test_short_work_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress_bar("reading the plan") as advance:
        assert advance is not None
        advance(0.5)
    assert terminal.getvalue() == ""


def test_nothing_is_shown_in_a_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "A_MOMENT", 0.0)
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with progress_bar("reading the plan") as advance:
        assert advance is None
    with progress_of("range test", None) as advance:
        in_words(advance)("B = 8", 0.5)
    assert file.getvalue() == ""


def test_a_bar_is_removed_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)

    def work() -> None:
        with progress_bar("reading the plan") as advance:
            assert advance is not None
            advance(0.1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert terminal.getvalue().endswith("\r")


def test_who_wants_the_progress_gets_it_in_place_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    shares: list[float] = []
    with progress_of("range test", shares.append) as advance:
        assert advance is not None
        advance(0.5, "B = 8")
        in_words(advance)("B = 8", 1.0)
    assert shares == [0.5, 1.0]
    assert terminal.getvalue() == ""


def test_a_part_tells_the_share_of_the_whole_and_goes_on_with_what_it_was_doing() -> None:
    told: list[tuple[str, float]] = []
    advance = part_of(lambda what, share: told.append((what, share)), "branches", 0.5, 1.0)
    advance(0.0, "B = 8")
    advance(0.5)
    assert told == [("branches", 0.5), ("branches, B = 8", 0.5), ("branches, B = 8", 0.75)]


def test_who_wants_nothing_shown_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress_of("range test", lambda share: None) as advance:
        assert advance is not None
        advance(0.5, "B = 8")
    assert terminal.getvalue() == ""
