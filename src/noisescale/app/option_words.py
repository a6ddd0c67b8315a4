"""Words that choose options of a group, checked before Hydra reads them: it takes the names in a list for text without looking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from noisescale.app.listing import options_of
from noisescale.errors import ConfigError

__all__ = ["check_option_words"]


def check_option_words(words: Sequence[str], conf: Path) -> None:
    """Raise `ConfigError` for a word such as `callbacks=[full,1]`, whose list holds something else than names of options.

    Args:
        words: as they are typed.
        conf: the folder of config.yaml.
    """
    for word in words:
        key, equals, value = word.partition("=")
        group = key.strip().lstrip("+~").partition("@")[0]
        if not equals or not value.lstrip().startswith("[") or not re.fullmatch(r"\w+(/\w+)*", group):
            continue
        valid = options_of(group, conf)
        if not valid and not group.startswith("hydra/"):
            continue
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
            names = override.value()
        except HydraException:  # which says what is wrong with it
            continue
        for name in names if isinstance(names, list) else []:
            if not isinstance(name, str):
                raise ConfigError(group, names, f"{name!r} is no option", f"valid: {', '.join(valid)}" if valid else "")
