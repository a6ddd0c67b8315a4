"""Each notebook runs from top to bottom in its own kernel, and is stored with the outputs of such a run, without times and paths.

`.venv/bin/python -m tests.test_notebooks` renews the outputs.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from noisescale.app import notebook
from tests.helpers.front_door import fresh_process
from tests.helpers.notebooks import executed, run_here, with_small_pictures
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: NotebookNode) -> list[list[tuple[str, str]]]:
    """The output of each code cell: the text, and that there was a picture, but not its pixels, which depend on the drawing library."""
    return [[(out.get("name", out.output_type), out.get("text", "")) for out in cell.outputs] for cell in code_cells(notebook)]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.slow  # a kernel starts, and all of it is run
@each
def test_a_notebook_runs_and_shows_what_it_is_kept_with(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path))
    fresh = shown(executed(copy))
    assert "stderr" not in [name for outputs in fresh for name, _ in outputs]  # warnings go to stderr
    assert fresh == shown(nbformat.read(path, as_version=4))


@each
def test_a_notebook_is_kept_executed_in_order_without_times_and_places(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [cell.metadata for cell in notebook.cells if cell.metadata]
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not re.findall(r"/(?:home|root|Users|tmp|work)/\S*|\d{4}-\d\d-\d\dT\d\d:\d\d", text)


@pytest.mark.parametrize("name", ["02_the_dual"])
def test_the_code_of_a_notebook_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the default suite, where a kernel and all trainings would take too long: fewer images, and every seed is the first one."""
    real = notebook.run

    @cache
    def once(words: tuple[str, ...]) -> notebook.Run:
        return real("data.subset_size=200", *words)

    def quick(*words: str, **values: Any) -> notebook.Run:
        kept, folder = [word for word in words if not word.startswith(("seed=", "hydra.run.dir="))], words[-1]
        folders.setdefault(tuple(kept), folder)
        return once((*kept, folders[tuple(kept)]))

    folders: dict[tuple[str, ...], str] = {}
    monkeypatch.setattr(notebook, "run", quick)
    with fresh_process():
        names = run_here(REPOSITORY / "notebooks" / f"{name}.ipynb")
    plan_of_all, plan_of_dual = names["decay"].total_updates(), names["dual"].total_updates()
    assert plan_of_all > 2 * plan_of_dual
    assert len(folders) == 5
    assert {seeds[0].results["status"] for seeds in names["arms"].values()} <= {"completed", "diverged"}


@each
def test_the_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https://|#)([^)#]+)", text)
    assert not [link for link in links if not (path.parent / link).exists()]


def test_small_pictures_show_the_same() -> None:
    stored = nbformat.read(NOTEBOOKS[0], as_version=4)
    before, after = json.dumps(stored), json.dumps(with_small_pictures(stored))
    assert re.sub(r'"image/png": "[^"]*"', "", before) == re.sub(r'"image/png": "[^"]*"', "", after)


def test_an_error_in_a_cell_is_raised(tmp_path: Path) -> None:
    """A negative control: an error is not overlooked."""
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        executed(tmp_path / "broken.ipynb")


if __name__ == "__main__":
    for each_path in NOTEBOOKS:
        nbformat.write(with_small_pictures(executed(each_path)), each_path)
