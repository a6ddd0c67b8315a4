"""Run a notebook in a kernel of this environment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode


def executed(path: Path) -> NotebookNode:
    """The notebook with new outputs; its first error is raised. The kernel is that of this environment, whatever the user has installed."""
    with tempfile.TemporaryDirectory() as aside, pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, f"{aside}/{name.lower()}")
        patch.delenv("JUPYTER_PATH", raising=False)
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, kernel_name="python3", timeout=300, record_timing=False, resources=where).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of the interpreter
    return notebook
