"""What is measured, in the words of the config, checked before torch is imported: gradient noise, curvature, branches, a range test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import DictConfig

from noisescale.app.config import as_plain, errors_under
from noisescale.errors import ConfigError
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.range_test import RangeOptions
from noisescale.plans.checks import check_gradient_noise, check_measured_updates
from noisescale.plans.curvature_options import CurvatureOptions, check_when
from noisescale.studies.recommendation_options import RecommendationOptions

__all__ = ["GRADIENT_NOISE", "branch_options", "check_measurements", "curvature_options", "range_options", "recommendation_options"]

Options = TypeVar("Options", BranchOptions, RangeOptions, RecommendationOptions)

GRADIENT_NOISE = "noisescale.callbacks.GradientNoiseScale"
SHARPNESS = "noisescale.callbacks.Sharpness"


def check_measurements(cfg: DictConfig) -> None:
    """Check everything that a config says of measurements.

    Raises:
        ConfigError: a key is out of its range, or does not exist.
    """
    for name, node in cfg.callbacks.items():
        if isinstance(node, DictConfig):
            with errors_under(f"callbacks.{name}"):
                if node.get("_target_") == GRADIENT_NOISE:
                    _check_gradient_noise(node, cfg.get("split_every"))
                elif node.get("_target_") == SHARPNESS:
                    given = as_plain(node)
                    check_when(given.get("every_n_epochs"), given.get("at_end", True))
                    curvature_options(given)
    branch_options(cfg)
    range_options(cfg)
    recommendation_options(cfg)


def _check_gradient_noise(node: DictConfig, split_every: Any) -> None:
    every = node.get("every_n_updates")
    check_gradient_noise(every, node.get("decay"), node.get("confidence"))
    if every is not None and isinstance(split_every, int) and split_every > 0:
        check_measured_updates(every, split_every)


def curvature_options(given: Mapping[str, Any]) -> CurvatureOptions:
    """The keys of a config that say what is measured of the curvature, checked; other keys are left to whoever knows them."""
    return CurvatureOptions(**{key: value for key, value in given.items() if key in CurvatureOptions.__dataclass_fields__})


def branch_options(cfg: DictConfig) -> BranchOptions:
    """What `branches` says, checked; keys that it does not have are refused, here and below."""
    return _options(BranchOptions, "branches", cfg)


def range_options(cfg: DictConfig) -> RangeOptions:
    """What `range_test` says, checked."""
    return _options(RangeOptions, "range_test", cfg)


def recommendation_options(cfg: DictConfig) -> RecommendationOptions:
    """What `recommend` says, checked."""
    return _options(RecommendationOptions, "recommend", cfg)


def _options(kind: type[Options], group: str, cfg: DictConfig) -> Options:
    node = cfg.get(group)
    given, known = {} if node is None else as_plain(node), [each.name for each in fields(kind)]
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{group}.{key}", value, "is no key of this group", f"valid: {', '.join(known)}")
    with errors_under(group):
        return kind(**given)
