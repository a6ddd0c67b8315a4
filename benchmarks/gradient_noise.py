"""Seconds per optimizer step with and without GradientNoiseScale, at the n of conf/callbacks/gns.yaml and at every update."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf

from benchmarks.contenders import LR, InMemory, random_images
from benchmarks.measure import ROOT, Comparison, Wanted
from benchmarks.steps import SETTINGS, SHOWN_AND_SAVED, Run, fit, unseen, watching
from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale
from noisescale.execution.lean import NoProfiler
from noisescale.models import Classifier
from noisescale.plans.strategies import Fixed
from noisescale.schedules import Cosine

__all__ = ["comparisons"]

EVERY: int = OmegaConf.load(ROOT / "conf" / "callbacks" / "gns.yaml").every_n_updates
WITHOUT, USUAL, ALWAYS = "without", f"every {EVERY} updates", "every update"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The three at each setting of `steps`."""
    for setting in SETTINGS:
        steps = 8 if quick else setting.steps
        run = Run.of(setting, *random_images(steps * setting.batch, (1, 28, 28)), steps)
        contenders = {name: partial(_train, run, every) for name, every in ((WITHOUT, None), (USUAL, EVERY), (ALWAYS, 1))}
        wanted = [Wanted(USUAL, WITHOUT, at_most=1.03), Wanted(ALWAYS, WITHOUT)]
        yield Comparison(f"gradient noise, {setting.title}", contenders, wanted, examples=setting.batch)


def _train(run: Run, every: int | None) -> float:
    """What `train.py` does, and a measurement every so many updates."""
    with tempfile.TemporaryDirectory() as folder, unseen():
        data = InMemory(run.images, run.labels, run.setting.batch)
        data.setup()
        optimizer = partial(torch.optim.SGD, lr=LR, momentum=0.9)
        module = Classifier(run.setting.network(), lambda net: optimizer(net.parameters()))
        noise = [] if every is None else [GradientNoiseScale(path=Path(folder) / "gradient_noise.csv")]
        batches = BatchSizeScheduler(Fixed(size=run.setting.batch), Cosine(), split_every=every, check_cuts=False)
        callbacks = [batches, *noise, *watching(Path(folder))]
        return fit(module, data, run.steps, callbacks, tensorboard={"max_queue": 4096}, profiler=NoProfiler(), **SHOWN_AND_SAVED)
