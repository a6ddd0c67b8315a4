"""Train from a notebook or a script: compose a config and carry out the run in one call, with the same words as on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from noisescale.app.config import output_dir
from noisescale.app.messages import INPUT_ERRORS, composition_line
from noisescale.app.own_words import forget_modules, make_importable, words_for_hydra
from noisescale.app.train import carry_out
from noisescale.errors import ConfigError

if TYPE_CHECKING:
    import pytorch_lightning as pl

__all__ = ["Run", "find_conf", "run"]


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        folder: the folder with its files: steps.csv, epochs.csv, checkpoints and more.
        results: what results.json holds: the final metrics, `updates`, `seconds`, `status` and more.
        cfg: the composed config.
        module: what was trained, with the weights of the end.
        data: the DataModule, set up.
        trainer: Lightning's trainer.
    """

    folder: Path
    results: dict[str, Any]
    cfg: DictConfig
    module: pl.LightningModule
    data: pl.LightningDataModule
    trainer: pl.Trainer

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, status={self.results['status']!r})"


def run(*words: str, conf: str | Path | None = None, config_dir: str | Path | None = None, **values: Any) -> Run:
    """Train as `python train.py WORDS` does: `run("scheduler=cosine", "batch=small", epochs=2)`.

    The run leaves the same files, under `outputs/` in the current folder. A run that diverges is returned with that status. Hydra's global
    state is afterwards what it was, so that the next call, or another Hydra program in this process, works after any error.

    Args:
        words: overrides as on the command line; a run at a time, so no sweeps.
        conf: the folder of config.yaml; None: `conf/` in the current folder or in one above it, else that of the repository from which the
            package is imported.
        config_dir: a folder with options and modules of your own, as `--config-dir`. Modules in the current folder are found without it.
        values: keys without a dot that are set to a value: a number, a string, None, True, False, or a list of these. Keys with a dot are
            among the words, or in a dict: `run(**{"optimizer.lr": 0.1})`.

    Raises:
        ConfigError: the config is invalid.
        ValueError: Hydra cannot compose it, or a word is an option such as `-m`; the message is the line of the command line.
        KeyboardInterrupt: the run was interrupted; its files have been written.
    """
    folder, own = find_conf(conf), _own_folder(config_dir)
    _refuse_options(words)
    _leave_earlier_folders(own)
    make_importable([Path.cwd(), *own])
    overrides = words_for_hydra([*words, *(f"{key}={_written(value)}" for key, value in values.items())])
    searched = [f"hydra.searchpath={_written([f'file://{each}' for each in own])}"] if own else []
    ended: list[Run | BaseException] = []

    def job(cfg: DictConfig) -> None:
        try:
            ended.append(_carried_out(cfg, folder))
        except BaseException as error:  # Hydra would print a line of its own
            ended.append(error)

    with _set_aside(), initialize_config_dir(str(folder), job_name="train", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            hydra.run("config", job, [*overrides, *searched], with_log_configuration=False)
        except (*INPUT_ERRORS, ValueError) as error:
            raise ValueError(composition_line(error, folder, overrides)) from error
    (run,) = ended
    if isinstance(run, BaseException):
        raise run
    return run


@contextmanager
def _set_aside() -> Iterator[None]:
    """Without the Hydra that this process may have initialized already, which is there again afterwards."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def _carried_out(cfg: DictConfig, folder: Path) -> Run:
    if cfg.trainer.devices != 1:
        raise ConfigError("trainer.devices", cfg.trainer.devices, "a notebook trains on one device", "use train.py for several")
    trained = carry_out(cfg, folder)  # no other process is started, so the script is not used
    results = json.loads((output_dir() / "results.json").read_text())
    return Run(output_dir().resolve(), results, cfg, trained.module, trained.data, trained.trainer)


def find_conf(conf: str | Path | None = None) -> Path:
    """The folder of config.yaml: see `run`.

    Raises:
        ConfigError: there is none.
    """
    here = Path.cwd()
    repository = Path(__file__).resolve().parents[3]
    places = [Path(conf)] if conf is not None else [*(folder / "conf" for folder in (here, *here.parents)), repository / "conf"]
    for place in places:
        if (place / "config.yaml").is_file():
            return place.resolve()
    given = "null" if conf is None else conf
    raise ConfigError("conf", given, "no folder with a config.yaml", f"give the folder conf/ of the repository: run(..., conf={'PATH'!r})")


_earlier: set[Path] = set()
"""The folders of modules that earlier calls were given, whose modules would otherwise be taken for those of this call."""


def _leave_earlier_folders(own: Sequence[Path]) -> None:
    forget_modules(_earlier.difference(own))
    _earlier.clear()
    _earlier.update(own)


def _own_folder(config_dir: str | Path | None) -> list[Path]:
    if config_dir is None:
        return []
    if not Path(config_dir).is_dir():
        raise ConfigError("config_dir", config_dir, "no such folder", "give the folder with your options and modules, or leave it out")
    return [Path(config_dir).resolve()]


def _refuse_options(words: Sequence[str]) -> None:
    """Refuse what belongs on the command line only, in the words of a notebook."""
    instead = {"--config-dir": "write run(..., config_dir=...)", "-cd": "write run(..., config_dir=...)"}
    instead |= dict.fromkeys(("-m", "--multirun"), "call run once for each run, or use train.py -m")
    for word in words:
        if word.startswith("-"):
            remedy = instead.get(word.partition("=")[0], "write key=value")
            raise ValueError(f"{word}: is an option of the command line, which a notebook does not have; {remedy}")


def _written(value: Any) -> str:
    """A value as it is written in an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, (str, Path)):
        escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
