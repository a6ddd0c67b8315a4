"""Lines about words that change nothing in this run, and about what a choice of callbacks leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from noisescale.app.choices import key_of
from noisescale.app.config import options, overrides
from noisescale.app.measurement_checks import GRADIENT_NOISE, SHARPNESS
from noisescale.plans.checks import AUTO
from noisescale.plans.plan import Plan

__all__ = ["notes_of_config", "notes_of_plan"]

ADDS = {
    "NoiseScaleMonitor": "no steps.csv",
    "EpochRecorder": "no epochs.csv",
    "Checkpoint": "no checkpoints",
    "StopOnDivergence": "no stop when the loss becomes nan or inf",
}
"""Class of a callback -> what a run without it does not have."""

MEANT = ("full", "light", "none")
"""Options of `callbacks` that are one by themselves, and say what they leave out."""


def notes_of_config(cfg: DictConfig) -> list[str]:
    """One line for each word that has no effect, whatever the data, and one if an added callback is used alone."""
    typed = {key_of(word) for word in overrides()}
    useless = ((key, why(cfg)) for key, why in _USELESS.items() if key in typed)
    return [*(f"{key}={_shown(cfg, key)} {reason}" for key, reason in useless if reason), *_added_alone(cfg), *_never_in_between(cfg)]


def notes_of_plan(cfg: DictConfig, plan: Plan) -> list[str]:
    """The same of what depends on the number of updates."""
    found = []
    total = None if plan.epochs is None and plan.max_updates is None else plan.total_updates()
    for key, node in _of_class(cfg, GRADIENT_NOISE):
        every = node.get("every_n_updates")
        if total is not None and isinstance(every, int) and every > total:
            found.append(f"{key}.every_n_updates={every} is more than the {total} updates of the training: nothing is measured")
    return found


def _added_alone(cfg: DictConfig) -> Iterator[str]:
    option = options().get("callbacks", "")
    chosen = [name.strip() for name in option.strip("[]").split(",")] if option else _chosen_last()
    if not chosen or {*chosen} & {*MEANT}:
        return
    there = {str(node.get("_target_")).rpartition(".")[2] for node in cfg.callbacks.values() if isinstance(node, DictConfig)}
    lacking = [what for name, what in ADDS.items() if name not in there]
    if lacking:
        names = ",".join(chosen)
        shown, pronoun = (names, "it") if len(chosen) == 1 else (f"[{names}]", "them")
        yield f"callbacks={shown} alone: {', '.join(lacking)}; callbacks=[full,{names}] adds {pronoun} to what there usually is"


def _chosen_last() -> list[str]:
    """The options of `callbacks=[a,b]`, which Hydra does not list among its choices."""
    words = [word.partition("=")[2] for word in overrides() if key_of(word) == "callbacks"]
    return [name.strip() for name in words[-1].strip("[]").split(",")] if words else []


def _never_in_between(cfg: DictConfig) -> Iterator[str]:
    for key, node in _of_class(cfg, SHARPNESS):
        every = node.get("every_n_epochs")
        if isinstance(every, int) and every > cfg.epochs:
            when = "it is measured at the end only" if node.get("at_end", True) else "nothing is measured"
            yield f"{key}.every_n_epochs={every} is more than epochs={cfg.epochs}: {when}"


def _of_class(cfg: DictConfig, target: str) -> Iterator[tuple[str, DictConfig]]:
    for name, node in cfg.callbacks.items():
        if isinstance(node, DictConfig) and node.get("_target_") == target:
            yield f"callbacks.{name}", node


def _margin(cfg: DictConfig) -> str:
    limit = cfg.max_micro_batch_size
    given = "null" if limit is None else limit
    return "" if limit == AUTO else f"has no effect: it is the margin of max_micro_batch_size={AUTO}, and that is {given}"


def _split(cfg: DictConfig) -> str:
    cuts = cfg.get("split_every") is not None and not any(_of_class(cfg, GRADIENT_NOISE))
    return "cuts updates that nothing measures; callbacks=[full,gns] does" if cuts else ""


def _match_last(cfg: DictConfig) -> str:
    fits = cfg.batch.get("match_last") is True and cfg.batch.get("last") in ("carry", "drop")
    return f"has no effect: with batch.last={cfg.batch.last} no window is smaller" if fits else ""


def _reference(cfg: DictConfig) -> str:
    idle = cfg.batch.get("reference_size") is not None and cfg.batch.get("lr_rule") == "none"
    return "has no effect: it is for batch.lr_rule=linear and sqrt" if idle else ""


def _weights(cfg: DictConfig) -> str:
    both = cfg.get("weights_from") is not None and cfg.get("ckpt_path") is not None
    return "has no effect: the run goes on with the weights of its checkpoint" if both else ""


_USELESS: dict[str, Callable[[DictConfig], str]] = {
    "micro_batch_margin": _margin,
    "split_every": _split,
    "batch.match_last": _match_last,
    "batch.reference_size": _reference,
    "weights_from": _weights,
}
"""Key -> that it has no effect in a config, and why; empty where it has one."""


def _shown(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return {None: "null", True: "true", False: "false"}.get(value, value) if value is None or isinstance(value, bool) else value
