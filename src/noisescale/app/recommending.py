"""The job of recommend.py: a recommendation for the training that a config describes, as a page, a file and figures."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from noisescale.app.choices import key_of
from noisescale.app.config import typed
from noisescale.app.measurement_checks import recommendation_options
from noisescale.app.recorded import CONFIG, write_record
from noisescale.app.studied import check_studied, goes_on_after, training_of
from noisescale.errors import ConfigError
from noisescale.files import write_atomically
from noisescale.plans.duality import Dual
from noisescale.progress import in_words, progress_bar
from noisescale.studies.claims.kept import claims_behind, verdicts_in_words

if TYPE_CHECKING:
    from noisescale.studies.recommendation_study import Recommended

__all__ = ["recommend"]

PROGRAM = "recommend.py"


def recommend(cfg: DictConfig, results: Path | None = None) -> int:
    """Measure, print the recommendation, and write recommendation.md, recommendation.json and recommendation.png; returns 0.

    Args:
        cfg: the composed config, the same as for training.
        results: the folder of the verdicts on claims, for those that the recommendation relies on.

    Raises:
        ConfigError: the config is invalid.
        RunInterrupted: it was interrupted, and said how to go on.
    """
    if cfg.ckpt_path is not None:  # `run` is refused before
        raise ConfigError("ckpt_path", cfg.ckpt_path, f"{PROGRAM} begins with new weights", "leave it out, or give weights_from")
    run, options = check_studied(cfg, PROGRAM), recommendation_options(cfg)
    if run.strategy.lr_rule != "none":
        raise ConfigError("batch.lr_rule", run.strategy.lr_rule, f"{PROGRAM} finds the learning rate of each batch itself", "leave it out")
    with goes_on_after(PROGRAM) as folder:
        training, identity = training_of(run)
        from noisescale.studies.recommendation_figure import draw_recommendation
        from noisescale.studies.recommendation_page import as_json, page
        from noisescale.studies.recommendation_study import run_recommendation

        write_record(folder / CONFIG, cfg)
        with progress_bar("measuring") as shown:
            try:
                found = run_recommendation(training, options, folder, identity, in_words(shown))
            except ConfigError as error:
                raise (error.under("recommend") if error.key in cfg.recommend else error) from error
        command = _command(found, bool(run.own_optimizer))
        draw_recommendation(found.measured, found.found, " ".join(typed()) or "the default training", folder / "recommendation.png")
        claims = _claims_behind(found, run.schedule, run.optimizer)
        verdicts = [*verdicts_in_words(claims, results, folder)] if results else []
        text = page(found.found, found.measured, command, _updates(found), ("recommendation.png",), verdicts)
        write_atomically(folder / "recommendation.json", as_json(found.found, found.measured, command, verdicts))
        write_atomically(folder / "recommendation.md", text)
    _print(found, command)
    for line in verdicts_in_words(claims, results, results.parent) if results else ():
        print(f"measured: {line}")
    _say_what_else_differs(found, run.own_optimizer)
    for name in ("recommendation.md", "recommendation.json", "recommendation.png"):
        print(os.path.relpath(folder / name))
    return 0


def _command(found: Recommended, own_optimizer: bool) -> str:
    """The command that trains as recommended: the words that were typed, with the batch and the learning rate.

    A module that makes its own optimizer (`own_optimizer`) has a learning rate of its own, which no word changes.
    """
    ours = ("batch", "batch.size", "batch.max_size", "optimizer.lr", "hydra.run.dir")
    words = [word for word in typed() if key_of(word) not in ours and not key_of(word).startswith(("recommend", "batch."))]
    rate = [] if own_optimizer else [f"optimizer.lr={found.found.lr:.4g}"]
    batch = [f"batch.size={found.found.batch_size}", *rate]
    if found.measured.limit is not None:
        words = [word for word in words if key_of(word) != "max_micro_batch_size"]
        batch.append(f"max_micro_batch_size={found.measured.limit}")
    if found.grows:
        batch = ["batch=dual", *batch, f"batch.max_size={found.found.max_batch_size}"]
        batch += [f"batch.rule={found.measured.dual_rule}"] if found.measured.dual_rule is not None else []
    return shlex.join(["python", "train.py", *words, *batch])


def _claims_behind(found: Recommended, schedule: Callable[[float], float], optimizer: str) -> list[str]:
    """The claims that the recommendation relies on: where growing stops, that the rate goes with the batch, and the dual, if it has one."""
    dual = claims_behind(schedule, Dual(found.found.batch_size), optimizer) if found.grows else []
    return ["critical_batch", "rate_and_batch", *dual]


def _updates(found: Recommended) -> str:
    if found.dual_updates is None:
        return f"The training takes {found.updates} updates."
    saved = 1.0 - found.dual_updates / found.updates
    return f"The schedule takes {found.updates} updates, its dual {found.dual_updates}: {saved:.0%} fewer, with the same noise."


def _print(found: Recommended, command: str) -> None:
    best = found.found
    sure = "" if best.is_sure else "  (not sure)"
    print(f"batch size {best.batch_size}, learning rate {best.lr:.3g}, accumulate {best.accumulate}{sure}")
    for each in best.findings:
        undecided = f"\n    not sure; this would decide: {each.would_decide}" if each.would_decide else ""
        print(f"- {each.about}: {each.sentence}{undecided}")
    print(f"{_updates(found)}\n{command}")


def _say_what_else_differs(found: Recommended, own_optimizer: str) -> None:
    """Say which of the words that were typed the command does not have, and what it cannot say."""
    dropped = [word for word in typed() if key_of(word) == "batch" or (key_of(word).startswith("batch.") and key_of(word) != "batch.size")]
    if dropped:
        print(f"note: {' '.join(dropped)} gave the batch to begin with; the command has the one that is recommended", file=sys.stderr)
    if own_optimizer:
        rate = f"set its learning rate to {found.found.lr:.3g} in your code"
        print(f"note: {own_optimizer} makes its own optimizer: {rate}", file=sys.stderr)
