"""What the front doors share: Hydra's main with errors for people, and building the chosen options. Imports no torch."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from noisescale.errors import ConfigError

__all__ = ["as_plain", "build", "errors_under", "front_door", "in_sweep", "output_dir"]

BAD_INPUT = 2
"""Exit status for input that cannot be carried out."""


def front_door(conf: Path) -> Callable[[Callable[[DictConfig], int]], Callable[[], NoReturn]]:
    """Make a function of the composed config a command: `hydra.main`, with one line and exit status 2 for bad input.

    The function returns the exit status of a single run. In a sweep every run is carried out, whatever became of the others;
    the command then fails if one had bad input. `full_error=true` or HYDRA_FULL_ERROR=1 shows the trace instead of the line.

    Args:
        conf: folder of config.yaml.
    """

    def wrap(function: Callable[[DictConfig], int]) -> Callable[[], NoReturn]:
        @functools.wraps(function)
        def job(cfg: DictConfig) -> None:
            if cfg.get("full_error"):
                os.environ["NOISESCALE_FULL_ERROR"] = "1"
            try:
                status = function(cfg)
            except ConfigError as error:
                if _full_error():
                    raise
                _say(error, HydraConfig.get().job.override_dirname if in_sweep() else "")
                if in_sweep():
                    raise  # Hydra goes on with the other runs
                sys.exit(BAD_INPUT)
            if not in_sweep():
                sys.exit(status)

        @functools.wraps(function)
        def command() -> NoReturn:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                os.environ["NOISESCALE_FULL_ERROR"] = "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands errors on instead of printing them
            try:
                hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(job)()
            except (ConfigError, HydraException, OmegaConfBaseException) as error:
                if _full_error() or "full_error=true" in sys.argv:
                    raise
                if not isinstance(error, ConfigError):  # the run has said that one
                    _say(error, "")
                sys.exit(BAD_INPUT)
            sys.exit(0)

        return command

    return wrap


def build(cfg: DictConfig, group: str, **arguments: Any) -> Any:
    """The object that a config group describes; `ConfigError` with the group's name in front of the key.

    Args:
        cfg: the whole config.
        group: its name, `scheduler`.
        arguments: what only Python knows, given to the target beside its keys.
    """
    try:
        return instantiate(cfg[group], **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause.under(group) from error
        lightnings = type(cause).__name__ == "MisconfigurationException"
        if cause is not None and (lightnings or isinstance(cause, (TypeError, ValueError, OSError))):
            raise ConfigError(group, _option(group), _one_line(cause)) from error
        raise


@contextmanager
def errors_under(group: str) -> Iterator[None]:
    """Put the group's name in front of the key of a `ConfigError` raised inside."""
    try:
        yield
    except ConfigError as error:
        raise error.under(group) from error


def in_sweep() -> bool:
    """Whether this is one run of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def output_dir() -> Path:
    """Where this run leaves its files."""
    return Path(HydraConfig.get().runtime.output_dir)


def _option(group: str) -> str:
    return str(HydraConfig.get().runtime.choices.get(group, "")) if HydraConfig.initialized() else ""


def _full_error() -> bool:
    return os.environ.get("NOISESCALE_FULL_ERROR") == "1"


def _say(error: BaseException, run: str) -> None:
    print(f"error: {_line(error)}" + (f"  (run: {run})" if run else ""), file=sys.stderr)


def _line(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        valid = sorted(name for name in error.options if not name.startswith("_"))
        return f"{group}={option}: no such option{_meant(option, valid)}; valid: {', '.join(valid)}"
    if isinstance(error, ConfigCompositionException):
        override = _quoted(str(error))
        cause = error.__cause__
        parent = getattr(cause, "parent_node", None)
        key = str(getattr(cause, "key", "") or "")
        if isinstance(parent, DictConfig):
            hidden = ("hydra", "output_dir")
            valid = [str(name) for name in parent if not str(name).startswith("_") and name not in hidden]
            where = str(getattr(cause, "full_key", "") or key).rpartition(".")[0]
            inside = f"keys of {where}" if where else "keys"
            add = f"; Lightning's other keys can be added: +{override}=..." if where == "trainer" else ""
            return f"{override}: unknown key{_meant(key, valid)}; {inside}: {', '.join(valid)}{add}"
        return _one_line(error)
    return _one_line(error)


def _meant(name: str, valid: list[str]) -> str:
    close = get_close_matches(name, valid, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _quoted(text: str) -> str:
    parts = text.split("'")
    return parts[1] if len(parts) > 2 else text


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def as_plain(cfg: DictConfig) -> dict[str, Any]:
    """The config with its references resolved, as plain containers."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
