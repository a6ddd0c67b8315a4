"""The README's library example runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from noisescale.files import read_rows
from tests.helpers.processes import python
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

README = REPOSITORY / "README.md"

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[object]:
        return DataLoader(Regression(), batch_size=5, shuffle=True)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 12
    # Fewer examples and epochs than the README's, whose sizes are for a real data set.
    quick = blocks[0].replace("size=64", "size=4").replace("30", "3").replace("[10, 20]", "[1, 2]").replace("128", "16")
    options = "logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator='cpu', callbacks="
    quick = quick.replace("callbacks=", options)
    exec(quick, {"pl": pl, "my_module": Plain(network()), "my_datamodule": Data()})
    sizes = [int(row["effective_batch_size"]) for row in read_rows(tmp_path / "steps.csv")]
    assert {4, 20, 100} <= set(sizes)


def test_the_plan_of_the_readme_is_printed_so(tmp_path: Path) -> None:
    """Line by line and in order, `...` aside; blanks at the ends of lines do not count."""
    block = re.findall(r"```\n\$ python plan.py (.*?)\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(block) == 1
    done = python("plan.py", *block[0][0].split(), f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    printed = iter([*done.stdout.splitlines(), *done.stderr.splitlines()])
    for line in block[0][1].splitlines():
        assert line == "..." or line in printed, line  # `in` goes on behind the line that it found
