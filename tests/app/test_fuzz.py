"""Any value of any key, typed at train.py and at plan.py: a result or one line, never a traceback, never a hang, never a lost file."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from noisescale.app.command import FAILED
from noisescale.app.train import DIVERGED
from tests.helpers.front_door import plan, run, run_dir
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(line) for line in ignored), pytest.mark.filterwarnings("default")]

SEED = int(os.environ.get("FUZZ_SEED", "") or random.SystemRandom().randrange(2**32))
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "") or 1000)
PATIENCE = 60
"""Seconds after which a command hangs; the longest that was seen took 5."""

SMALL = ("epochs=2", "data.subset_size=100", "threads=1", "trainer.max_steps=20", "model.widths=[8]")
STATUSES = (0, 2, DIVERGED, FAILED)

GROUPS = {
    group.name: sorted(file.relative_to(group).with_suffix("").as_posix() for file in group.rglob("[!_]*.yaml"))
    for group in (REPOSITORY / "conf").iterdir()
    if group.is_dir()
}
LONG = {"resnet18", "resnet9", "vgg11", "wrn", "wandb", "mlflow", "cifar10", "cifar100", "mnist", "fashion_mnist"}
"""Options that take long, or that write or fetch what is not in the folder of the run."""


def keys_of(node: Any, above: str = "") -> Iterator[str]:
    """The dotted keys of a group's YAML file."""
    for name, value in node.items():
        key = f"{above}.{name}" if above else str(name)
        yield key
        if isinstance(value, dict):
            yield from keys_of(value, key)


def all_keys() -> list[str]:
    """Every key of every option, and those outside the groups."""
    found = set(keys_of(OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "config.yaml"), resolve=False)))
    for group in GROUPS:
        for file in (REPOSITORY / "conf" / group).glob("*.yaml"):
            if group not in ("experiment", "debug"):
                loaded: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
                inside = f"logger.{file.stem}" if group == "logger" and file.stem not in ("csv-only", "other") else group
                found |= {f"{inside}.{key}" for key in keys_of(loaded) if key != "defaults"}
    return sorted(key for key in found if not key.startswith(("hydra", "defaults", "output_dir")))


# fmt: off
NONSENSE = (
    "null", "true", "false", "0", "-0", "1", "-1", "2", "3", "7", "64", "1e-300", "1e-9", "0.5", "1.5", "1e9", "1e30", "1e308", "1e400",
    "nan", "inf", "-inf", "9223372036854775808", "-9223372036854775809", "100000", "1000000000", "abc", "???", "[]", "{}", "[1]",
    "[1,2]", "[2,1]", "[abc]", "[[1]]", "{a:1}", "{_target_:os.getcwd}", "[{_target_:os.getcwd}]", "${epochs}", "${nope}",
    "${oc.env:NOPE}", "os.getcwd", "torch.nn.ReLU", "builtins.print", "my.Module", "a.b", ".", "../x", "~", "é", "日本", "🙂", "''",
    "\"a=b\"", "00:00:01:00", "cpu", "gpu", "sgd", "val/acc", "train/loss", "min", "max", "_target_", "0x10", "1_000", "--", "' '",
    "'a b'",
)
# fmt: on
PLACES = ("/", "/dev/null", "/dev/zero", "/proc/self/mem", "/etc/hostname")
"""Values of keys that are read and not written; who runs the tests may be allowed to replace a device."""

READ = ("data.root", "ckpt_path", "task.loss", "model._target_", "data", "seed", "batch.size", "scheduler.T_max", "callbacks")
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="'\"\\"), max_size=12).map(lambda text: f"'{text}'")
VALUES = st.one_of(st.sampled_from(NONSENSE), st.integers(-3, 70).map(str), st.floats().map(str), st.integers().map(str), WORDS)


def assignment(key: str) -> st.SearchStrategy[str]:
    values = st.one_of(VALUES, st.sampled_from(PLACES)) if key in READ else VALUES
    return st.tuples(st.sampled_from(["", "", "", "+", "++", "~"]), values).map(lambda pair: f"{pair[0]}{key}={pair[1]}")


WORD = st.one_of(
    st.sampled_from(all_keys()).flatmap(assignment),
    st.sampled_from(sorted(GROUPS)).flatmap(
        lambda group: st.one_of(st.sampled_from([f"{group}={option}" for option in GROUPS[group] if option not in LONG]), assignment(group))
    ),
    st.tuples(
        st.sampled_from(sorted(GROUPS)), st.sampled_from(["x", "_target_", "_args_", "_partial_", "_recursive_", "x.y._target_"]), VALUES
    ).map(lambda parts: f"+{parts[0]}.{parts[1]}={parts[2]}"),
    st.tuples(st.text(max_size=8), VALUES).map("=".join),
)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where a command is after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: nothing after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def harmless(word: str) -> bool:
    """Whether a word neither asks for a trace, nor for a sweep, nor for more work than a test has time for."""
    key = word.lstrip("+~").partition("=")[0]
    if key.startswith(
        ("hydra", "full_error", "output_dir", "-", "epochs", "model.compile", "trainer.max_epochs", "experiment")
    ) or not word.strip("-"):
        return False
    return not any(long in word for long in LONG)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check(command: Any, words: list[str], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    kept = folder.parent / "kept.csv"
    kept.write_text("not ours")
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*.csv*")) if path.name != "plan.csv"}
    with within(PATIENCE):
        outcome = command(*SMALL, *words, run_dir(folder))
    assert outcome.status in STATUSES, outcome
    assert "Traceback" not in outcome.err, outcome.err
    if outcome.status in (2, FAILED):
        lines = [line for line in outcome.lines if line.startswith("error: ")]
        assert len(lines) == 1, outcome.err
        assert outcome.lines[-1] == lines[0], outcome.err
        assert len(lines[0]) < 2000, outcome.err
    assert kept.read_text() == "not ours"
    there = {path.read_bytes() for path in folder.rglob("*.csv*")}
    assert all(text in there for text in before.values()), "a file of an earlier run is lost"


def test_any_words_are_a_result_or_one_line(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUZZ_SEED repeats a run, FUZZ_EXAMPLES is the number of command lines."""
    monkeypatch.chdir(elsewhere)
    print(f"FUZZ_SEED={SEED}")
    numbers = iter(range(10 * EXAMPLES))

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.booleans(), st.lists(WORD.filter(harmless), min_size=1, max_size=3))
    def fuzz(trains: bool, words: list[str]) -> None:
        folder = elsewhere / f"{next(numbers) // 5}"  # five commands share a folder
        check(run if trains else plan, words, folder)

    fuzz()
