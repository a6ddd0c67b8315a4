"""early_stopping=... and averaging=... add to the callbacks chosen and take nothing away, alone, in a sweep and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from noisescale.files import read_rows
from tests.helpers.callbacks import KeepsWeights
from tests.helpers.front_door import QUICK, checkpoint_of, results_of, run
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

# No change is large enough to be an improvement on the first validation, so the run stops after 1 + patience of them.
STOPS = ("early_stopping=val_loss", "early_stopping.min_delta=100", "early_stopping.patience=2", "scheduler=constant", "epochs=9")
EMA = ("averaging=ema", "averaging.decay=0.8", "scheduler=constant", "epochs=2")
PLAIN = (*QUICK, "logger=csv-only")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".hydra" not in path.parts}


def assert_equal(mine: Any, other: Any) -> None:
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_they_take_nothing_away(tmp_path: Path) -> None:
    assert run(*PLAIN, f"hydra.run.dir={tmp_path}/plain").status == 0
    outcome = run("-m", *PLAIN, "early_stopping=val_acc", "averaging=none,ema", f"hydra.sweep.dir={tmp_path}/sweep")
    assert outcome.status == 0, outcome.err
    steps = (tmp_path / "plain" / "steps.csv").read_text()
    for number in range(2):
        assert files(tmp_path / "sweep" / str(number)) == files(tmp_path / "plain")
        assert (tmp_path / "sweep" / str(number) / "steps.csv").read_text() == steps  # nor is the training itself changed


def test_a_run_stops_early_and_a_resumed_one_at_the_same_epoch(tmp_path: Path) -> None:
    assert run(*PLAIN, *STOPS, f"hydra.run.dir={tmp_path}/whole").status == 0
    assert len(read_rows(tmp_path / "whole" / "epochs.csv")) == 3
    results = results_of(tmp_path / "whole")
    assert (results["status"], results["updates"]) == ("completed", 17)
    assert "test/acc" in results

    assert run(*PLAIN, *STOPS, "epochs=2", f"hydra.run.dir={tmp_path}/part").status == 0
    checkpoint = f"ckpt_path={tmp_path}/part/checkpoints/last.ckpt"
    assert run(*PLAIN, *STOPS, checkpoint, f"hydra.run.dir={tmp_path}/part").status == 0
    assert len(read_rows(tmp_path / "part" / "epochs.csv")) == 3
    assert_equal(checkpoint_of(tmp_path / "part")["state_dict"], checkpoint_of(tmp_path / "whole")["state_dict"])


def test_a_run_that_stopped_early_goes_on_with_more_patience(tmp_path: Path) -> None:
    """Lightning's callback would go by the patience in the checkpoint, and stop at the next validation."""
    assert run(*PLAIN, *STOPS, f"hydra.run.dir={tmp_path}").status == 0
    checkpoint = f"ckpt_path={tmp_path}/checkpoints/last.ckpt"
    assert run(*PLAIN, *STOPS, "early_stopping.patience=4", checkpoint, f"hydra.run.dir={tmp_path}").status == 0
    assert len(read_rows(tmp_path / "epochs.csv")) == 5


@pytest.mark.cases(1)
@pytest.mark.filterwarnings("ignore:.*was not created with WeightAveraging.*")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (EMA[:2], (), "averaging=null: the checkpoint was trained with averaging=ema; resume with the same, or start anew"),
        ((), EMA[:1], "averaging=ema: is not a key of the checkpoint, which was saved by another version or with another option; "),
        (
            EMA[:2],
            EMA[:1],
            "averaging.decay=0.99: the checkpoint was trained with averaging.decay=0.8; resume with the same, or start anew",
        ),
    ],
)
def test_a_run_is_not_resumed_with_another_averaging(before: tuple[str], after: tuple[str], line: str, tmp_path: Path) -> None:
    """The weights of a checkpoint are the average, so without averaging the training would silently go on from that."""
    assert run(*PLAIN, *before, f"hydra.run.dir={tmp_path}/part").status == 0
    checkpoint = f"ckpt_path={tmp_path}/part/checkpoints/last.ckpt"
    outcome = run(*PLAIN, *after, "epochs=2", checkpoint, f"hydra.run.dir={tmp_path}/more")
    assert outcome.status == 2
    assert outcome.lines[-1].startswith(f"error: {line}")


@pytest.mark.slow
def test_the_average_is_a_moving_one_over_updates_and_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    KeepsWeights.kept.clear()
    keeps = "+callbacks.keeps._target_=tests.helpers.callbacks.KeepsWeights"
    assert run(*PLAIN, *EMA, keeps, f"hydra.run.dir={tmp_path}/whole").status == 0
    average, *later = KeepsWeights.kept
    for weights in later:
        average = 0.8 * average + 0.2 * weights
    whole = checkpoint_of(tmp_path / "whole")
    names = [name for name in whole["state_dict"] if name.startswith("net.")]
    saved, current = (torch.cat([whole[key][name].flatten() for name in names]) for key in ("state_dict", "current_model_state"))
    assert len(KeepsWeights.kept) == results_of(tmp_path / "whole")["updates"]
    torch.testing.assert_close(saved, average)
    assert torch.equal(current, KeepsWeights.kept[-1])
    assert not torch.allclose(saved, current)

    assert run(*PLAIN, *EMA, "epochs=1", f"hydra.run.dir={tmp_path}/part").status == 0
    checkpoint = f"ckpt_path={tmp_path}/part/checkpoints/last.ckpt"
    assert run(*PLAIN, *EMA, checkpoint, f"hydra.run.dir={tmp_path}/part").status == 0
    part = checkpoint_of(tmp_path / "part")
    assert_equal(part["state_dict"], whole["state_dict"])
    assert_equal(part["current_model_state"], whole["current_model_state"])
    for name in ("test/loss", "val/loss", "updates"):
        assert results_of(tmp_path / "part")[name] == results_of(tmp_path / "whole")[name]


def test_a_lightning_without_the_class_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pl.callbacks, "EMAWeightAveraging")
    outcome = run(*PLAIN, "averaging=ema", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert outcome.lines[0].startswith("error: averaging=ema: needs a Lightning that has EMAWeightAveraging; this is 2.")
