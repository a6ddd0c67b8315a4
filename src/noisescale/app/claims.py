"""The claims in conf/claim/: their names, and each of them at one scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from noisescale.app.listing import CLAIMS, options_of
from noisescale.errors import ConfigError, check_choice
from noisescale.studies.claims.claim import Claim, read_claim

__all__ = ["SCALES", "claim_at", "names_of_claims", "scales_of"]

SCALES = ("smoke", "cpu", "gpu")
"""smoke: digits, under a minute. cpu: minutes on two cores. gpu: the settings of the papers."""


def names_of_claims(conf: Path) -> list[str]:
    """The claims in conf/claim/, in sorted order."""
    return options_of(CLAIMS, conf)


def claim_at(name: str, scale: str, conf: Path) -> Claim:
    """The claim at one scale: the keys of its file, and over them those of `scales.<scale>`; a list replaces a list.

    `values` holds what differs between the scales inside of words, which name it as ${values.<name>}.

    Args:
        name: the name of its file.
        scale: one of `SCALES`.
        conf: the folder of config.yaml.

    Raises:
        ConfigError: there is no such claim or scale, or its file has a mistake, which is named with the file.
    """
    check_choice("scale", scale, SCALES)
    if scale not in (described := scales_of(name, conf)):
        raise ConfigError("scale", scale, f"the claim {name} has no such scale", f"it has {', '.join(described)}")
    found = _loaded(name, conf)
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.merge(found, found.pop("scales")[scale] or {}), resolve=True)
        plain.pop("values", None)  # what the words refer to as ${values.<name>}
        return read_claim(name, scale, {str(key): value for key, value in plain.items()})
    except ConfigError as error:
        raise ConfigError(f"{CLAIMS}/{name}.yaml: {error.key}", error.value, error.problem, error.remedy) from error
    except OmegaConfBaseException as error:
        raise ConfigError("claim", name, f"cannot be read: {' '.join(str(error).split())}") from error


def scales_of(name: str, conf: Path) -> list[str]:
    """The scales at which a claim is described, in the order of `SCALES`."""
    scales = _loaded(name, conf).get("scales")
    found = [scale for scale in SCALES if isinstance(scales, DictConfig) and scale in scales]
    if not found:
        raise ConfigError(f"{CLAIMS}/{name}.yaml: scales", scales, f"must have one of {', '.join(SCALES)}")
    return found


def _loaded(name: str, conf: Path) -> DictConfig:
    try:
        found = OmegaConf.load(conf / CLAIMS / f"{name}.yaml")
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("claim", name, f"cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, DictConfig):
        raise ConfigError("claim", name, "must be a mapping of the keys of a claim")
    return found
