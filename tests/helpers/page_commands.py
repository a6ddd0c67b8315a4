"""The commands on the pages, by the kind of test that checks them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.pages import PAGES, Command, commands, commands_of, with_own_code
from tests.helpers.repository import REPOSITORY

SHARED_DATA = REPOSITORY.parent / "shared" / "data"
"""A folder that may hold data sets. What it lacks is not downloaded, and the slow tests that need it are skipped."""
OTHERS = {
    ("source", ".venv/bin/activate"),
    ("pip", "install", "."),
    ("pip", "install", ".[wandb]"),
    ("pip", "install", ".[mlflow]"),
    ("pip", "install", ".[submitit]"),
    ("tensorboard", "--logdir", "outputs"),
    ("eval", "$(python train.py -sc install=bash)"),  # its inner command is among COMMANDS
    (".venv/bin/ruff", "format", "."),
}
COMMANDS = [*(command for command in commands() if not with_own_code(command)), Command(("python", "train.py", "-sc", "install=bash"))]
PLANS = [command for command in COMMANDS if command.starts_with("python", "plan.py")]
ELSEWHERE = {command for page in PAGES if page.name != "options.md" for command in commands_of(page)}
CLAIMS = [command for command in COMMANDS if command.starts_with("python", "reproduce.py")]
PRINTS = [command for command in COMMANDS if command.starts_with("python", "train.py") and {"--cfg", "--help", "-sc"} & {*command.words}]
TRAININGS = [command for command in COMMANDS if command.starts_with("python", "train.py") and command not in PRINTS]
CURVATURES = [command for command in COMMANDS if command.starts_with("python", "curvature.py")]
STUDY = ("branches.py", "range_test.py", "recommend.py")
STUDIES = [command for command in COMMANDS if command.words[0] == "python" and command.words[1] in STUDY]
MADE = [
    Command(("python", "train.py", *word.removeprefix("ARGS=").split()))
    for command in COMMANDS
    if command.starts_with("make", "train")
    for word in command.words[2:]
]
README = [command for command in commands_of(REPOSITORY / "README.md") if "-m" not in command.words]
SHORT = [command for command in TRAININGS if command in README or "<run>" in str(command)]
REST = [command for command in dict.fromkeys([*TRAININGS, *MADE]) if command not in SHORT]


def marked(commands: list[Command]) -> list[Any]:
    """Parameters of a test; commands of experiments that only the options page has are marked as slow."""
    slow = [command.arguments[0].startswith("experiment=") and command not in ELSEWHERE for command in commands]
    return [
        pytest.param(command, id=str(command), marks=pytest.mark.slow if late else ()) for command, late in zip(commands, slow, strict=True)
    ]


def kind(command: Command) -> str:
    """The kind of test below that checks the command; empty if there is none."""
    if any(command in known for known in (PLANS, TRAININGS, PRINTS, CURVATURES, STUDIES, CLAIMS)):
        return "front door"
    if command.words[0] == "make":
        return "make"
    if command.starts_with("python", "-m") or (command.words[0] == "python" and command.words[1].startswith(("docs/", "report.py"))):
        return "script"
    return "other" if command.words in OTHERS else ""
