"""Values are compared with the types that a class declares: one that cannot fit is refused by its key, before the class is made."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import pytorch_lightning as pl

from noisescale.app.arguments import misfit
from noisescale.callbacks import Checkpoint, EpochRecorder


class Declared:
    def __init__(  # type: ignore[no-untyped-def]
        self,
        count: int = 1,
        rate: float | None = None,
        name: str = "",
        flag: bool = False,
        place: str | Path | None = None,
        mode: Literal["a", "b"] = "a",
        several: tuple[int, ...] = (),
        table: dict[str, int] | None = None,
        time: datetime.timedelta | None = None,
        net: pl.Callback | None = None,
        anything: Any = None,
        unsaid=None,
    ) -> None: ...


Declared.__module__ = "pytorch_lightning.declared"


@pytest.mark.parametrize(
    ("key", "good", "bad", "words"),
    [
        ("count", [1, -3], ["x", 1.5, True, None, [1]], "must be a whole number"),
        ("rate", [1, 1.5, None], ["x", False, []], "must be a number or null"),
        ("name", ["x", ""], [7, True, None, ["x"]], "must be text"),
        ("flag", [True], [1, "true", None], "must be true or false"),
        ("place", ["x", None], [7, True], "must be text or a path or null"),
        ("mode", ["a"], ["c", 1], "must be one of a, b"),
        ("several", [[1], []], ["x", 3, {"a": 1}], "must be a list"),
        ("table", [{"a": 1}, None], [[1], "x"], "must be keys with values or null"),
        ("time", [None, {"_target_": "datetime.timedelta"}], [3, "x"], "must be null"),
        ("net", [None, {"_target_": "my.Callback"}], [3, "x", {"a": 1}], "must be null"),
        ("anything", [None, 3, "x", []], [], ""),
        ("unsaid", [None, 3, "x", []], [], ""),
        ("not_there", [None, 3, "x", []], [], ""),
    ],
)
def test_what_fits_a_type(key: str, good: list[Any], bad: list[Any], words: str) -> None:
    assert [value for value in good if misfit(Declared, {key: value}) is not None] == []
    for value in bad:
        error = misfit(Declared, {key: value})
        assert error is not None
        assert (error.key, error.value, error.problem) == (key, value, words)


def test_lightnings_own_declarations_and_those_of_this_package_are_known() -> None:
    assert str(misfit(pl.Trainer, {"log_every_n_steps": "abc"})) == "log_every_n_steps=abc: must be a whole number or null"
    assert str(misfit(Checkpoint, {"filename": 7})) == "filename=7: must be text or null"
    assert str(misfit(EpochRecorder, {"path": None})) == "path=None: must be text or a path"


def test_the_annotations_of_other_code_are_not_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Declared, "__module__", "my_module")
    assert misfit(Declared, {"count": "x"}) is None
