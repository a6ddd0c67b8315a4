"""What a command imports, and how it answers before any training; most commands run in their own process, as for a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.front_door import QUICK, process, run
from tests.helpers.processes import PATIENCE, environment_with, python
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

HEAVY = {"torch", "pytorch_lightning", "torchvision", "torchmetrics", "tensorboard", "matplotlib", "numpy", "scipy", "sklearn", "joblib"}

PROGRAM = """
import runpy, sys
script, baseline, *sys.argv[1:] = sys.argv[1:]
if baseline:
    import torch, torch._dynamo, pytorch_lightning
theirs = set(sys.modules)
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as error:
    print("status", error.code, file=sys.stderr)
print("modules", *sorted(set(sys.modules) - theirs), file=sys.stderr)
"""


def modules_after(*arguments: str, baseline: bool = False, script: str = "train.py") -> set[str]:
    """The modules that `python SCRIPT ARGUMENTS` has imported when it succeeds; with `baseline`, without those of torch and Lightning."""
    done = python("-c", PROGRAM, script, "yes" if baseline else "", *arguments)
    lines = done.stderr.splitlines()
    assert "status 0" in lines, done.stderr
    return set(lines[-1].split()[1:])


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


@pytest.mark.cases(1)
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--hydra-help"]])
def test_what_trains_nothing_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not packages(modules_after(*arguments)) & HEAVY


def test_the_planner_imports_no_torch(tmp_path: Path) -> None:
    found = packages(modules_after("scheduler=cosine", "batch=dual", f"hydra.run.dir={tmp_path}", script="plan.py"))
    assert not found & (HEAVY - {"numpy", "matplotlib"})


@pytest.mark.slow  # 2 x 8 s
def test_a_run_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Imports of torch and Lightning themselves do not count: in these versions torchmetrics with torchvision, scipy.signal and matplotlib,
    and torch._dynamo with sympy and the top level of torch._inductor."""
    run = [*QUICK, f"hydra.run.dir={tmp_path}"]
    lean = modules_after("callbacks=light", "logger=csv-only", *run, baseline=True)
    unused = {"tensorboard", "google", "absl", "grpc", "IPython", "torchvision", "matplotlib", "onnx", "wandb"}
    unused |= {"sklearn", "pandas", "joblib", "hydra_joblib_launcher"}
    assert not packages(lean) & unused
    assert not {name for name in lean if name.startswith(("torch._inductor.", "torch._export", "torch.utils.tensorboard", "torchvision"))}
    assert not {name for name in lean if name.startswith(("noisescale.studies.plan_figure", "noisescale.app.preview"))}
    assert "torch.utils.tensorboard" in modules_after(*run, baseline=True)  # an import that happens is detected


# -- shell completion ----------------------------------------------------------------------------------------------------------


def completed(line: str) -> list[str]:
    """The words that bash offers for `line`, with the completion that `eval "$(python train.py -sc install=bash)"` installs."""
    said = process("-sc", "install=bash")
    assert (said.returncode, said.stderr) == (0, "")
    script = """
eval "$1"
COMP_LINE="$2" COMP_POINT=${#2}
COMP_WORDS=($2) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""
    found = subprocess.run(
        ["bash", "-c", script, "bash", said.stdout, line],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=REPOSITORY,
        env=environment_with({"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}),
        check=False,
    )
    return found.stdout.split()


def test_the_shell_completes_options_and_keys() -> None:
    assert completed("python train.py scheduler=co") == ["scheduler=constant", "scheduler=cosine", "scheduler=cosine_restarts"]
    assert completed("python train.py optimizer.mom") == ["optimizer.momentum="]
    assert completed("python plan.py warmup=l") == ["warmup=linear"]


def test_a_completion_imports_nothing_heavy() -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COMP_LINE", line := "python train.py scheduler=co")
        environment.setenv("COMP_POINT", str(len(line)))
        assert not packages(modules_after("-sc", "query=bash")) & HEAVY


# -- errors --------------------------------------------------------------------------------------------------------------------

# One mistake of each kind. The mistakes that need torch are not here: in the data themselves (imagefolder, mnist), in keys that only their
# class or torch's optimizer checks (data.augment, data.num_workers, optimizer.decay_biases_and_norms), and in GPUs, which torch counts.
WITHOUT_TORCH = [
    "scheduler=cosin",
    "batch=128",
    "epoch=3",
    "epochs=???",
    "seed=-1",
    "ckpt_path=nothing.ckpt",
    "scheduler.gamma=0.5",
    "optimizer.lr=nan",
    "batch.size=0",
    "batch.size=1294",
    "batch=linear batch.max_size=9999",
    "batch=dual batch.size=1293",
    "batch=accumulate batch.size=100",
    "data.val_fraction=1.0",
    "data.subset_size=1438",
    "data=mnist batch.size=54001",
    "trainer.devices=0",
    "trainer=ddp_cpu trainer.devices=2000",
    "plan",
]

REFUSALS = """
import json, os, sys
import train

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os._exit(9)

sys.meta_path.insert(0, Nothing())
for typed in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.argv = ["train.py", *typed.split(" ")]
        try:
            train.main()
        except SystemExit as error:
            os._exit(error.code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), typed, flush=True)
"""


@pytest.mark.slow
def test_bad_input_is_refused_without_torch_wherever_it_can_be(tmp_path: Path) -> None:
    done = python("-c", REFUSALS, json.dumps(WITHOUT_TORCH), cwd=tmp_path)
    assert done.stdout.splitlines() == [f"2 {typed}" for typed in WITHOUT_TORCH]


def test_a_key_that_a_logger_does_not_know_is_one_line(tmp_path: Path) -> None:
    of_another = "an experiment or debug option that sets it is for another logger"
    for logger, key, line in (
        ("tensorboard", "logger.tensorboard.foo", f"is not a key of logger=tensorboard; {of_another}"),
        ("tensorboard", "logger.foo", "does not belong to any logger; write logger.tensorboard.foo"),
        ("csv-only", "logger.foo", "does not belong to any logger; choose logger=tensorboard, or set logger._target_"),
    ):
        outcome = run(*QUICK, f"logger={logger}", f"+{key}=1", f"hydra.run.dir={tmp_path}/{logger}")
        assert (outcome.status, outcome.lines) == (2, [f"error: {key}=1: {line}"])
        assert not (tmp_path / logger / "steps.csv").exists()


@pytest.mark.slow
def test_what_is_imported_is_left_out_of_the_searches_for_garbage() -> None:
    load = "from noisescale.app.train import import_libraries; import_libraries()"
    program = f"import gc; {load}; print(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    found = python("-c", program)
    assert found.stdout == "True True\n", found.stderr
