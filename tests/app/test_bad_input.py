"""Bad input: one clear line on stderr, exit status 2, before data are touched and before anything is trained."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import MissingConfigException
from PIL import Image

import train
from noisescale.data import DigitsData
from noisescale.errors import ConfigError
from tests.helpers.front_door import Outcome, command, run
from tests.helpers.images import write_images
from tests.helpers.processes import python
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

BATCHES = "accumulate, cyclic, dual, full, hybrid, large, linear, multistep, seesaw, small, split"
SCHEDULERS = "constant, cosine, cosine_restarts, cyclic, exponential, inverse, linear, multistep, onecycle, polynomial, step, wsd"
KEYS = (
    "keys: data, model, optimizer, scheduler, warmup, batch, trainer, callbacks, logger, epochs, seed, label_smoothing, "
    "max_micro_batch_size, threads, ckpt_path, full_error, debug, experiment"
)
TRAINER_KEYS = (
    "keys of trainer: accelerator, devices, max_epochs, max_steps, precision, gradient_clip_val, check_val_every_n_epoch, "
    "limit_train_batches, num_sanity_val_steps, log_every_n_steps, default_root_dir, enable_model_summary; "
    "Lightning's other keys can be added: +trainer.foo=..."
)
EXPERIMENTS = (
    "alexnet_multistep, cifar10_fast, cifar10_fast_cpu, constant_diverges, constant_good, constant_too_large, constant_too_small, "
    "cosine_tmax150, cyclic_pair/batch, cyclic_pair/lr, exponential_098, goyal2017, jastrzebski/cbs, jastrzebski/clr, seesaw, "
    "smith2017/decay, smith2017/hybrid, smith2017/increase, smith2017/increase_lr, smith2017/increase_momentum, "
    "smith2017_imagenet/decay, smith2017_imagenet/increase, smith2017_imagenet/increase_momentum95, "
    "smith2017_imagenet/increase_momentum975, step_gamma065"
)
EPOCHS = "must be a whole number of epochs, at least 1"
EXAMPLES = "must be a whole number of examples, at least 1"
POSITIVE = "must be a finite number in (0, inf)"
TO_ONE = "must be a finite number in (0, 1]"
TO_N = "must be at most N = 1293, the examples of one pass; use batch=full for all of them"
NO_FOLDER = "data.root needs train/<class>/ and test/<class>/ with images"
QUOTE = "write key=value, and quote a value that is not plain: 'key=\"a=b\"'"
ANOTHER = "an experiment or debug option that sets it is for another"
NEW = "give a .ckpt file, or null to start anew"

# What is typed -> the line, after "error: ". `{tmp}` is a folder with a file `file`, images in `images` and other folders of images.
TABLE: list[tuple[str, str]] = [
    # an unknown option in any group
    ("scheduler=cosin", f"scheduler=cosin: no such option, did you mean cosine?; valid: {SCHEDULERS}"),
    ("warmup=x", "warmup=x: no such option; valid: constant, linear, none"),
    (
        "optimizer=sgdm",
        "optimizer=sgdm: no such option, did you mean sgd?; valid: adadelta, adagrad, adam, adamw, momentum, nesterov, rmsprop, "
        "rmsprop_nesterov, sgd",
    ),
    ("batch=big", f"batch=big: no such option; valid: {BATCHES}"),
    (
        "data=imagenet",
        "data=imagenet: no such option, did you mean imagefolder?; valid: cifar10, cifar100, digits, fashion_mnist, imagefolder, mnist",
    ),
    ("model=resnet", "model=resnet: no such option, did you mean resnet9?; valid: cnn, logistic, mlp, resnet18, resnet9, vgg11, wrn"),
    ("trainer=slurm", "trainer=slurm: no such option; valid: cpu, ddp, ddp_cpu, gpu"),
    ("callbacks=all", "callbacks=all: no such option; valid: full, light, none"),
    ("logger=wandb", "logger=wandb: no such option; valid: csv-only, tensorboard"),
    ("debug=x", "debug=x: no such option; valid: fast, overfit"),
    (
        "experiment=x",
        f"experiment=x: no such option; valid: {EXPERIMENTS}",
    ),
    (
        "experiment=smith2017/decai",
        f"experiment=smith2017/decai: no such option, did you mean smith2017/decay?; valid: {EXPERIMENTS}",
    ),
    ("batch=_dual", "batch=_dual: holds keys that several options share, and is not an option itself"),
    ("experiment=smith2017/_base", "experiment=smith2017/_base: holds keys that several options share, and is not an option itself"),
    # the noise carried by the batch
    (
        "batch=dual batch.growth=1.5",
        "batch.growth=1.5: must be a finite number in [0, 1]; 0 decays the learning rate, 1 grows the batch",
    ),
    ("batch=dual batch.size=1293", "batch.size=1293: must be below N = 1293: a full batch has no noise to match; use batch=full"),
    (
        "batch=dual batch.max_size=16",
        "batch.max_size=16: must be a whole number of examples, at least 32; the batch starts at `size`; null for N/10",
    ),
    ("batch=hybrid batch.max_size=2000", f"batch.max_size=2000: {TO_N}"),
    ("batch=dual batch.rule=adam", "batch.rule=adam: must be one of sgd, adaptive"),
    ("batch=seesaw batch.match=equal", "batch.match=equal: must be one of exact, ratio"),
    ("batch=dual batch.micro_batch_size=24", "batch.size=32: must be a multiple of micro_batch_size=24; for example 24"),
    ("batch=cyclic batch.base_factor=0", f"batch.base_factor=0: {TO_ONE}"),
    ("batch=cyclic batch.step_size_up=0", f"batch.step_size_up=0: {POSITIVE}, in epochs"),
    (
        "scheduler=constant batch=cyclic warmup=linear warmup.mode=shift",
        "warmup.mode=shift: delays the schedule, but not the wave of batch=cyclic; set warmup.mode=overlap",
    ),
    ("optimizer.momentum=foo", "optimizer.momentum=foo: must be a finite number in [0, 1)"),
    ("batch.match_last=3", "batch.match_last=3: must be true or false"),
    ("scheduler.shape=full", "scheduler.shape=full: must be one of half, quarter"),
    ("scheduler=cyclic scheduler.wave=sine", "scheduler.wave=sine: must be one of triangle, square"),
    ("warmup.epochs=3", "warmup.epochs=3: contradicts warmup=none; choose warmup=linear, or set warmup.epochs=0"),
    ("data.size=5", "data.size=5: replaces the data, and is only for plan.py; leave it at null to train"),
    ("-m scheduler=cosine,foo", f"scheduler=foo: no such option; valid: {SCHEDULERS}"),
    ("scheduler=null", f"scheduler=null: no such option; valid: {SCHEDULERS}"),
    ("batch=128", f"batch=128: no such option; valid: {BATCHES}"),
    ("scheduler=", f"scheduler=: no such option; valid: {SCHEDULERS}"),
    # an unknown key
    ("epoch=3", f"epoch: unknown key, did you mean epochs?; {KEYS}"),
    ("experimant=x", f"experimant: unknown key, did you mean experiment?; {KEYS}"),
    ("batch.sise=3", "batch.sise: unknown key, did you mean size?; keys of batch: last, match_last, lr_rule, reference_size, size"),
    ("scheduler.gamma=0.5", "scheduler.gamma: unknown key; keys of scheduler: T_max, eta_min, lr, shape"),
    ("trainer.foo=1", f"trainer.foo: unknown key; {TRAINER_KEYS}"),
    ("epochs.x=3", "epochs.x: unknown key; epochs has none"),
    # batch sizes
    ("batch.size=0", f"batch.size=0: {EXAMPLES}"),
    ("batch.size=-3", f"batch.size=-3: {EXAMPLES}"),
    ("batch.size=2.5", f"batch.size=2.5: {EXAMPLES}"),
    ("batch.size=abc", f"batch.size=abc: {EXAMPLES}"),
    ("batch.size=null", f"batch.size=null: {EXAMPLES}"),
    ("batch.size=true", f"batch.size=true: {EXAMPLES}"),
    ("batch.size=1294", f"batch.size=1294: {TO_N}"),
    ("batch=multistep batch.size=0", f"batch.size=0: {EXAMPLES}"),
    ("batch=multistep batch.milestones=[3,1]", "batch.milestones=[3, 1]: must be strictly increasing, in epochs; for example [1, 3]"),
    ("batch=multistep batch.factor=0.5", "batch.factor=0.5: must be a finite number in [1, inf)"),
    ("batch=linear batch.max_size=9999", f"batch.max_size=9999: {TO_N}"),
    ("batch=accumulate batch.size=100", "batch.size=100: must be a multiple of micro_batch_size=32; for example 96"),
    ("batch.last=foo", "batch.last=foo: must be one of carry, partial, drop, spread"),
    (
        "batch.lr_rule=linear",
        "batch.lr_rule=linear: needs a reference_size, the batch that lr is quoted for; for example reference_size=128",
    ),
    ("max_micro_batch_size=0", f"max_micro_batch_size=0: {EXAMPLES}; null for no limit"),
    ("max_micro_batch_size=1.5", f"max_micro_batch_size=1.5: {EXAMPLES}; null for no limit"),
    (
        "model=resnet18 model.ghost_batch_size=16 max_micro_batch_size=24",
        "max_micro_batch_size=24: must be a multiple of the ghost batch of 16 examples; else it would change what batch norm sees",
    ),
    # schedules
    (
        "scheduler=multistep scheduler.milestones=[10,5]",
        "scheduler.milestones=[10, 5]: must be strictly increasing, in epochs; for example [5, 10]",
    ),
    (
        "scheduler=multistep scheduler.milestones=[5,5]",
        "scheduler.milestones=[5, 5]: must be strictly increasing, in epochs; for example [5]",
    ),
    ("scheduler=multistep scheduler.milestones=10", "scheduler.milestones=10: must be a list of epochs; for example milestones=[10,20]"),
    ("scheduler.T_max=0", f"scheduler.T_max=0: {POSITIVE}, in epochs; leave it at null for the whole training"),
    ("scheduler=step scheduler.gamma=0", f"scheduler.gamma=0: {TO_ONE}"),
    ("scheduler=step scheduler.gamma=1.5", f"scheduler.gamma=1.5: {TO_ONE}"),
    ("scheduler=multistep scheduler.gamma=-0.1", f"scheduler.gamma=-0.1: {TO_ONE}"),
    ("scheduler=exponential scheduler.gamma=nan", f"scheduler.gamma=nan: {TO_ONE}"),
    ("scheduler=inverse scheduler.gamma=-1", "scheduler.gamma=-1: must be a finite number in [0, inf), in 1/epochs"),
    (
        "scheduler=exponential scheduler.rate=0.1",
        "scheduler.gamma=0.9: exactly one of gamma (base, s = gamma^t) and rate (s = exp(-rate t)) must be given, but rate is 0.1; "
        "set one of them to null",
    ),
    ("scheduler=cyclic scheduler.mode=saw", "scheduler.mode=saw: must be one of triangular, triangular2, exp_range"),
    ("+scheduler.foo=3", f"scheduler.foo=3: is not a key of scheduler=cosine; {ANOTHER} scheduler"),
    ("experiment=step_gamma065 scheduler=cosine", f"scheduler.step_size=5: is not a key of scheduler=cosine; {ANOTHER} scheduler"),
    ("~scheduler", "scheduler: Key 'scheduler' is not in struct"),
    (
        "warmup=linear warmup.mode=shift warmup.epochs=30",
        "warmup.epochs=30: must be a finite number in [0, 20), in epochs; with mode=shift the warm-up must end before the training does",
    ),
    # rates
    *((f"optimizer.lr={lr}", f"optimizer.lr={lr}: {POSITIVE}") for lr in ("-0.1", "0", "nan", "inf", "abc", "null", "true")),
    ("optimizer=momentum optimizer.momentum=1", "optimizer.momentum=1: must be a finite number in [0, 1)"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1: must be a finite number in [0, inf)"),
    ("optimizer.decay_biases_and_norms=no", "optimizer.decay_biases_and_norms=no: must be true or false; true is what torch does"),
    ("optimizer.fused=yes", "optimizer.fused=yes: must be true, false or null; null is torch's own choice"),
    ("optimizer.foreach=1", "optimizer.foreach=1: must be true, false or null; null is torch's own choice"),
    ("optimizer.fused=true optimizer.foreach=true", "optimizer.fused=true: cannot be combined with foreach=true; set one of them to null"),
    # lengths and seeds
    *((f"epochs={epochs}", f"epochs={epochs}: {EPOCHS}") for epochs in ("0", "-1", "2.5", "abc", "null")),
    ("epochs=???", "epochs: Missing mandatory value: epochs"),
    ("epochs=${nope}", "epochs: Interpolation key 'nope' not found"),
    ("seed=-1", "seed=-1: must be a whole number, 0 to 4294967295"),
    ("seed=1.5", "seed=1.5: must be a whole number, 0 to 4294967295"),
    ("seed=4294967296", "seed=4294967296: must be a whole number, 0 to 4294967295"),
    ("threads=0", "threads=0: must be a whole number of threads, at least 1; null for torch's default"),
    # data
    ("data.val_fraction=1.0", "data.val_fraction=1.0: must be a finite number in [0, 1)"),
    ("data.val_fraction=-0.1", "data.val_fraction=-0.1: must be a finite number in [0, 1)"),
    ("data.subset_size=1438", "data.subset_size=1438: the training set has 1437 examples; choose 1 to 1437, or null for all"),
    ("data.subset_size=0", f"data.subset_size=0: {EXAMPLES}; null uses all"),
    ("data.subset_size=1", "data.val_fraction=0.1: leaves none of 1 examples to train on; lower it, or raise data.subset_size"),
    ("data.augment=flip", "data.augment=flip: must be one of none, crop_flip"),
    ("data.num_workers=-1", "data.num_workers=-1: must be a whole number of processes, at least 0"),
    ("data=imagefolder", "data.root=null: imagefolder needs a folder with train/ and test/; set data.root"),
    ("data=imagefolder data.root=nowhere", f"data.root=nowhere: no such folder; {NO_FOLDER}"),
    ("data=imagefolder data.root={tmp}/file", f"data.root={{tmp}}/file: no such folder; {NO_FOLDER}"),
    ("data=imagefolder data.root={tmp}", f"data.root={{tmp}}: no folder {{tmp}}/train; {NO_FOLDER}"),
    (
        "data=imagefolder data.root={tmp}/empty",
        "data.root={tmp}/empty: no images in {tmp}/empty/train/a; images end in .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp",
    ),
    ("data=imagefolder data.root={tmp}/images", f"batch.size=32: {TO_N.replace('1293', '7')}"),
    (
        "data=imagefolder data.root={tmp}/images batch.size=4 data.image_size=0",
        "data.image_size=0: must be a whole number of pixels, at least 1; null uses the images as they are",
    ),
    (
        "data=mnist data.root=nowhere data.download=false",
        "data.root=nowhere: mnist is not there: no such folder; set data.root to the folder that holds MNIST/raw, or let "
        "data.download=true fetch it",
    ),
    # devices and Lightning's own settings
    ("trainer.devices=0", "trainer.devices=0: must be a whole number of devices, at least 1"),
    ("trainer.devices=auto", "trainer.devices=auto: must be a whole number of devices, at least 1"),
    ("trainer.devices=[0,1]", "trainer.devices=[0, 1]: must be a whole number of devices, at least 1"),
    ("trainer=ddp_cpu trainer.devices=2000", "trainer.devices=2000: this machine has {cpus} CPU processes; one process uses all cores"),
    ("trainer=gpu", "trainer.devices=1: this machine has 0 GPUs; use trainer=cpu or ddp_cpu"),
    ("trainer=ddp", "trainer.devices=2: this machine has 0 GPUs; use trainer=cpu or ddp_cpu"),
    ("trainer.max_epochs=3", "trainer.max_epochs=3: differs from epochs=20, which schedules go by; set epochs"),
    ("trainer.max_epochs=-1", "trainer.max_epochs=-1: differs from epochs=20, which schedules go by; set epochs"),
    ("trainer.max_steps=0", "trainer.max_steps=0: must be a whole number of updates, at least 1; -1 for no limit"),
    (
        "trainer.limit_train_batches=0.5",
        "trainer.limit_train_batches=0.5: must be a whole number of updates of each epoch, at least 1; 1.0 for the whole epoch",
    ),
    ("trainer.check_val_every_n_epoch=0", f"trainer.check_val_every_n_epoch=0: {EPOCHS}"),
    ("trainer.precision=16-mixed", "trainer.precision=16-mixed: needs a GPU; on the CPU use bf16-mixed"),
    ("trainer.precision=16", "trainer.precision=16: needs a GPU; on the CPU use bf16-mixed"),
    (
        "trainer=gpu trainer.precision=16-mixed optimizer.fused=true trainer.gradient_clip_val=1",
        "optimizer.fused=true: would undo the loss scale of trainer.precision=16-mixed after the gradient was clipped; set it to null, "
        "or use bf16-mixed",
    ),
    # the network
    ("model.channels_last=1", "model.channels_last=1: must be true or false"),
    ("model.compile=fast", "model.compile=fast: must be one of false, true, reduce-overhead, max-autotune"),
    ("model.compile=null", "model.compile=null: must be one of false, true, reduce-overhead, max-autotune"),
    ("trainer.gradient_clip_val=-1", f"trainer.gradient_clip_val=-1: {POSITIVE}; null for no clipping"),
    # files
    ("ckpt_path={tmp}/nothing.ckpt", f"ckpt_path={{tmp}}/nothing.ckpt: no such file; {NEW}"),
    ("ckpt_path={tmp}", f"ckpt_path={{tmp}}: no such file; {NEW}"),
    ("ckpt_path=3", f"ckpt_path=3: no such file in {{cwd}}; {NEW}"),
    ("ckpt_path={tmp}/file", f"ckpt_path={{tmp}}/file: is not a checkpoint, or a damaged one; {NEW}"),
    ("output_dir=x", "output_dir=x: is what Hydra makes of hydra.run.dir; set hydra.run.dir, or hydra.sweep.dir"),
    ("hydra.run.dir={tmp}/file", "{tmp}/file: cannot be made (File exists); choose another folder with hydra.run.dir, or hydra.sweep.dir"),
    (
        "hydra.run.dir={tmp}/file/x",
        "{tmp}/file/x: cannot be made (Not a directory); choose another folder with hydra.run.dir, or hydra.sweep.dir",
    ),
    (
        "-m seed=1,2 hydra.sweep.dir={tmp}/file/x",
        "{tmp}/file/x: cannot be made (Not a directory); choose another folder with hydra.run.dir, or hydra.sweep.dir",
    ),
    ("full_error=maybe", "full_error=maybe: must be true or false"),
    # the grammar of overrides
    ("epochs", f"epochs: is not an override (Error parsing override 'epochs' missing EQUAL at '<EOF>'); {QUOTE}"),
    ("scheduler.milestones=[1,", f"scheduler.milestones=[1,: is not an override (no viable alternative at input '[1,'); {QUOTE}"),
    ("hydra.run.dir=a=b", f"hydra.run.dir=a=b: is not an override (mismatched input '=' expecting <EOF>); {QUOTE}"),
    ("hydra.run.dir=null", "Error merging override hydra.run.dir=null: field 'hydra.run.dir' is not Optional"),
    (
        "scheduler=cosine,step",
        "Ambiguous value for argument 'scheduler=cosine,step' 1. To use it as a list, use key=[value1,value2] 2. To use it as string, "
        "quote the value: key=\\'value1,value2\\' 3. To sweep over it, add --multirun to your command line",
    ),
    ("+scheduler=step", "Multiple values for scheduler. To override a value use 'override scheduler: step'"),
]

# Seen only when the network is built or the images are decoded, and then still before training.
BOUNDARY_SLACK: list[tuple[str, str]] = [
    ("model.widths=[0]", "model.widths=0: must be a whole number of units or channels, at least 1"),
    ("model.widths=3", "model.widths=3: must be a list of whole numbers; write [128] for one layer"),
    ("+model.foo=3", f"model.foo=3: is not a key of model=mlp; {ANOTHER} model"),
    ("+trainer.foo=1", f"trainer.foo=1: is not a key of trainer=cpu; {ANOTHER} trainer"),
    ("+callbacks.foo=3", "callbacks.foo=3: must be a callback; give callbacks.foo._target_ and its arguments"),
    (
        "trainer.accelerator=abacus",
        "trainer=cpu: You selected an invalid accelerator name: `accelerator='abacus'`. Available names are: .*",
    ),
    ("trainer.precision=12", "trainer=cpu: Precision 12 is invalid. Allowed precision values: .*"),
    (
        "+trainer.accumulate_grad_batches=2",
        "trainer.accumulate_grad_batches=2: is decided by the plan; give the effective size to the strategy and a memory limit as "
        "max_micro_batch_size",
    ),
    ("+trainer.overfit_batches=2", "trainer.overfit_batches=2: would cut a planned epoch; train on a subset of the examples"),
    (
        "data=imagefolder data.root={tmp}/cut_train batch.size=4",
        r"data.root={tmp}/cut_train: {tmp}/cut_train/train/b/2.jpg cannot be decoded \(.+\); repair or remove the file",
    ),
    (
        "data=imagefolder data.root={tmp}/cut_test batch.size=4",
        r"data.root={tmp}/cut_test: {tmp}/cut_test/test/a/1.jpg cannot be decoded \(.+\); repair or remove the file",
    ),
    (
        "data=imagefolder data.root={tmp}/sizes batch.size=4",
        "data.image_size=null: {tmp}/sizes/train/b/0.jpg is 9 x 9 pixels .*; set data.image_size to resize all",
    ),
]


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, and folders of images, some of them damaged."""
    tmp = tmp_path_factory.mktemp("input")
    (tmp / "file").write_text("not a folder, and not a checkpoint")
    (tmp / "empty" / "train" / "a").mkdir(parents=True)
    (tmp / "empty" / "test" / "a").mkdir(parents=True)
    for name in ("images", "cut_train", "cut_test", "sizes"):
        write_images(tmp / name, size=(16, 16), kind="jpg", classes=("a", "b"))
    for image in (tmp / "cut_train" / "train" / "b" / "2.jpg", tmp / "cut_test" / "test" / "a" / "1.jpg"):
        image.write_bytes(image.read_bytes()[:-200])
    Image.new("RGB", (9, 9)).save(tmp / "sizes" / "train" / "b" / "0.jpg")
    return tmp


def assert_refused(outcome: Outcome, run_dir: Path) -> str:
    """The line, without "error: "."""
    assert outcome.status == 2, outcome
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert outcome.out == ""
    left = {path.name for path in run_dir.rglob("*")}
    assert not left & {"results.json", "steps.csv", "epochs.csv", "checkpoints"}, "something was trained"
    return outcome.lines[0].removeprefix("error: ")


def refused(typed: str, tmp: Path, run_dir: Path) -> str:
    words = typed.replace("{tmp}", str(tmp)).split(" ")
    if "hydra." not in typed:
        words.append(f"{'hydra.sweep.dir' if '-m' in words else 'hydra.run.dir'}={run_dir}")
    return assert_refused(run(*words), run_dir)


def never(what: str) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        pytest.fail(f"{what} although the input is bad")

    return fail


@pytest.mark.parametrize(("typed", "line"), TABLE, ids=[typed for typed, _ in TABLE])
def test_bad_input_is_one_line_before_data_are_touched(
    typed: str, line: str, tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsData, "read", never("data were read"))
    monkeypatch.setattr("noisescale.data.imagefolder.decode_images", never("images were decoded"))
    monkeypatch.setattr(pl.Trainer, "fit", never("training started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cpus = max(2, os.cpu_count() or 1)
    expected = line.replace("{tmp}", str(tmp)).replace("{cwd}", str(Path.cwd())).replace("{cpus}", str(cpus))
    assert refused(typed, tmp, tmp_path) == expected


@pytest.mark.parametrize(("typed", "pattern"), BOUNDARY_SLACK, ids=[typed for typed, _ in BOUNDARY_SLACK])
def test_bad_input_found_late_is_one_line_before_training(
    typed: str, pattern: str, tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytorch_lightning.loops.fit_loop._FitLoop.run", never("training started"))
    line = refused(typed, tmp, tmp_path)
    expected = pattern.replace("{tmp}", str(tmp))
    assert line == expected or re.fullmatch(expected, line), line


def test_every_group_of_the_table_is_refused_an_unknown_option() -> None:
    groups = {folder.name for folder in (REPOSITORY / "conf").iterdir() if folder.is_dir()}
    assert groups <= {typed.partition("=")[0] for typed, line in TABLE if "no such option" in line}


@pytest.mark.parametrize(
    ("typed", "environment"), [(["full_error=true"], {}), (["-m", "full_error=true"], {}), ([], {"HYDRA_FULL_ERROR": "1"})]
)
def test_the_whole_trace_on_request(typed: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """By `full_error=true`, or by Hydra's own variable; whoever runs a command in a shell sees Python's traceback of it."""
    with pytest.raises(ConfigError, match="epochs=0: must be") as caught:
        command(train, *typed, "epochs=0", f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}", **environment)
    names = [entry.name for entry in caught.traceback]
    assert {"train", "read_config", "check_count"} <= set(names)


def test_the_whole_trace_of_what_hydra_refuses(tmp_path: Path) -> None:
    with pytest.raises(MissingConfigException, match="Could not find 'scheduler/x'"):
        command(train, "scheduler=x", "full_error=true", f"hydra.run.dir={tmp_path}")


def test_a_fault_of_ours_is_not_made_a_fault_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is no ConfigError keeps its trace, from a run as from an import."""

    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("noisescale.app.train._devices", broken)
    with pytest.raises(ValueError, match="a bug"):
        run(f"hydra.run.dir={tmp_path}")


@pytest.mark.parametrize("typed", ["batch.size=0", "scheduler=x", "data.sise=3", "optimizer.lr=nan", "ckpt_path=x.ckpt"])
def test_what_needs_no_torch_is_refused_without_importing_it(typed: str, tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as error:\n    status = error.code\n"
        "print(status, sorted({'torch', 'pytorch_lightning', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    found = python("-c", program, f"hydra.run.dir={tmp_path}", typed)
    assert found.stdout == "2 []\n"
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
