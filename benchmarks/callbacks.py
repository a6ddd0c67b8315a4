"""Seconds per optimizer step with one callback, relative to those with the plan alone: what each of them costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from benchmarks.contenders import LR, InMemory, random_images
from benchmarks.gradient_noise import EVERY
from benchmarks.measure import Comparison, Wanted
from benchmarks.steps import SETTINGS, Run, fit, unseen, watching
from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale, Sharpness
from noisescale.execution.lean import NoProfiler
from noisescale.models import Classifier
from noisescale.plans.strategies import Fixed
from noisescale.schedules import Cosine

__all__ = ["comparisons"]

ALONE = "the plan alone"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Each callback of train.py, and those that measure, at the smallest MLP and at the CNN of `steps`."""
    for setting in (SETTINGS[0], SETTINGS[-1]):
        steps = 8 if quick else setting.steps
        run = Run.of(setting, *random_images(steps * setting.batch, (1, 28, 28)), steps)
        contenders = {name: partial(_train, run, make) for name, make in _callbacks().items()}
        contenders = {ALONE: partial(_train, run, lambda folder: []), **contenders}
        wanted = [Wanted(name, ALONE) for name in contenders if name != ALONE]
        yield Comparison(f"one callback, {setting.title}", contenders, wanted, examples=setting.batch)


def _callbacks() -> dict[str, Callable[[Path], list[pl.Callback]]]:
    found: dict[str, Callable[[Path], list[pl.Callback]]] = {
        type(each).__name__: partial(_of_name, type(each).__name__) for each in watching(Path())
    }
    found[f"GradientNoiseScale, every {EVERY} updates"] = lambda folder: [GradientNoiseScale(path=folder / "gradient_noise.csv")]
    found["Sharpness, where it does not measure"] = lambda folder: [Sharpness(every_n_epochs=1000, at_end=False, path=folder / "c.csv")]
    return found


def _of_name(name: str, folder: Path) -> list[pl.Callback]:
    return [each for each in watching(folder) if type(each).__name__ == name]


def _train(run: Run, make: Callable[[Path], list[pl.Callback]]) -> float:
    with tempfile.TemporaryDirectory() as folder, unseen():
        data = InMemory(run.images, run.labels, run.setting.batch)
        data.setup()
        optimizer = partial(torch.optim.SGD, lr=LR, momentum=0.9)
        module = Classifier(run.setting.network(), lambda net: optimizer(net.parameters()))
        callbacks = make(Path(folder))
        every = EVERY if any(isinstance(each, GradientNoiseScale) for each in callbacks) else None
        batches = BatchSizeScheduler(Fixed(size=run.setting.batch), Cosine(), split_every=every, check_cuts=False)
        shown = any(isinstance(each, pl.callbacks.ProgressBar) for each in callbacks)
        saved = any(isinstance(each, pl.callbacks.Checkpoint) for each in callbacks)
        options = {"enable_progress_bar": shown, "enable_checkpointing": saved}
        return fit(module, data, run.steps, [batches, *callbacks], tensorboard={"max_queue": 4096}, profiler=NoProfiler(), **options)
