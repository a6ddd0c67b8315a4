"""A run from a notebook: one call, as often as one likes, and after any error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from noisescale.app.notebook import find_conf, run
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from tests.helpers import front_door
from tests.helpers.front_door import fresh_process, results_of
from tests.helpers.notebooks import executed
from tests.helpers.refusals import error_of
from tests.helpers.repository import CONF, REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

QUICK: dict[str, Any] = {"data.subset_size": 200, "threads": 1, "callbacks": "light", "logger": "csv-only"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with fresh_process():
        yield


def test_a_call_trains_as_the_command_does(tmp_path: Path) -> None:
    found = run("scheduler=step", epochs=1, **QUICK)
    words = [f"{key}={value}" for key, value in QUICK.items()]
    assert front_door.run("scheduler=step", "epochs=1", *words, f"hydra.run.dir={tmp_path}/command").status == 0
    command = results_of(tmp_path / "command")
    assert found.folder.parent == tmp_path / "outputs" / "train"
    same = ("test/acc", "test/loss", "train/loss", "val/acc", "updates", "status", "choices")
    assert {name: found.results[name] for name in same} == {name: command[name] for name in same}
    assert read_rows(found.folder / "steps.csv") == read_rows(tmp_path / "command" / "steps.csv")
    assert (found.folder / ".hydra" / "config.yaml").exists()
    assert found.cfg.scheduler.gamma == 0.5
    assert repr(found) == f"Run('{found.folder}', status='completed')"

    tested = found.trainer.test(found.module, datamodule=found.data, verbose=False)
    assert tested[0]["test/acc"] == found.results["test/acc"]
    assert isinstance(found.module, pl.LightningModule)


@pytest.mark.cases(5)
@pytest.mark.parametrize(
    ("words", "values", "line"),
    [
        ((), {"epochs": 0}, "epochs=0: must be a whole number of epochs, at least 1"),
        ((), {"epoch": 3}, "epoch: unknown key, did you mean epochs?; keys: task, "),
        ((), {"scheduler": "cosin"}, "scheduler=cosin: no such option, did you mean cosine?; valid: constant, "),
        ((), {"scheduler": None}, "scheduler=null: no such option; valid: "),
        (("batch=128",), {}, "batch=128: no such option, did you mean batch.size=128?; valid: "),
        (("scheduler",), {}, "scheduler: is not an override "),
        ((), {"batch.size": 5000}, "batch.size=5000: must be at most N = 1293"),
        (("--config-dir=a",), {}, "--config-dir=a: is an option of the command line, which a notebook does not have; write run("),
        (("-m", "seed=1,2"), {}, "-m: is an option of the command line, which a notebook does not have; call run once for each run"),
        (("--cfg", "job"), {}, "--cfg: is an option of the command line, which a notebook does not have; write key=value"),
        ((), {"config_dir": "nowhere"}, "config_dir=nowhere: no such folder; give the folder with your options"),
        (("trainer=ddp_cpu",), {}, "trainer.devices=2: a notebook trains on one device; use train.py for several"),
    ],
)
def test_an_error_is_the_line_of_the_command_and_leaves_hydra_as_it_was(
    words: tuple[str, ...], values: dict[str, Any], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
            run(*words, **values)
        assert "\n" not in str(caught.value)
        assert GlobalHydra.instance().hydra is before
        assert HydraConfig.instance().cfg is config
        assert compose("config", ["output_dir=x"]).epochs == 20  # another Hydra program goes on
    assert capfd.readouterr() == ("", "")


def test_calls_after_each_other_and_after_an_error(tmp_path: Path) -> None:
    def losses(**values: Any) -> list[str]:
        return [row["loss"] for row in read_rows(run(epochs=1, **QUICK, **values).folder / "steps.csv")]

    first = losses(seed=1)
    with pytest.raises(ConfigError):
        losses(seed=-1)
    assert not GlobalHydra.instance().is_initialized()
    assert losses(seed=2) != first
    assert losses(seed=1) == first
    assert len([*(tmp_path / "outputs" / "train").glob("*/results.json")]) == 3


def test_a_run_that_diverges_is_returned_and_one_that_is_interrupted_is_not() -> None:
    rate: dict[str, Any] = {"optimizer.lr": 1e6}
    config = HydraConfig.instance().cfg
    assert run("optimizer=sgd", epochs=2, **QUICK, **rate).results["status"] == "diverged"
    with pytest.raises(KeyboardInterrupt):
        run("+callbacks.end._target_=tests.helpers.callbacks.Interrupts", epochs=1, **QUICK)
    with pytest.raises(ValueError, match="a bug of the user's"):
        run("+callbacks.end._target_=tests.helpers.callbacks.RaisesValueError", epochs=1, **QUICK)
    assert HydraConfig.instance().cfg is config


def test_classes_and_words_of_ones_own(tmp_path: Path) -> None:
    """A module in the current folder is found, and so are the modules and the options in `config_dir`, with a space in its name."""
    source = "from noisescale.data import DigitsData\n\n\nclass Mine(DigitsData):\n    pass\n"
    (tmp_path / "code_of_here.py").write_text(source)
    own = tmp_path / "it's mine"
    (own / "data").mkdir(parents=True)
    (own / "code_of_mine.py").write_text(source)
    (own / "data" / "ours.yaml").write_text("defaults: [digits, _self_]\n_target_: code_of_mine.Mine\nsubset_size: 200\n")
    quick: dict[str, Any] = {key: value for key, value in QUICK.items() if not key.startswith("data.")}
    here = run("data=digits", "data._target_=code_of_here.Mine", "data.subset_size=200", epochs=1, **quick)
    mine = run("data=ours", config_dir="it's mine", epochs=1, **quick)
    assert [type(found.data).__module__ for found in (here, mine)] == ["code_of_here", "code_of_mine"]
    assert here.results["test/acc"] == mine.results["test/acc"]
    with pytest.raises(ValueError, match=r"^data=ours: no such option"):
        run("data=ours", epochs=1, **quick)


def test_values_are_written_as_hydra_reads_them(tmp_path: Path) -> None:
    odd = tmp_path / "it's a = folder, [odd]"
    words: dict[str, Any] = {"model.widths": [8, 4], "max_micro_batch_size": None, "model.channels_last": True, "optimizer.lr": 1e-5}
    found = run("hydra.run.dir=${output}", "+output=x", epochs=1, **QUICK, **words, output=odd)
    assert found.folder == odd
    assert (list(found.cfg.model.widths), found.cfg.model.channels_last, found.cfg.optimizer.lr) == ([8, 4], True, 1e-5)


def test_the_configs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_conf() == CONF  # tmp_path has none, so it is that of the repository
    inner = tmp_path / "project" / "notebooks"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "conf").mkdir()
    (tmp_path / "project" / "conf" / "config.yaml").write_text("{}")
    monkeypatch.chdir(inner)
    assert find_conf() == tmp_path / "project" / "conf"
    assert find_conf(CONF) == find_conf(str(CONF)) == CONF
    error_of(lambda: find_conf("nowhere"), "conf", "nowhere", "config.yaml")


def lines_of_the_page() -> str:
    """The block of docs/training.md that shows the call."""
    page = (REPOSITORY / "docs" / "training.md").read_text()
    (block,) = (found for found in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "noisescale.app.notebook" in found)
    return str(block)


def test_the_three_lines_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    block = lines_of_the_page()
    assert len([line for line in block.splitlines() if line]) == 3
    names: dict[str, Any] = {}
    exec(block, names)
    (result,) = (value for name, value in names.items() if name == "result")
    assert result.results["status"] == "completed"
    assert f"{result.results['test/acc']}" in capsys.readouterr().out
    torch.set_num_threads(1)


@pytest.mark.slow  # a kernel, which imports torch
def test_they_run_in_a_kernel_twice(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(lines_of_the_page()), nbformat.v4.new_code_cell("run(epochs=0)")]
    cells[1].source = "try:\n    run(epochs=0)\nexcept ValueError as error:\n    print(error)"
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(lines_of_the_page())]), tmp_path / "own.ipynb")
    outputs = [cell.outputs for cell in executed(tmp_path / "own.ipynb").cells]
    printed = ["".join(output.get("text", "") for output in cell if output.get("name") == "stdout") for cell in outputs]
    accuracy = [text.splitlines()[-1] for text in (printed[0], printed[2])]
    assert accuracy[0] == accuracy[1]
    assert float(accuracy[0]) > 0.5
    assert printed[1] == "epochs=0: must be a whole number of epochs, at least 1\n"


def test_each_call_has_the_modules_of_its_own_folder(tmp_path: Path) -> None:
    """They may have the same name, and then the second must not be taken for the first."""
    for name, lr in (("one", 0.1), ("two", 0.2), ("one", 0.1)):
        (tmp_path / name).mkdir(exist_ok=True)
        code = (
            f"import torch\n\n\nclass Mine(torch.optim.SGD):\n    def __init__(self, params, lr):\n        super().__init__(params, {lr})\n"
        )
        (tmp_path / name / "my_optimizer.py").write_text(code)
        found = run("optimizer._target_=my_optimizer.Mine", "scheduler=constant", config_dir=tmp_path / name, epochs=1, **QUICK)
        assert float(read_rows(found.folder / "steps.csv")[0]["lr"]) == lr
