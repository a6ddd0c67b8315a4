"""plan.py on plans of many updates: what it leaves out and says so, what it shows while it works, and how long it takes."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import plan, run_dir
from tests.helpers.processes import python
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# -- plan.csv ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["81", pytest.param("null", marks=pytest.mark.slow)])
def test_above_a_number_of_rows_plan_csv_is_left_out_and_a_line_names_the_key(limit: str, tmp_path: Path) -> None:
    words = ("epochs=2", "batch.last=carry", run_dir(tmp_path))  # 81 updates
    with_rows = plan(*words, f"plan_csv_rows={limit}")
    assert with_rows.status == 0
    assert len(read_rows(tmp_path / "plan.csv")) == 81
    assert "plan_csv_rows" not in with_rows.err

    without = plan(*words, "plan_csv_rows=80")
    assert without.status == 0
    assert "note: plan.csv, a row per update, is left out above plan_csv_rows=80; plan_csv_rows=null writes it" in without.lines
    assert not (tmp_path / "plan.csv").exists(), "the one of the other plan would be taken for that of this one"
    assert len(read_rows(tmp_path / "plan.csv.1")) == 81
    assert without.out.splitlines()[-1].endswith("plan.png")
    assert "plan.csv" not in without.out


def test_a_plan_of_twenty_million_equal_updates_is_shown_at_once(tmp_path: Path) -> None:
    outcome = plan("data.size=1000000", "batch.size=1", "scheduler=constant", run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    assert "20 000 000 updates; 20 000 000 with the same noise in the batch (batch=dual)" in outcome.out
    assert re.search(r"^ +0 to 20 .* 20000000$", outcome.out, re.MULTILINE)
    assert "sum of lr: 1e+06 (last quarter 2.5e+05)" in outcome.out
    assert [path.name for path in tmp_path.glob("plan.*")] == ["plan.png"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("batch.size=115",), ("batch.size=57", "batch=dual")], ids=["cosine", "dual"])
def test_a_million_updates_of_ImageNet_take_seconds(words: tuple[str, ...], tmp_path: Path) -> None:
    """In seconds of the processor, which are 5 on an idle machine; each update has a learning rate of its own."""
    code = "import resource, runpy, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally:\n  with open(sys.argv[-1].split('=')[1].strip(chr(39)) + '/usage', 'w') as file:\n"
    code += "    print(resource.getrusage(resource.RUSAGE_SELF), open('/proc/self/status').read(), file=file)"
    began = time.monotonic()
    done = python("-c", code, str(REPOSITORY / "plan.py"), "data.size=1281167", "epochs=90", *words, run_dir(tmp_path))
    assert done.returncode == 0, done.stderr
    usage = (tmp_path / "usage").read_text()
    seconds, kib = float(re.findall(r"ru_utime=([\d.]+)", usage)[0]), int(re.findall(r"VmHWM:\s+(\d+)", usage)[0])
    assert re.search(r"^1 \d\d\d \d\d\d updates", done.stdout, re.MULTILINE)
    assert seconds < 20, f"{seconds} s of the processor, {time.monotonic() - began:.0f} s in all"
    assert kib < 150 * 1024
