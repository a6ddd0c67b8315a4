"""Hydra's flags wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisescale.app.flags import flags_first
from tests.helpers.front_door import plan, process


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("epochs=1 -m batch=small,large", "-m epochs=1 batch=small,large"),
        ("epochs=1 --multirun batch=small,large seed=1", "--multirun epochs=1 batch=small,large seed=1"),
        ("epochs=1 --config-dir mine seed=1", "--config-dir mine epochs=1 seed=1"),
        ("epochs=1 -cd mine -cn other seed=1", "-cd mine -cn other epochs=1 seed=1"),
        ("epochs=1 --config-dir=mine seed=1", "--config-dir=mine epochs=1 seed=1"),
        ("epochs=1 --config-d mine seed=1", "--config-d mine epochs=1 seed=1"),
        ("epochs=1 --cfg job seed=1 -p trainer batch=dual --resolve", "--cfg job -p trainer --resolve epochs=1 seed=1 batch=dual"),
        ("epochs=1 --info seed=1", "--info epochs=1 seed=1"),
        ("epochs=1 --info config seed=1", "--info config epochs=1 seed=1"),
        ("epochs=1 --cfg -m seed=1", "--cfg -m epochs=1 seed=1"),  # refused by Hydra
        ("epochs=1 ~callbacks.best +x=-1", "epochs=1 ~callbacks.best +x=-1"),
        ("", ""),
    ],
)
def test_flags_come_first_with_their_values(words: str, expected: str) -> None:
    assert flags_first(words.split()) == expected.split()
    assert flags_first(expected.split()) == expected.split()


def test_a_sweep_whose_flag_stands_in_the_middle(tmp_path: Path) -> None:
    outcome = plan("epochs=1", "-m", "batch=small,large", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    assert sorted(folder.name for folder in tmp_path.iterdir() if folder.is_dir()) == ["0", "1"]


@pytest.mark.slow
def test_a_config_of_hydras_own_that_logging_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "hydra" / "job_logging").mkdir(parents=True)
    (tmp_path / "hydra" / "job_logging" / "mine.yaml").write_text("version: 1\nroot: {handlers: [nope]}\n")
    done = process("--config-dir", str(tmp_path), "hydra/job_logging=mine", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 2
    expected = "error: hydra.job_logging or hydra.hydra_logging: Unable to configure root logger (Unable to add handler 'nope')"
    assert done.stderr.splitlines() == [expected]
