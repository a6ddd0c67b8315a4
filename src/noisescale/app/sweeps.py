"""A sweep: what distinguishes each of its runs from the others, and the table of all runs at its end.

Each run leaves a record in a folder of this sweep, from whichever process it is carried out in. The folder and the command line are in an
environment variable, which the processes of every launcher inherit.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from noisescale.app.choices import key_of, overrides
from noisescale.app.config import in_sweep, output_dir, typed
from noisescale.app.headline import headline
from noisescale.app.messages import INPUT_ERRORS
from noisescale.files import write_atomically

__all__ = ["recorded_run", "table_at_the_end", "what_differs"]

_SWEEP = "NOISESCALE_SWEEP"


def what_differs() -> str:
    """The words that the sweep varies, as they are in this run: `scheduler=step batch=small`; all words, if it varies none."""
    return " ".join(f"{key}={value}" for key, value in _varied().items()) or " ".join(typed())


@contextmanager
def table_at_the_end() -> Iterator[None]:
    """Print a table of the runs that were carried out inside, if they were those of a sweep, whatever became of them."""
    with tempfile.TemporaryDirectory(prefix="noisescale-sweep-") as folder:
        os.environ[_SWEEP] = json.dumps({"records": folder, "typed": sys.argv[1:]})
        try:
            yield
        finally:
            os.environ.pop(_SWEEP, None)
            records = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
            if records:
                _print_table(sorted(records, key=lambda record: record["number"]))


@contextmanager
def recorded_run() -> Iterator[None]:
    """Leave a record of the run that is carried out inside, if it is one of a sweep: how it ended, and its results if it has any."""
    if not in_sweep() or _SWEEP not in os.environ:
        yield
        return
    began, status = time.time(), "failed"
    try:
        yield
        status = ""
    except INPUT_ERRORS:
        status = "refused"
        raise
    except (KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        results = {} if status in ("refused", "failed") else _results(began)
        if status or results:
            _leave_record(results, status)


def _leave_record(results: dict[str, Any], status: str) -> None:
    metric = headline(results)
    record = {
        "number": HydraConfig.get().job.num,
        "run": os.path.relpath(output_dir()),
        "varied": _varied(),
        "status": results.get("status", status),
        "metric": None if metric is None else [metric[0], None if math.isnan(metric[1]) else metric[1]],
        "updates": results.get("updates"),
        "seconds": results.get("seconds"),
    }
    folder = Path(json.loads(os.environ[_SWEEP])["records"])
    write_atomically(folder / f"{record['number']}.json", json.dumps(record))


def _results(began: float) -> dict[str, Any]:
    """results.json, if this run has written it."""
    file = output_dir() / "results.json"
    if not file.exists() or file.stat().st_mtime < began - 1:  # of an earlier run in the same folder
        return {}
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _varied() -> dict[str, str]:
    """Key -> value of the overrides that were not typed with a single value for all runs."""
    if not in_sweep() or _SWEEP not in os.environ:
        return {}
    fixed = set()
    for word in json.loads(os.environ[_SWEEP])["typed"]:
        if "=" in word and not word.startswith("-"):
            try:
                (override,) = OverridesParser.create().parse_overrides([word])
            except HydraException:
                continue  # an argument of Hydra's own, such as that of --config-name
            if not override.is_sweep_override():
                fixed.add(key_of(word))
    return {key_of(word): word.partition("=")[2] for word in overrides() if key_of(word) not in fixed}


def _print_table(records: list[dict[str, Any]]) -> None:
    """A row per run: what differs, how it ended, the metric of its test, updates, seconds."""
    from rich.console import Console
    from rich.table import Table

    keys = list(dict.fromkeys(key for record in records for key in record["varied"]))
    metrics = list(dict.fromkeys(record["metric"][0] for record in records if record["metric"]))
    table = Table()
    for column in ("run", *keys, "status", *metrics, "updates", "seconds"):
        table.add_column(column, no_wrap=True, justify="right" if column in (*metrics, "updates", "seconds") else "left")
    for record in records:
        name, value = record["metric"] or ("", None)
        tested = ["" if name != metric else "nan" if value is None else f"{value:.4f}" for metric in metrics]
        updates = "" if record["updates"] is None else str(record["updates"])
        seconds = "" if record["seconds"] is None else f"{record['seconds']:.1f}"
        varied = [record["varied"].get(key, "") for key in keys]
        table.add_row(str(record["number"]), *varied, record["status"], *tested, updates, seconds)
    Console(width=None if sys.stdout.isatty() else 400).print(table)
    print(os.path.dirname(records[0]["run"]), flush=True)
