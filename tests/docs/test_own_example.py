"""The complete example of docs/own-model-and-data.md: its files are written as the page shows them, and each of its commands is run."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.front_door import plan, run
from tests.helpers.pages import OWN_PAGE, Command, commands_of, files, with_own_code
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

COMMANDS = [command for command in commands_of(OWN_PAGE) if with_own_code(command)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which a user has the files of the page."""
    for path, content in files(OWN_PAGE).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_code", None)


def test_the_example_has_everything() -> None:
    assert set(files(OWN_PAGE)) == {"my_project/my_code.py", "my_project/data/patients.yaml", "my_project/module/autoencoder.yaml"}
    words = [
        "data._target_",
        "model._target_",
        "task.loss=",
        "task.loss._target_",
        "module._target_",
        "plan.py",
        "-m",
        "module=autoencoder",
    ]
    typed = " ".join(map(str, COMMANDS))
    assert [word for word in words if word not in typed] == []


@pytest.mark.cases(2)
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_the_example(command: Command, project: Path) -> None:
    if command.starts_with("python", "plan.py"):
        outcome = plan(*command.arguments)
        assert outcome.status == 0, outcome.err
        assert "N = 400" in outcome.out
        return
    outcome = run(*command.arguments, "epochs=2", "threads=1", "logger=csv-only")
    assert outcome.status == 0, outcome.err
    results = [json.loads(path.read_text()) for path in project.glob("outputs/**/results.json")]
    assert len(results) == (4 if "-m" in command.words else 1)
    for result in results:
        assert (result["status"], result["num_examples"]) == ("completed", 400)
        metric = "test/error" if "Autoencoder" in str(command) or "autoencoder" in str(command) else "test/acc"
        assert math.isfinite(result[metric])
        assert metric == "test/error" or result[metric] > 0.8  # of 89 patients; always saying benign gives 0.76
