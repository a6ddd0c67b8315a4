"""Run each command that a page shows together with its output, and put what it prints now in its place; draw docs/plan.png anew.

Run from the repository: make docs, or .venv/bin/python docs/make_samples.py. A sample is a block like

    ```console
    $ python plan.py scheduler=step
    what it prints, on stdout and stderr
    ```

A test runs the samples, too. What a training prints (accuracy, seconds) depends on the machine: there digits are not compared, and a sample
that differs by them alone is left as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["PAGES", "agree", "printed", "samples"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLE = re.compile(r"(?<=```console\n)\$ python (\w+\.py)(.*)\n([^`]*)")
FIGURE = ("plan.py", "scheduler=cosine", "batch=dual")
"""The command of docs/plan.png."""


def samples(text: str) -> list[tuple[str, str]]:
    """(command without `python`, output) of each sample of a page."""
    return [(f"{found[1]}{found[2]}", found[3]) for found in SAMPLE.finditer(text)]


def run(folder: str, script: str, *arguments: str) -> str:
    """What a command prints in `folder`, stdout and stderr as they come."""
    command = [sys.executable, str(ROOT / script), *arguments]
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment, timeout=300, check=False
    )
    return done.stdout


def printed(command: str) -> str:
    """The same in an empty folder, as a page shows it: without blanks at the ends of lines, and with tensorboard where `make` puts it."""
    with tempfile.TemporaryDirectory() as folder:
        text = run(folder, *command.split())
    lines = [re.sub(r"^\S+/bin/tensorboard ", ".venv/bin/tensorboard ", line.rstrip()) for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def agree(command: str, shown: str, now: str) -> bool:
    """Whether two outputs of a command are the same: but for the time in the name of the run's folder, and for digits where it trains."""
    shown, now = (re.sub(r"; on .+$", "; on a device", text, flags=re.MULTILINE) for text in (shown, now))
    if command.startswith("train.py") and "│" in now:  # the table at the end of a training
        pattern, shown, now = r"\d+|\b(nan|inf)\b", re.sub(" +│", "│", shown), re.sub(" +│", "│", now)
    else:
        pattern = r"\d{4}-\d\d-\d\d_[\d-]+"
    return re.sub(pattern, "#", shown) == re.sub(pattern, "#", now)


def main() -> None:
    """Renew all samples and the figure."""
    for page in PAGES:
        text = page.read_text()
        for command, shown in samples(text):
            now = printed(command)
            if not agree(command, shown, now):
                print(f"{page.relative_to(ROOT)}: {command}")
                text = text.replace(f"$ python {command}\n{shown}", f"$ python {command}\n{now}")
        if text != page.read_text():
            page.write_text(text)
    with tempfile.TemporaryDirectory() as folder:
        run(folder, *FIGURE, f"hydra.run.dir={folder}")
        shutil.copy(Path(folder) / "plan.png", ROOT / "docs" / "plan.png")


if __name__ == "__main__":
    main()
