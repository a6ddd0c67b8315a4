"""What the front doors share: Hydra's main with errors for people, and building the chosen options. Imports no torch."""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from noisescale.errors import ConfigError

__all__ = ["as_plain", "build", "errors_under", "front_door", "in_sweep", "options", "output_dir", "refusal"]

BAD_INPUT = 2
"""Exit status for input that cannot be carried out."""

INTERRUPTED = 130
"""Exit status of a run that was stopped by a signal, as shells have it."""

_INPUT_ERRORS = (ConfigError, HydraException, OmegaConfBaseException)


class _RunRefused(Exception):
    """Bad input of one run of a sweep; the run has said so, and the sweep goes on."""


def front_door(conf: Path) -> Callable[[Callable[[DictConfig], int]], Callable[[], NoReturn]]:
    """Make a function of the composed config a command: `hydra.main`, with one line and exit status 2 for bad input.

    The function returns the exit status of a single run. In a sweep every run is carried out, whatever became of the others;
    the command then fails if one had bad input. `full_error=true` or HYDRA_FULL_ERROR=1 shows the trace instead of the line.

    Args:
        conf: folder of config.yaml.
    """

    def wrap(function: Callable[[DictConfig], int]) -> Callable[[], NoReturn]:
        started = False
        ended: int | None = None

        @atexit.register  # before the large imports, hence called after all that they register
        def leave() -> None:
            if ended is not None and getattr(sys.modules["__main__"], "__file__", None) == function.__code__.co_filename:
                _leave(ended)

        @functools.wraps(function)
        def job(cfg: DictConfig) -> None:
            nonlocal started
            started = True
            if cfg.get("full_error") is True:
                os.environ["NOISESCALE_FULL_ERROR"] = "1"
            try:
                status = function(cfg)
            except _INPUT_ERRORS as error:
                if _full_error():
                    raise
                if in_sweep():
                    _say(f"{_line(error)}  (run: {HydraConfig.get().job.override_dirname})")
                    raise _RunRefused(str(error)) from None  # Hydra goes on with the other runs
                _say(_line(error))
                sys.exit(BAD_INPUT)
            if not in_sweep():
                sys.exit(status)

        @functools.wraps(function)
        def command() -> NoReturn:
            nonlocal ended
            try:
                carry_out()
            except SystemExit as exit:
                ended = exit.code if isinstance(exit.code, int) else None
                raise

        def carry_out() -> NoReturn:
            nonlocal started
            started = False
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                os.environ["NOISESCALE_FULL_ERROR"] = "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands errors on instead of printing them
            try:
                hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(job)()
            except _RunRefused:
                sys.exit(BAD_INPUT)
            except (*_INPUT_ERRORS, OSError, ValueError) as error:
                # Of Hydra's own: a folder that cannot be made, a group set to a number. A cause is the trace of a run elsewhere.
                ours = not isinstance(error, _INPUT_ERRORS) and (started or error.__cause__ is not None)
                if ours or _full_error() or "full_error=true" in sys.argv:
                    raise
                _say(
                    _no_option(error, conf) or _line(error)
                    if isinstance(error, (*_INPUT_ERRORS, OSError))
                    else _not_an_option(conf) or _line(error)
                )
                sys.exit(BAD_INPUT)
            except KeyboardInterrupt:
                if _full_error():
                    raise
                _say("interrupted")
                sys.exit(INTERRUPTED)
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
        refused = refusal(cfg, group, error.__cause__)
        if refused is None:
            raise
        raise refused from error


def refusal(cfg: DictConfig, group: str, cause: BaseException | None) -> ConfigError | None:
    """What the object of a config group refuses, in the words of the config; None where that is not the user's fault.

    Args:
        cfg: the whole config.
        group: its name, `scheduler`.
        cause: what was raised.
    """
    if isinstance(cause, ConfigError):
        return cause.under(group)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if isinstance(cause, TypeError) and unknown is not None:
        key, option = unknown.group(1), _option(group)
        problem = f"is no key of {group}={option}; an experiment or debug option that sets it is for another {group}"
        return ConfigError(f"{group}.{key}", cfg[group].get(key), problem)
    lightnings = type(cause).__name__ == "MisconfigurationException"
    if cause is not None and (lightnings or isinstance(cause, (TypeError, ValueError, OSError))):
        return ConfigError(group, _option(group), _one_line(cause))
    return None


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


def options() -> dict[str, str]:
    """The option chosen in each config group."""
    return {str(group): str(name) for group, name in HydraConfig.get().runtime.choices.items()}


def output_dir() -> Path:
    """Where this run leaves its files."""
    return Path(HydraConfig.get().runtime.output_dir)


def _leave(status: int) -> NoReturn:
    """End the process without taking the modules apart, which takes torch a second; all that was to be done at exit is done."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed at the other end, or here
            stream.flush()
    os._exit(status)


def _option(group: str) -> str:
    return options().get(group, "") if HydraConfig.initialized() else ""


def _full_error() -> bool:
    return os.environ.get("NOISESCALE_FULL_ERROR") == "1"


def _say(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)


def _line(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, ConfigError):
        return _one_line(ConfigError(error.key, _as_typed(error.value), error.problem, error.remedy))
    if isinstance(error, OverrideParseException):
        reason = _one_line(error).partition(" See http")[0]
        return f"{error.override}: is no override ({reason}); write key=value, and quote a value that is not plain: 'key=\"a=b\"'"
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        if isinstance(error.__cause__, (ConfigKeyError, ConfigAttributeError)):
            return _unknown_key(_quoted(str(error)), error.__cause__)
        return f"{_one_line(error)}: {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, OmegaConfBaseException):
        problem = str(error).splitlines()[0]
        return f"{error.full_key}: {problem}" if getattr(error, "full_key", None) else problem
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be made ({error.strerror}); choose another folder with hydra.run.dir, or hydra.sweep.dir"
    return _one_line(error)


def _no_option(error: BaseException, conf: Path) -> str:
    """The line for a word that is no option of its group; empty for any other error."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return ""
    group, _, option = str(error.missing_cfg_file).partition("/")
    valid = _options_of(conf / group)
    return f"{group}={option}: no such option{_meant(option, valid)}; valid: {', '.join(valid)}" if valid else ""


def _options_of(folder: Path) -> list[str]:
    """The words that a group knows; files that start with _ are what several options share."""
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("[!_]*.yaml"))


def _unknown_key(override: str, cause: OmegaConfBaseException) -> str:
    parent, key = cause.parent_node, str(cause.key)
    where = str(cause.full_key or key).rpartition(".")[0]
    hidden = ("hydra", "output_dir")
    valid = [str(name) for name in parent if not str(name).startswith("_") and name not in hidden] if isinstance(parent, DictConfig) else []
    if not where:
        valid += ["debug", "experiment"]  # groups without keys of their own
    if not valid:
        return f"{override}: unknown key; {where} has none"
    inside = f"keys of {where}" if where else "keys"
    add = f"; Lightning's other keys can be added: +{override}=..." if where == "trainer" else ""
    return f"{override}: unknown key{_meant(key, valid)}; {inside}: {', '.join(valid)}{add}"


def _not_an_option(conf: Path) -> str:
    """The line for a group set to null or a number, of which Hydra does not say which it is; empty where there is none."""
    for argument in sys.argv[1:]:
        group, _, option = argument.partition("=")
        valid = _options_of(conf / group)
        if group and valid and option not in valid:
            return f"{argument}: no such option; valid: {', '.join(valid)}"
    return ""


def _as_typed(value: Any) -> Any:
    """null, true and false as they are written in YAML."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value


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
