"""A command-line program: `hydra.main`, with an error message of one line and an exit status for each mistake. Does not import torch."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from noisescale.app.config import errors_under, in_sweep
from noisescale.app.faults import RunFailed, failure_of
from noisescale.app.flags import flags_first
from noisescale.app.given_words import remember
from noisescale.app.interruption import RunInterrupted
from noisescale.app.launchers.ranks import is_first
from noisescale.app.launchers.world import join, tell_others
from noisescale.app.listing import config_folders, list_options_only
from noisescale.app.messages import INPUT_ERRORS, composition_line, line, say
from noisescale.app.option_words import check_option_words
from noisescale.app.other_commands import refuse_words_of_others
from noisescale.app.own_words import make_importable, words_for_hydra
from noisescale.app.resume import Start, start_of
from noisescale.app.sweeps import RunDied, table_at_the_end, what_differs
from noisescale.app.targets import HYDRAS, check_nested, checked
from noisescale.signals import Interrupted, raised_at_once

__all__ = ["front_door"]

BAD_INPUT = 2
"""Exit status for invalid input."""

DIED = 1
"""Exit status of a sweep in which the process of a run was killed."""

FAILED = 4
"""Exit status of a run that the machine has ended, such as by a full disk."""

_FULL_ERROR = "NOISESCALE_FULL_ERROR"


StartOf = Callable[[Sequence[str], Path], Start]
"""(the command line, the folder of config.yaml) -> what Hydra starts from."""


def front_door(conf: Path, start: StartOf = start_of) -> Callable[[Callable[[DictConfig], int]], Command]:
    """A decorator that turns a function of the composed config into a command.

    The function returns the exit status of a single run. A sweep carries out all of its runs, even if some of them fail, and the command
    fails if one had invalid input. `full_error=true` or HYDRA_FULL_ERROR=1 shows the traceback instead of the one line.

    Args:
        conf: the folder of config.yaml.
        start: what the command line starts from.
    """
    return functools.partial(Command, conf, start)


class _RunRefused(Exception):
    """One run of a sweep had invalid input; it has printed its error, and the sweep continues."""


_ended: list[JobReturn] = []
"""The runs of this process that Hydra keeps until the end of a sweep, and that have not been made small yet."""


@functools.cache
def _adapt_hydras_results() -> None:
    """Let Hydra print nothing about a run that has its own line, because it was refused or killed, and note the result of every run.

    Hydra has no setting for this.
    """
    returned: Any = JobReturn.return_value

    def return_value(job: JobReturn) -> Any:
        if isinstance(job._return_value, (_RunRefused, RunDied)):
            raise job._return_value
        return returned.fget(job)

    def set_return_value(job: JobReturn, value: Any) -> None:
        returned.fset(job, value)
        _ended.append(job)

    JobReturn.return_value = property(return_value, set_return_value)  # type: ignore[method-assign, assignment]


def _let_go_of_the_last_runs() -> None:
    """Free what the runs before have left: 0.2 MB of configuration each, what the traceback of an error refers to, and open files.

    Trainer, module and callbacks refer to each other, so that only the garbage collector frees them, which would come late: the longer a
    sweep is, the rarer are its full collections.
    """
    while _ended:
        job = _ended.pop()
        job.cfg = job.hydra_cfg = None
        error = job._return_value if isinstance(job._return_value, BaseException) else None
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
    gc.collect()


@functools.cache
def _check_hydras_callbacks() -> None:
    """Let Hydra make nothing else of `hydra.callbacks` than callbacks of its own. Hydra has no setting for this."""
    make: Any = Callbacks.__init__

    def make_checked(self: Callbacks, config: DictConfig | None = None) -> None:
        described = OmegaConf.select(config, "hydra.callbacks") if config is not None else None
        for name, node in (described or {}).items():
            key, plain = f"hydra.callbacks.{name}", OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            checked(f"{key}._target_", plain.get("_target_") if isinstance(plain, dict) else plain, HYDRAS)
            with errors_under(key):
                check_nested(plain)
        make(self, config)

    Callbacks.__init__ = make_checked  # type: ignore[method-assign]


class Command:
    """The command that `front_door` makes: called without arguments, it reads the command line, runs and exits."""

    def __init__(self, conf: Path, start: StartOf, function: Callable[[DictConfig], int]) -> None:
        self._conf, self._start, self._function = conf, start, function
        self._in_function = False
        self._status: int | None = None
        functools.update_wrapper(self, function)
        atexit.register(self._leave)  # registered before the large imports, so it is called after everything that they register

    def __call__(self) -> NoReturn:
        try:
            sys.exit(self._carry_out())
        except SystemExit as exit:
            self._status = exit.code if isinstance(exit.code, int) else None
            raise

    def _carry_out(self) -> int:
        """Carry out all runs of the command line; returns the exit status, or raises SystemExit with it, as `carry_out_run` does."""
        self._in_function = False
        remember(sys.argv[1:])
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            os.environ[_FULL_ERROR] = "1"
        os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises errors instead of printing them
        list_options_only()
        _adapt_hydras_results()
        _check_hydras_callbacks()
        run = functools.update_wrapper(functools.partial(self.carry_out_run), self._function)
        try:
            with raised_at_once():
                refuse_words_of_others(Path(self._function.__code__.co_filename).stem, sys.argv[1:])
                start = self._start(join(flags_first(sys.argv[1:])), self._conf)
                sys.argv[1:] = words_for_hydra(start.words)
                check_option_words(start.words, self._conf)
                make_importable([Path.cwd(), *config_folders(self._conf)[1:], *start.places])
                with table_at_the_end():
                    hydra.main(version_base="1.3", config_path=str(self._conf), config_name=start.config_name)(run)()
        except _RunRefused:
            return BAD_INPUT
        except RunDied:
            return DIED
        except RunInterrupted as interrupted:  # it has said so
            return interrupted.status
        except Interrupted as interrupted:
            if is_first():  # which speaks for all processes of a run
                sweep = {"-m", "--multirun"} & {*sys.argv}
                finish = "; the same command with hydra.sweep.dir=<its folder> finishes the sweep"
                say(f"interrupted by {interrupted}{finish if sweep else ', with nothing to save'}")
            return int(interrupted.code or 1)
        except KeyboardInterrupt:
            if _full_error():
                raise
            say("interrupted")
            return 128 + signal.SIGINT
        except (*INPUT_ERRORS, OSError, ValueError, RuntimeError) as error:
            if _full_error() or "full_error=true" in sys.argv or self._is_a_bug(error):
                raise
            say(composition_line(error, self._conf))
            return BAD_INPUT
        finally:
            tell_others(None)
        return 0

    def carry_out_run(self, cfg: DictConfig) -> None:
        """Carry out one run; called by Hydra."""
        self._in_function = True
        if in_sweep():
            _let_go_of_the_last_runs()
        if cfg.get("full_error") is True:
            os.environ[_FULL_ERROR] = "1"
        try:
            with raised_at_once():  # again, because this may be in a process of a launcher
                status = self._function(cfg)
        except RunInterrupted as interrupted:
            if in_sweep() and not interrupted.by_signal:  # one of the processes of this run has ended; the sweep continues
                return
            raise
        except Exception as error:
            refused = error if isinstance(error, INPUT_ERRORS) else failure_of(error)
            if _full_error() or refused is None:
                raise
            if in_sweep():
                say(f"{line(refused, cfg=cfg)}  (run: {what_differs()})")
                raise _RunRefused(str(refused)) from None  # Hydra continues with the other runs
            say(line(refused, cfg=cfg))
            sys.exit(FAILED if isinstance(refused, RunFailed) else BAD_INPUT)
        if not in_sweep():
            sys.exit(status)

    def _is_a_bug(self, error: Exception) -> bool:
        """Whether an error is a bug, which needs its traceback, rather than invalid input.

        Hydra itself raises OSError and ValueError for invalid input, such as a folder that cannot be created or a group set to a number,
        but no longer once the function has started. An error of a run in another process comes with its traceback, as its cause (joblib)
        or as a note (pool).
        """
        elsewhere = type(error.__cause__).__name__.endswith("RemoteTraceback") or bool(getattr(error, "__notes__", ()))
        return not isinstance(error, INPUT_ERRORS) and (self._in_function or elsewhere)

    def _leave(self) -> None:
        """End the process without unloading its modules, which takes a second with torch. All other exit handlers have run by now."""
        file = getattr(sys.modules["__main__"], "__file__", None)
        if self._status is None or file != self._function.__code__.co_filename:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the stream may be closed, here or at the other end
                stream.flush()
        os._exit(self._status)

    def __reduce__(self) -> tuple[Any, ...]:
        return Command, (self._conf, self._start, self._function)


def _full_error() -> bool:
    return os.environ.get(_FULL_ERROR) == "1"
