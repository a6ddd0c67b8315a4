"""The job of report.py: compare the runs in folders, print their table, and write a report with pictures.

It is about folders, and composes no config, so its arguments are plain ones, and neither Hydra nor torch is imported.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from noisescale.signals import Interrupted, raised_at_once
from noisescale.studies.runs import Run, read_run, runs_in
from noisescale.studies.study_folders import studies_in, study_in

__all__ = ["main"]

BAD_INPUT = 2
FAILED = 4
_SOME = 5


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}; python report.py --help shows what there is\n")


class _BadInput(Exception):
    """Bad input, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the runs in the folders named in `arguments`; returns the exit status."""
    parser = _Parser(
        prog="python report.py",
        description="Compare runs: a table, and a report with pictures. Runs that differ in their seed alone are one row.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a run, a sweep, or any folder with runs below it; * and ** are allowed")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the report (default: outputs/report/<date>_<time>)")
    given = parser.parse_args(arguments)
    try:
        with raised_at_once():
            _compare(given.folders, given.out or Path("outputs", "report", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")))
    except Interrupted as interrupted:
        print(f"error: interrupted by {interrupted}; the same command writes the report", file=sys.stderr)
        return int(interrupted.code or 1)
    except _BadInput as bad:
        print(f"error: {bad}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or 'the report'}: cannot be written ({error.strerror})", file=sys.stderr)
        return FAILED
    return 0


def _compare(given: Sequence[str], out: Path) -> None:
    """The work of `main`."""
    folders = _folders(given)
    runs = list({run.folder.resolve(): run for run in runs_in(*folders)}.values())
    if not runs:
        for study, line in studies_in(folders):
            raise _BadInput(f"{os.path.relpath(study)}: {line}")
        raise _BadInput(f"{_some(given)}: no training was started there")
    _report(runs, list(_without_runs(folders)), _some(given), out)


def _folders(given: Sequence[str]) -> list[Path]:
    """The folders that were named. Files beside them are left out, because the shell puts them in the place of a star, too."""
    found: list[Path] = []
    for word in given:
        paths = [Path(word)] if os.path.lexists(word) or not glob.has_magic(word) else [*map(Path, sorted(glob.glob(word, recursive=True)))]
        if not paths:
            raise _BadInput(f"{word}: matches nothing")
        if not paths[0].exists():
            raise _BadInput(f"{word}: is not a folder")
        found += [path for path in paths if path.is_dir()]
    if not found:
        raise _BadInput(f"{_some(given)}: is not a folder")
    return found


def _without_runs(folders: Sequence[Path]) -> Iterator[Path]:
    """Folders that were made for a run in which no training was started."""
    for folder in folders:
        if read_run(folder) is not None or study_in(folder) is not None:
            continue
        try:
            names = os.listdir(folder)
        except OSError:
            yield folder
            continue
        if not names or ".hydra" in names:
            yield folder
        yield from _without_runs(sorted(folder / name for name in names if not name.startswith(".") and (folder / name).is_dir()))


def _report(runs: Sequence[Run], empty: Sequence[Path], title: str, out: Path) -> None:
    from noisescale.studies.compare import compare
    from noisescale.studies.compare_page import summary_of, write_html, write_markdown
    from noisescale.studies.compare_pictures import draw
    from noisescale.studies.compare_table import arms_of, print_table

    comparison = compare(runs)
    out.mkdir(parents=True, exist_ok=True)
    pictures, left_out = draw(comparison, out)
    notes = [*comparison.notes, *left_out]
    if empty:
        notes.append(f"no training was started in {_some([os.path.relpath(folder) for folder in empty])}")
    for old in out.glob("*.png"):
        if re.fullmatch(r"(curves|schedules|finals)(-\d+)?\.png", old.name) and old not in [picture.path for picture in pictures]:
            old.unlink()  # of an earlier report in this folder
    write_markdown(comparison, pictures, title, notes, out / "report.md")
    write_html(comparison, pictures, title, notes, out / "report.html")
    print_table(arms_of(comparison))
    print(summary_of(comparison))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(os.path.relpath(out / "report.html"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (f" and {len(names) - _SOME} more" if len(names) > _SOME else "")
