"""The pages of the documentation, their blocks, and the commands on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.repository import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:python|pip|source) [^`]+)`(?!`)")


OWN_PAGE = REPOSITORY / "docs" / "own-model-and-data.md"
"""The page that shows files of a user's own, in a folder my_project."""


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return [(found[1], found[2]) for found in FENCED.finditer(page.read_text())]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", page.read_text())


@dataclass(frozen=True)
class Command:
    """A command that a page tells the user to type."""

    words: tuple[str, ...]
    """The words as the shell splits them; the environment's `.venv/bin/python` becomes `python`."""

    def __str__(self) -> str:
        return shlex.join(self.words).replace("'", "")

    def starts_with(self, *words: str) -> bool:
        return self.words[: len(words)] == words

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `python train.py ...` or `python plan.py ...`."""
        return self.words[2:]


def with_own_code(command: Command) -> bool:
    """Whether a command needs the files that `OWN_PAGE` shows."""
    return "my_project" in command.words


def commands_of(page: Path) -> Iterator[Command]:
    """The commands in the bash blocks of a page, and those in its text."""
    lines = [
        line
        for language, content in blocks(page)
        if language == "bash"
        for line in content.replace("\\\n", " ").splitlines()
        if line.strip()
    ]
    for line in [*lines, *INLINE.findall(prose(page))]:
        words = shlex.split(line, comments=True)
        if words:
            yield Command(tuple(words[0].replace(".venv/bin/python", "python") if i == 0 else word for i, word in enumerate(words)))


def commands() -> list[Command]:
    """The commands of all pages, in their order, without repetitions."""
    return list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))


def files(page: Path) -> dict[str, str]:
    """path -> content of the files that a page shows: the blocks whose first line is `# PATH`."""
    found = ((re.match(r"# (\S+\.(?:py|yaml))\n", content), content) for _, content in blocks(page))
    return {name[1]: content for name, content in found if name}
