"""What GradientNoiseScale logs and says."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from noisescale.callbacks import GradientNoiseScale
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.models.normalization import GhostBatchNorm2d
from noisescale.plans import FollowNoise
from noisescale.plans import strategies as batching
from tests.helpers.denominators import count_targets
from tests.helpers.gradient_noise import Sparse, planned, rows_of
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def test_the_tags_and_their_values(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    callback = GradientNoiseScale(decay=0.8)
    fit(Plain(network()), planned(split_every=4), callback, logger=logger, default_root_dir=tmp_path)
    logged = read_rows(tmp_path / "metrics.csv")[-1]
    own = rows_of(tmp_path / "gradient_noise.csv")[-1]
    assert {name for name in logged if name.startswith("noise/")} == {
        "noise/gns",
        "noise/gns_low",
        "noise/gns_high",
        "noise/grad_sq_norm",
        "noise/grad_cov_trace",
        "noise/batch_efficiency",
    }
    assert float(logged["noise/grad_cov_trace"]) == callback.average.trace
    assert float(logged["noise/grad_sq_norm"]) == callback.average.square
    assert int(logged["step"]) == own["step"]
    assert float(logged["examples_seen"]) == own["examples_seen"]
    gns = callback.average.noise_scale
    assert float(logged["noise/gns"]) == own["gns"] == gns > 0
    assert own["gns_low"] < gns < own["gns_high"]
    assert own["batch_efficiency"] == pytest.approx(1 / (1 + own["size"] / gns))


def test_batch_norm_is_said_and_marks_the_tags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        logger = CSVLogger(tmp_path, name="", version="")
        fit(Plain(network(norm=True)), planned(batching.Fixed(20), split_every=2), GradientNoiseScale(path=False), logger=logger)
    assert "with batch norm each piece of an update is normalised by itself" in caplog.text
    assert {name for name in read_rows(tmp_path / "metrics.csv")[0] if name.startswith("noise/gns")} == {
        "noise/gns_batch_norm",
        "noise/gns_low_batch_norm",
        "noise/gns_high_batch_norm",
    }


@pytest.mark.slow
def test_ghost_batches_are_measured_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The pieces are whole ghost batches, and B_simple does not depend on how many of them are in a piece."""

    class Ghosts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.first, self.norm, self.last = torch.nn.Linear(5, 16), GhostBatchNorm2d(16, 4), torch.nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.norm(self.first(x)[..., None, None])[..., 0, 0].tanh())
            return y

    found = []
    for limit in (4, 8):
        module = Plain(Ghosts().double(), lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        callback = GradientNoiseScale(1, path=tmp_path / f"{limit}.csv")
        with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
            fit(module, planned(batching.Fixed(16, last="drop"), max_micro_batch_size=limit), callback, max_epochs=60)
        found.append([row["grad_cov_trace"] for row in rows_of(tmp_path / f"{limit}.csv")])
    assert "batch norm" not in caplog.text
    errors = [stdev(values) / math.sqrt(len(values)) for values in found]
    assert abs(fmean(found[0]) - fmean(found[1])) < 3 * math.hypot(*errors)
    assert max(errors) < 0.1 * fmean(found[0])


def test_single_pieces_are_said() -> None:
    with pytest.warns(
        UserWarning, match=r"measures nothing, .* a single piece: BatchSizeScheduler\(split_every=50\) cuts one in 50 in two"
    ):
        fit(Plain(network()), planned(batching.Fixed(31)), GradientNoiseScale(path=False), max_epochs=1)
    batches = planned(batching.Fixed(31, last="drop"), split_every=2, micro_batch_multiple=31)
    with pytest.warns(UserWarning, match=r"measures nothing, .* and none of them can be cut in two, for batch norm or its ghost batches"):
        fit(Plain(network()), batches, GradientNoiseScale(path=False), max_epochs=1)


def test_batches_that_go_by_rare_measurements_are_said() -> None:
    with pytest.warns(UserWarning, match=r"an epoch at B = 12 has 8 updates, of which one in 3 is measured: .*; every_n_updates=2 gives 4"):
        fit(Plain(network()), planned(FollowNoise(size=12), split_every=3), GradientNoiseScale(path=False), max_epochs=1)
    with pytest.raises(ConfigError, match=r"decay=0.5: .* above 0.5"):
        fit(Plain(network()), planned(FollowNoise(size=12), split_every=2), GradientNoiseScale(decay=0.5, path=False), max_epochs=1)


def test_how_often_nothing_bounded_it_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        fit(Plain(network()), planned(batching.Fixed(8), split_every=6), GradientNoiseScale(path=False), max_epochs=2)
    assert "nothing bounded B_simple from above after 4 of 4 measurements" in caplog.text


def test_gradients_in_parts_are_said_and_not_measured(tmp_path: Path) -> None:
    class Twice(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x = batch[0].requires_grad_()
            halves = [checkpoint(self.net, part, use_reentrant=True) for part in x.tensor_split(2)]
            return F.mse_loss(torch.cat(halves), batch[1])

    module, callback = Twice(network()), GradientNoiseScale(path=tmp_path / "noise.csv")
    with pytest.warns(UserWarning, match="get their gradients in several parts"):
        fit(module, planned(batching.Fixed(20), split_every=1), callback, max_epochs=1)
    assert rows_of(tmp_path / "noise.csv") == []


@pytest.mark.parametrize("arguments", [{"every_n_updates": 0}, {"decay": 1.0}, {"confidence": 0.0}, {"every_n_updates": 2.5}])
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        GradientNoiseScale(**arguments)


def test_turns_that_the_plan_does_not_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match="every_n_updates=5: must be a multiple of split_every=3"):
        fit(Plain(network()), planned(split_every=3), GradientNoiseScale(5, path=False))


def test_sparse_gradients(tmp_path: Path) -> None:
    found = []
    for sparse in (False, True):
        callback = GradientNoiseScale(path=tmp_path / f"{sparse}.csv")
        fit(Sparse(sparse), planned(weight=count_targets, split_every=2), callback, max_epochs=1)
        found.append([row["grad_cov_trace"] for row in rows_of(tmp_path / f"{sparse}.csv")])
    assert found[0] == pytest.approx(found[1])
