"""The library examples of the README and of docs/own-code.md run as printed, apart from their sizes."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from noisescale.callbacks import BatchSizeScheduler
from noisescale.files import read_rows
from noisescale.plans import Fixed
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[object]:
        return DataLoader(Regression(), batch_size=5, shuffle=True)


@pytest.mark.parametrize("page", ["README.md", "docs/own-code.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *further = re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) <= 12
    # Smaller batches and fewer epochs than on the page, whose sizes are meant for a real data set.
    quick = first.replace("size=64", "size=4").replace("30", "3").replace("[10, 20]", "[1, 2]").replace("128", "16")
    options = "logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator='cpu', callbacks="
    quick = quick.replace("callbacks=", options)
    exec(quick, {"pl": pl, "my_module": Plain(network()), "my_datamodule": Data()})
    sizes = [int(row["effective_batch_size"]) for row in read_rows(tmp_path / "steps.csv")]
    for block in further:
        exec(
            dedent(block),
            {"BatchSizeScheduler": BatchSizeScheduler, "Fixed": Fixed, "pl": pl, "batches": BatchSizeScheduler(Fixed(size=4))},
        )
    assert ({4, 20, 100} if page == "README.md" else {4, 5, 10}) <= set(sizes)
