"""Run a notebook, in a kernel of this environment or in this process."""

from __future__ import annotations

import io
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

COLOURS = 256
"""How many colours a stored picture has. Diagrams look the same, and have half of the size."""


def executed(path: Path) -> NotebookNode:
    """The notebook with new outputs; its first error is raised. The kernel is that of this environment, whatever the user has installed."""
    with tempfile.TemporaryDirectory() as aside, pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, f"{aside}/{name.lower()}")
        patch.delenv("JUPYTER_PATH", raising=False)
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, kernel_name="python3", timeout=300, record_timing=False, coalesce_streams=True, resources=where).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of the interpreter
    return notebook


def with_small_pictures(notebook: NotebookNode) -> NotebookNode:
    """The same notebook, whose pictures have a palette of `COLOURS`."""
    for cell in notebook.cells:
        for out in cell.get("outputs", ()):
            if "image/png" in out.get("data", {}):
                picture = Image.open(io.BytesIO(b64decode(out.data["image/png"]))).convert("RGB")
                picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file := io.BytesIO(), "png", optimize=True)
                out.data["image/png"] = b64encode(file.getvalue()).decode()
    return notebook


def run_here(path: Path) -> dict[str, Any]:
    """Run the code of a notebook in this process, and return its names. Its first error is raised; figures are drawn and thrown away."""
    names: dict[str, Any] = {"__name__": path.stem}
    with pytest.MonkeyPatch.context() as patch, plt.rc_context():
        patch.setattr(plt, "show", lambda: plt.gcf().canvas.draw())
        try:
            for cell in nbformat.read(path, as_version=4).cells:
                if cell.cell_type == "code":
                    exec(compile(cell.source, f"{path.name}:{cell.id}", "exec"), names)
        finally:
            plt.close("all")
    return names
