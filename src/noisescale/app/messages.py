"""Error messages for users to read, one line each."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from noisescale.app.listing import options_of, options_with
from noisescale.app.own_words import OWN_GROUPS
from noisescale.app.spelling import as_typed
from noisescale.app.trainer_keys import instead_of
from noisescale.errors import ConfigError

__all__ = ["INPUT_ERRORS", "composition_line", "line", "say"]

INPUT_ERRORS = (ConfigError, HydraException, OmegaConfBaseException)
"""The exceptions that are raised for invalid input."""

SYNONYMS = {
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "label_smoothing": "task.label_smoothing",
    "loss": "task.loss",
    "criterion": "task.loss",
    "objective": "task.loss",
    "lightning_module": "module",
    "wd": "optimizer.weight_decay",
    "opt": "optimizer",
    "optim": "optimizer",
    "lr_scheduler": "scheduler",
    "lr_schedule": "scheduler",
    "schedule": "scheduler",
    "sched": "scheduler",
    "warmup_epochs": "warmup.epochs",
    "batch_size": "batch.size",
    "size": "batch.size",
    "bs": "batch.size",
    "global_batch_size": "batch.size",
    "train_batch_size": "batch.size",
    "effective_batch_size": "batch.size",
    "micro_batch_size": "max_micro_batch_size",
    "device_batch_size": "max_micro_batch_size",
    "accumulate_grad_batches": "max_micro_batch_size",
    "gradient_accumulation_steps": "max_micro_batch_size",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_steps": "trainer.max_steps",
    "dataset": "data",
    "datamodule": "data",
    "data_dir": "data.root",
    "root": "data.root",
    "workers": "data.num_workers",
    "val_split": "data.val_fraction",
    "arch": "model",
    "architecture": "model",
    "net": "model",
    "network": "model",
    "device": "trainer",
    "accelerator": "trainer",
    "gpu": "trainer",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "clip": "trainer.gradient_clip_val",
    "grad_clip": "trainer.gradient_clip_val",
    "early_stop": "early_stopping",
    "ema": "averaging",
    "swa": "averaging",
    "loggers": "logger",
    "resume_from": "resume",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "init_from": "weights_from",
    "pretrained": "weights_from",
    "weights": "weights_from",
    "random_seed": "seed",
    "out": "hydra.run.dir",
    "out_dir": "hydra.run.dir",
}
"""The names of other tools -> the keys here."""


def say(words: str) -> None:
    """Print an error on stderr, in one line, whatever a value in it consists of."""
    words = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", words)
    with suppress(OSError):  # the exit status says it, too
        print(f"error: {words}", file=sys.stderr)


def line(error: BaseException, conf: Path | None = None, cfg: DictConfig | None = None) -> str:
    """The message of an error, in one line: the key, the value, what is valid, what to do instead.

    Args:
        error: the error.
        conf: the folder of config.yaml, where that is known: an unknown key may be one of another option.
        cfg: the composed config, where that is known: a class speaks of its other arguments, which are keys of its group.
    """
    if isinstance(error, ConfigError):
        words = as_typed(_one_line(ConfigError(error.key, _in_yaml(error.value), error.problem, error.remedy)))
        return words if cfg is None else _with_groups(words, error, cfg)
    if isinstance(error, OverrideParseException):
        reason = _one_line(error).partition(" See http")[0]
        return f"{error.override}: is not an override ({reason}); write key=value, and quote a value that is not plain: 'key=\"a=b\"'"
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        if isinstance(error.__cause__, (ConfigKeyError, ConfigAttributeError)):
            return _unknown_key(_quoted(str(error)), error.__cause__, conf)
        return f"{_one_line(error)}: {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, OmegaConfBaseException):
        problem = str(error).splitlines()[0]
        return f"{error.full_key}: {problem}" if getattr(error, "full_key", None) else problem
    if isinstance(error, OSError) and error.strerror is not None:
        what = "a file of the run" if error.filename is None else error.filename
        return f"{what}: cannot be made ({error.strerror}); choose another folder with hydra.run.dir, or hydra.sweep.dir"
    return _one_line(error)


def _with_groups(words: str, error: ConfigError, cfg: DictConfig) -> str:
    """`for example reference_size=128` -> `for example batch.reference_size=128`, in an error of a key of `batch`."""
    group = error.key.rpartition(".")[0]
    node = OmegaConf.select(cfg, group) if group else None
    if not isinstance(node, DictConfig):
        return words
    start = f"{error.key}={_in_yaml(error.value)}: "
    head, rest = (start, words.removeprefix(start)) if words.startswith(start) else ("", words)
    names = [re.escape(str(name)) for name in node if not str(name).startswith("_") and name not in cfg]
    return head + re.sub(rf"(?<![\w.])({'|'.join(names)})=(?=\S)", rf"{group}.\1=", rest) if names else words


def composition_line(error: Exception, conf: Path, words: Sequence[str] | None = None) -> str:
    """The message of an error that Hydra raised before any run; then the option of a group can be the mistake.

    Args:
        error: the error.
        conf: the folder of config.yaml.
        words: what was typed; None: the arguments of this process.
    """
    if isinstance(error, (*INPUT_ERRORS, OSError)):
        return _no_such_option(error, conf) or line(error, conf)
    if str(error).startswith("Unable to configure"):  # of logging.config
        return f"hydra.job_logging or hydra.hydra_logging: {error} ({error.__cause__})"
    return _not_an_option(conf, sys.argv[1:] if words is None else words) or line(error)


def _no_such_option(error: BaseException, conf: Path) -> str:
    """The message for an option that its group does not have; empty for any other error."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return ""
    missing = str(error.missing_cfg_file)
    group, _, option = missing.partition("/")
    if not options_of(group, conf):  # a group of Hydra's own: hydra/launcher
        group, _, option = missing.rpartition("/")
    valid = sorted({*options_of(group, conf), *(error.options or ())})
    return f"{group}={option}: no such option{_meant(group, option, valid)}; valid: {', '.join(valid)}" if valid else ""


def _not_an_option(conf: Path, words: Sequence[str]) -> str:
    """The message for a group that is set to null or a number, which Hydra does not name in its error; empty if there is none."""
    for argument in words:
        group, given, option = argument.partition("=")
        valid = options_of(group, conf) if group and given else []
        if valid and not {*option.strip("[]").split(",")} <= {*valid}:
            return f"{argument}: no such option{_meant(group, option, valid)}; valid: {', '.join(valid)}"
    return ""


def _unknown_key(override: str, cause: OmegaConfBaseException, conf: Path | None) -> str:
    parent, key = cause.parent_node, str(cause.key)
    where = str(cause.full_key or key).rpartition(".")[0]
    hidden = ("hydra", "output_dir")
    valid = [str(name) for name in parent if not str(name).startswith("_") and name not in hidden] if isinstance(parent, DictConfig) else []
    if not where:
        valid += ["debug", "experiment"]  # groups without keys of their own
    other = _other_option(where, key, conf)
    if not valid:
        own = f"; name a class first, with {where}._target_=..." if where in OWN_GROUPS else ""
        added = f"; add a key of its class with +{override}=..." if where == "logger" else ""
        return f"{override}: unknown key{other or f'; {where} has none'}{own}{added}"
    if where == "trainer" and instead_of(key):
        return f"{override}: {instead_of(key)}"
    suggestion = other or (_suggestion(key, where, parent, valid) if isinstance(parent, DictConfig) else "")
    inside = f"keys of {where}" if where else "keys"
    add = f"; Lightning's other keys can be added: +{override}=..." if where == "trainer" and suggestion in ("", other) else ""
    return f"{override}: unknown key{suggestion}; {inside}: {', '.join(valid)}{add}"


def _other_option(group: str, key: str, conf: Path | None) -> str:
    """`; choose logger=wandb first`, if other options of the group have the key; may be empty."""
    found = options_with(group, key, conf) if conf is not None and group else []
    if group == "logger" and found:
        found.append(f"[tensorboard,{key}]")
    *most, last = found or [""]
    return f"; choose {group}={', '.join(most)}{' or ' if most else ''}{last} first" if found else ""


def _suggestion(key: str, where: str, parent: DictConfig, valid: list[str]) -> str:
    """`, did you mean KEY?` for the name of another tool (`batch_size`), a key without its group (`gamma`), or a typo; may be empty."""
    if key in SYNONYMS and SYNONYMS[key] != f"{where}.{key}":
        return f", did you mean {SYNONYMS[key]}{'._target_' if SYNONYMS[key] == where else ''}?"
    groups = [group for group in parent if isinstance(parent._get_node(group), DictConfig) and key in parent[group]]
    inside = f"{where}." if where else ""
    return f", did you mean {inside}{groups[0]!s}.{key}?" if groups else _did_you_mean(key, valid)


def _meant(group: str, option: str, valid: list[str]) -> str:
    """What an option that there is not may have meant: a number is a value of the key that the group is about, SGD is sgd."""
    if group in _MAIN_KEYS and re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", option):
        return f", did you mean {_MAIN_KEYS[group]}={option}?"
    if option in ("", "null"):
        return ""
    lower = option.lower().replace("-", "_")
    inside = [name for name in valid if len(name) > 2 and name in lower]  # cosine in CosineAnnealingLR
    return _did_you_mean(lower, valid) or (f", did you mean {max(inside, key=len)}?" if inside else "")


_MAIN_KEYS = {
    "batch": "batch.size",
    "optimizer": "optimizer.lr",
    "trainer": "trainer.devices",
}


def _did_you_mean(name: str, valid: list[str]) -> str:
    close = get_close_matches(name, valid, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _in_yaml(value: Any) -> Any:
    """The value, with None, True and False as they are written in YAML."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value


def _quoted(text: str) -> str:
    parts = text.split("'")
    return parts[1] if len(parts) > 2 else text


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
