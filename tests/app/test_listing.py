"""Help, completion and error messages list options and no other files; for a key of another tool they name the key here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from noisescale.app.messages import SYNONYMS
from tests.helpers.front_door import run
from tests.helpers.processes import python
from tests.helpers.repository import CONF


def option_files(group: str) -> set[str]:
    return {file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_")}


def test_there_are_files_that_are_not_options() -> None:
    assert len([*CONF.rglob("_*.yaml")]) > 5


def test_help_lists_options_only() -> None:
    outcome = run("--help")
    assert outcome.status == 0
    groups = outcome.out.partition("== Config ==")[0]
    assert f"batch: {', '.join(sorted(option_files('batch')))}\n" in groups
    assert "_common" not in groups
    assert "_base" not in groups


@pytest.mark.parametrize(("line", "group"), [("batch=", "batch"), ("data=", "data"), ("experiment=", "experiment")])
def test_completion_lists_options_only(line: str, group: str) -> None:
    typed = f"python train.py {line}"
    done = python("train.py", "-sc", "query=bash", environment={"COMP_LINE": typed, "COMP_POINT": str(len(typed))})
    assert done.returncode == 0, done.stderr
    found = {word.removeprefix(line) for word in done.stdout.split()}
    assert {word.rstrip("/") for word in found} >= option_files(group)
    assert not [word for word in found if word.rpartition("/")[2].startswith("_")]


@pytest.mark.parametrize("words", ["batch=_dual", "experiment=smith2017/_base"])
def test_a_shared_file_is_refused_as_an_option(words: str) -> None:
    outcome = run(words)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "is not an option itself" in outcome.err


@pytest.mark.parametrize("given", ["--config-dir={}", "-cd {}", "--config-dir {}"])
def test_a_slip_in_an_option_of_the_users_own_folder_is_answered_with_it(given: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "transformer.yaml").write_text("_target_: mine.Transformer\n")
    (tmp_path / "model" / "_shared.yaml").write_text("width: 3\n")
    outcome = run(*given.format(tmp_path).split(), "model=transfomer")
    assert outcome.status == 2
    assert outcome.err.startswith("error: model=transfomer: no such option, did you mean transformer?; valid: cnn, ")
    assert ", transformer, " in outcome.err
    assert "_shared" not in outcome.err


@pytest.mark.cases(4)
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=0.1", "optimizer.lr"),
        ("batch_size=64", "batch.size"),
        ("lr_scheduler=cosine", "scheduler"),
        ("optimizer.learning_rate=0.1", "optimizer.lr"),
        ("data.batch_size=64", "batch.size"),
        ("T_max=5", "scheduler.T_max"),
        ("seeed=1", "seed"),
        ("scheduler.T_mx=1", "T_max"),
    ],
)
def test_a_key_is_answered_with_the_key_that_was_meant(typed: str, meant: str) -> None:
    outcome = run(typed)
    key = typed.partition("=")[0]
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: {key}: unknown key, did you mean {meant}?; keys")
    assert outcome.err.count("\n") == 1


def test_the_keys_that_synonyms_stand_for_exist_and_the_synonyms_do_not() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["data=mnist", "output_dir=x"], return_hydra_config=True)
    missing = object()
    assert [key for key in SYNONYMS.values() if OmegaConf.select(cfg, key, default=missing) is missing] == []
    assert not {*SYNONYMS} & {*cfg}


def test_a_group_of_hydras_own_is_named_whole() -> None:
    outcome = run("hydra/launcher=jobilb")
    assert outcome.status == 2
    assert outcome.err.startswith("error: hydra/launcher=jobilb: no such option, did you mean joblib?; valid: basic, joblib, pool")
