"""Every command on every page, in a bash block or in the text, is checked.

- python plan.py is run in this process; it succeeds, and writes plan.csv and plan.png.
- python train.py with --cfg, --help or -sc is run in this process; it prints something, and writes no run.
- python train.py on the README, except sweeps, and every resume: it is run in this process for 2 updates, as results.json confirms.
- any other python train.py: Hydra composes it, and everything that train.py checks before it reads data is checked, including the plan.
  Of a sweep as many runs are checked as it takes for each choice to occur. `make test-slow` also runs the command itself, including whole
  sweeps, with 2 updates per run; it is skipped if this machine lacks the data or the GPUs, and nothing is downloaded.
- python report.py is run by test_report_commands.py.
- any command with `--config-dir my_project` is run by test_own_example.py, in a folder with the files that the page shows.
- python reproduce.py: the claims and their scales exist; nothing is trained.
- python curvature.py: the run and what Hydra starts from are found; `make test-slow` runs it with few examples.
- make: the target is in the Makefile; the ARGS for train.py, pytest or benchmarks are checked like a command of theirs.
- python -m benchmarks and scripts: the part, the module or the file exists.
- anything else must be one of `OTHERS`.

docs/options.md repeats the command of each experiment file. tests/app/test_experiments.py composes and plans each of them, so here only
`make test-slow` runs them, unless another page has them too.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

import curvature
from benchmarks import soak
from benchmarks.__main__ import ON_REQUEST, ROUNDS
from noisescale.app.checkpoint_start import start_at_checkpoint
from noisescale.app.claims import claim_at
from noisescale.app.composed import num_examples, read_config
from noisescale.app.measurement_checks import branch_options, range_options, recommendation_options
from noisescale.app.own_words import words_for_hydra
from noisescale.app.reproduce import read_options
from noisescale.app.studied import start_of_study
from tests.helpers.front_door import outcome_of, plan, run
from tests.helpers.page_commands import (
    CLAIMS,
    COMMANDS,
    CURVATURES,
    PLANS,
    PRINTS,
    REST,
    SHARED_DATA,
    SHORT,
    STUDIES,
    kind,
    marked,
)
from tests.helpers.pages import Command
from tests.helpers.processes import python
from tests.helpers.repository import CONF, REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*TensorBoard lacks the points of that file")]


# -- made concrete -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to resume: 2 updates of the default training."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    outcome = run("trainer.max_steps=2", "threads=1", "epochs=40", f"hydra.run.dir={folder}")
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture
def saved(saved_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for one test, which may go on with it."""
    return Path(shutil.copytree(saved_once, tmp_path_factory.mktemp("saved") / "run"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 training and 2 test images of two classes."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in {"train": 6, "test": 1}.items():
        for shade, label in enumerate(("cat", "dog")):
            for number in range(count):
                path = root / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (80, 70), (100 * shade + 10 * number, 50, 50)).save(path)
    return root


def concrete(command: Command, saved: Path, pictures: Path) -> list[str]:
    """The arguments with real folders instead of the placeholders `<run>` and /path/to/...; others are not allowed."""
    known = {"outputs/train/<run>": str(saved), "/path/to/images": str(pictures), "/path/to/sets": str(SHARED_DATA)}
    arguments = []
    for argument in command.arguments:
        for placeholder, real in known.items():
            argument = argument.replace(placeholder, real)
        assert not re.search(r"<\w+>|/path/|\.\.\.", argument), argument
        arguments.append(argument)
    # The folder has few images, and a batch must not be larger than the data set.
    return [*arguments, "batch.size=4"] if any(str(pictures) in argument for argument in arguments) else arguments


# -- the front doors -----------------------------------------------------------------------------------------------------------


@pytest.mark.cases(4)
@pytest.mark.parametrize("command", marked(PLANS))
def test_plan(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = plan(*command.arguments)
    assert outcome.status == 0, outcome.err
    assert "updates" in outcome.out
    left = {path.name for path in tmp_path.glob("outputs/plan/*/*") if path.is_file()}
    assert left == {"plan.csv", "plan.png"}


@pytest.mark.parametrize("command", PRINTS, ids=str)
def test_what_prints_and_trains_nothing(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*command.arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", CLAIMS, ids=str)
def test_claims(command: Command) -> None:
    options = read_options(command.arguments, CONF)
    assert all(claim_at(name, options.scale, CONF).seeds > 1 for name in options.claims)


def completed(folder: Path, updates: int) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == updates
    assert results["status"] in ("completed", "stopped"), results


@pytest.mark.cases(5)
@pytest.mark.parametrize("command", SHORT, ids=str)
def test_two_updates(command: Command, saved: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = concrete(command, saved, pictures)
    resumed = any(argument.startswith(("ckpt_path", "resume")) for argument in arguments)
    steps = 4 if resumed else 2
    outcome = run(*arguments, f"trainer.max_steps={steps}", "threads=1")
    assert outcome.status == 0, outcome.err
    into_the_same = any(argument.startswith(("hydra.run.dir", "resume")) for argument in arguments)
    folders = [saved] if into_the_same else [*tmp_path.glob("outputs/train/*")]
    assert len(folders) == 1
    completed(folders[0], steps)


def choices(argument: str) -> list[str]:
    """The choices of a sweep in one argument, such as `batch=small,dual`."""
    key, _, values = argument.partition("=")
    return [f"{key}={value}" for value in values.split(",")] if "," in values and "[" not in values else [argument]


def samples(arguments: list[str]) -> list[list[str]]:
    """Runs of a sweep in which every choice except the seeds occurs; the command itself if it is not a sweep."""
    if "-m" not in arguments:
        return [arguments]
    launcher = ("-m", "hydra/launcher", "hydra.launcher", "hydra.sweep")
    listed = [choices(argument) for argument in arguments if not argument.startswith(launcher)]
    count = max(len(options) for options in listed if not options[0].startswith("seed="))
    return [[options[run % len(options)] for options in listed] for run in range(count)]


def runs_of(arguments: list[str]) -> int:
    """The number of runs that a command starts."""
    return math.prod(len(choices(argument)) for argument in arguments) if "-m" in arguments else 1


def composed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The config as train.py gets it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*words_for_hydra(arguments), "output_dir=run", "hydra.runtime.output_dir=run"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.mark.cases(20)
@pytest.mark.parametrize("command", marked(REST))
def test_up_to_the_start_of_training(command: Command, saved: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in samples(concrete(command, saved, pictures)):
        cfg = composed(arguments, monkeypatch)
        assert cfg.data.size is None  # data.size is only for plan.py
        assert next(iter(read_config(cfg).plan(num_examples(cfg)))).effective_batch_size > 0


def needs(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What this machine lacks to run a command; empty if it lacks nothing."""
    if "hydra/launcher=submitit_slurm" in arguments and not shutil.which("sbatch"):
        return "SLURM"
    cfg = composed(samples(arguments)[0], monkeypatch)
    folder = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py"}.get(cfg.data.get("name"))
    if folder and not (SHARED_DATA / folder).is_dir():
        return folder
    return "GPUs" if cfg.trainer.accelerator == "gpu" and torch.cuda.device_count() < cfg.trainer.devices else ""


@pytest.mark.slow
@pytest.mark.parametrize("command", REST, ids=str)
def test_two_updates_of_the_rest(command: Command, saved: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = concrete(command, saved, pictures)
    missing = needs(arguments, monkeypatch)
    if missing:
        pytest.skip(f"no {missing} here")
    if re.search("mnist|cifar", str(command)) and not any(argument.startswith("data.root") for argument in arguments):
        arguments.append(f"data.root={SHARED_DATA}")
    short = [*arguments, "trainer.max_steps=2", "threads=1"]
    if any(argument.startswith(("hydra/launcher", "trainer=ddp")) for argument in arguments):
        done = python(str(REPOSITORY / "train.py"), *short, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    else:
        outcome = run(*short)
        assert outcome.status == 0, outcome.err
    folders = [path.parent for path in tmp_path.glob("outputs/**/results.json")]
    assert len(folders) == runs_of(arguments)
    for folder in folders:
        completed(folder, 2)


# -- checkpoints ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", CURVATURES, ids=str)
def test_a_checkpoint_to_be_measured_is_found(command: Command, saved: Path, pictures: Path) -> None:
    assert start_at_checkpoint(concrete(command, saved, pictures), CONF).config_name != "config"


@pytest.mark.slow
@pytest.mark.parametrize("command", CURVATURES, ids=str)
def test_a_checkpoint_is_measured(command: Command, saved: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("curvature.iterations=1", "curvature.batches=2", "curvature.subspace=3", "curvature.points=3", "threads=1")
    outcome = outcome_of(curvature, *concrete(command, saved, pictures), *few)
    assert outcome.status == 0, outcome.err
    assert [*tmp_path.glob("outputs/curvature/*/curvature.json"), *tmp_path.glob("outputs/curvature/*/line.png")]


# -- studies ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", STUDIES, ids=str)
def test_a_study_is_composed_and_checked(command: Command, saved: Path, pictures: Path) -> None:
    if "<run>" in str(command):
        assert start_of_study(concrete(command, saved, pictures), CONF).config_name != "config"
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["output_dir=somewhere", *command.arguments])
    assert branch_options(cfg).times(cfg.epochs)
    assert range_options(cfg).updates
    assert recommendation_options(cfg).budget


# -- the others ----------------------------------------------------------------------------------------------------------------

TARGETS = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if kind(command) == "make"], ids=str)
def test_make(command: Command) -> None:
    target, rest = (command.words[1], command.words[2:]) if len(command.words) > 1 else ("help", ())
    assert target in TARGETS
    for word in rest:
        assert word.startswith("ARGS=")
        passed_on = word.removeprefix("ARGS=").split()
        if target.startswith("test"):
            assert [part for part in passed_on if not part.startswith("-") and not (REPOSITORY / part).exists()] == []
        elif target == "bench":
            assert passed_on[0] in ROUNDS | ON_REQUEST
        elif target == "soak":
            assert soak.parser().parse_args(passed_on)
        else:
            assert target == "train"  # these are trainings, which are checked above


@pytest.mark.parametrize("command", [command for command in COMMANDS if kind(command) == "script"], ids=str)
def test_scripts(command: Command) -> None:
    if not command.starts_with("python", "-m"):
        assert (REPOSITORY / command.words[1]).is_file()
        return
    assert importlib.util.find_spec(command.words[2]) is not None
    if command.words[2] == "benchmarks":
        assert set(command.words[3:]) <= {*ROUNDS, *ON_REQUEST}
