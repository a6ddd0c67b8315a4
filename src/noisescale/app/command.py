"""A front door: `hydra.main`, with one line and an exit status for what goes wrong. Imports no torch."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from noisescale.app.config import in_sweep
from noisescale.app.listing import list_options_only
from noisescale.app.messages import INPUT_ERRORS, composition_line, line, say

__all__ = ["front_door"]

BAD_INPUT = 2
"""Exit status for input that cannot be carried out."""

INTERRUPTED = 130
"""Exit status of a run that was stopped by a signal, as shells have it."""

_FULL_ERROR = "NOISESCALE_FULL_ERROR"


def front_door(conf: Path) -> Callable[[Callable[[DictConfig], int]], Command]:
    """Make a function of the composed config a command; a decorator.

    The function returns the exit status of a single run. In a sweep every run is carried out, whatever becomes of the others; the
    command then fails if one had bad input. `full_error=true` or HYDRA_FULL_ERROR=1 shows the traceback instead of the line.

    Args:
        conf: the folder of config.yaml.
    """
    return functools.partial(Command, conf)


class _RunRefused(Exception):
    """Bad input of one run of a sweep; the run has said so, and the sweep goes on."""


class Command:
    """What `front_door` makes; called without arguments, it reads the command line and exits."""

    def __init__(self, conf: Path, function: Callable[[DictConfig], int]) -> None:
        self._conf, self._function = conf, function
        self._in_function = False
        self._status: int | None = None
        functools.update_wrapper(self, function)
        atexit.register(self._leave)  # before the large imports, hence called after all that they register

    def __call__(self) -> NoReturn:
        try:
            sys.exit(self._carry_out())
        except SystemExit as exit:
            self._status = exit.code if isinstance(exit.code, int) else None
            raise

    def _carry_out(self) -> int:
        """Everything from the command line to the last run; returns the exit status, or raises it as Hydra and `_run` do."""
        self._in_function = False
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            os.environ[_FULL_ERROR] = "1"
        os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands errors on instead of printing them
        list_options_only()
        run = functools.update_wrapper(functools.partial(self._run), self._function)
        try:
            hydra.main(version_base="1.3", config_path=str(self._conf), config_name="config")(run)()
        except _RunRefused:
            return BAD_INPUT
        except KeyboardInterrupt:
            if _full_error():
                raise
            say("interrupted")
            return INTERRUPTED
        except (*INPUT_ERRORS, OSError, ValueError) as error:
            if _full_error() or "full_error=true" in sys.argv or self._is_a_fault(error):
                raise
            say(composition_line(error, self._conf))
            return BAD_INPUT
        return 0

    def _run(self, cfg: DictConfig) -> None:
        """One run, as Hydra calls it."""
        self._in_function = True
        if cfg.get("full_error") is True:
            os.environ[_FULL_ERROR] = "1"
        try:
            status = self._function(cfg)
        except INPUT_ERRORS as error:
            if _full_error():
                raise
            if in_sweep():
                say(f"{line(error)}  (run: {HydraConfig.get().job.override_dirname})")
                raise _RunRefused(str(error)) from None  # Hydra goes on with the other runs
            say(line(error))
            sys.exit(BAD_INPUT)
        if not in_sweep():
            sys.exit(status)

    def _is_a_fault(self, error: Exception) -> bool:
        """Whether an error is a fault of the code and needs its traceback.

        Hydra itself raises OSError and ValueError for input, a folder that cannot be made or a group set to a number, but not once the
        function has started. An error with a cause comes from a run in another process.
        """
        return not isinstance(error, INPUT_ERRORS) and (self._in_function or error.__cause__ is not None)

    def _leave(self) -> None:
        """End the process without unloading the modules, which takes torch a second; all that was to be done at exit is done."""
        file = getattr(sys.modules["__main__"], "__file__", None)
        if self._status is None or file != self._function.__code__.co_filename:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed at the other end, or here
                stream.flush()
        os._exit(self._status)

    def __reduce__(self) -> tuple[Any, ...]:
        return Command, (self._conf, self._function)


def _full_error() -> bool:
    return os.environ.get(_FULL_ERROR) == "1"
