"""Each notebook runs from top to bottom in its own kernel, and is stored with the outputs of such a run, without times and paths.

`.venv/bin/python -m tests.test_notebooks` renews the outputs.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.helpers.notebooks import executed
from tests.helpers.repository import REPOSITORY

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


def test_an_error_in_a_cell_is_raised(tmp_path: Path) -> None:
    """A negative control: an error is not overlooked."""
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        executed(tmp_path / "broken.ipynb")


if __name__ == "__main__":
    for each_path in NOTEBOOKS:
        nbformat.write(executed(each_path), each_path)
