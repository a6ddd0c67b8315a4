"""The job of reproduce.py: claims in, runs carried out, verdicts and their pages out."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.types import TaskFunction
from omegaconf import DictConfig

from noisescale.app.claim_results import result_of
from noisescale.app.claim_runs import Runner
from noisescale.app.claims import SCALES, claim_at, names_of_claims, scales_of
from noisescale.app.command import BAD_INPUT, front_door
from noisescale.app.listing import list_options_only
from noisescale.app.machine import cores
from noisescale.app.messages import INPUT_ERRORS, composition_line, say
from noisescale.errors import ConfigError, check_choice, check_count
from noisescale.signals import Interrupted, raised_at_once

__all__ = ["Options", "fingerprints", "main", "read_options", "reproduce"]

INCOMPLETE = 1
"""Exit status if a run has failed, so that its value is missing in a verdict."""

USAGE = """\
python reproduce.py claim=NAME[,NAME...] | claim=all   [scale=smoke|cpu|gpu] [first_seed=SEED] [n_jobs=COUNT] [folder=DIR] [publish=DIR]

Trains what a claim compares, as far as its folder does not hold it yet, and writes the verdict with a page. It can be interrupted at any
time: the same command goes on.

  scale       smoke (the default): digits, about a minute each; cpu: MNIST, minutes; gpu: CIFAR-10, with the settings of the papers
  first_seed  that of the claim by default, mostly 0; first_seed=100 repeats the verdict with seeds 100, 101, ..., and has its own pages
  n_jobs      runs at once; the default is the number of cores, and 1 for scale=gpu
  folder      where runs and pages go; the default is outputs/reproduce
  publish     a folder that also gets the verdict to be kept: pages, figures and numbers of each seed, but no runs
"""


@dataclass(frozen=True)
class Options:
    """The command line of reproduce.py."""

    claims: tuple[str, ...]
    scale: str
    n_jobs: int
    folder: Path
    first_seed: int | None = None
    publish: Path | None = None


def main(words: Sequence[str], script: Path) -> int:
    """Carry out the command line; returns the exit status.

    Args:
        words: the arguments.
        script: reproduce.py, which stands beside conf/ and train.py.
    """
    conf = script.parent / "conf"
    list_options_only()
    try:
        if not words or {"-h", "--help"} & {*words}:
            print(_help(conf), end="")
            return 0 if words else BAD_INPUT
        with raised_at_once():
            return reproduce(read_options(words, conf), conf)
    except Interrupted as interrupted:
        say(f"interrupted by {interrupted}; the same command goes on")
        return int(interrupted.code or 1)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        return 128 + signal.SIGINT
    except OSError as error:
        say(f"{error.filename}: cannot be used ({error.strerror}); choose another folder with folder=")
        return BAD_INPUT
    except INPUT_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        say(composition_line(error, conf, []))
        return BAD_INPUT


def read_options(words: Sequence[str], conf: Path) -> Options:
    """The options that were typed.

    Raises:
        ConfigError: an option is unknown or has a value that it cannot have.
    """
    typed = {"claim": "", "scale": SCALES[0], "first_seed": "", "n_jobs": "", "folder": "outputs/reproduce", "publish": ""}
    for word in words:
        key, given, value = word.partition("=")
        if key not in typed or not given:
            remedy = f"write claim={key}" if key in names_of_claims(conf) else "write key=value"
            raise ConfigError(key, value, f"is not an option of reproduce.py, which has {', '.join(typed)}", remedy)
        typed[key] = value
    check_choice("scale", typed["scale"], SCALES)
    names = [name for name in names_of_claims(conf) if typed["claim"] != "all" or typed["scale"] in scales_of(name, conf)]
    claims = names if typed["claim"] == "all" else typed["claim"].split(",")
    for claim in claims:
        check_choice("claim", claim, names if len(claims) > 1 else [*names, "all"])
    n_jobs = _whole(typed["n_jobs"]) if typed["n_jobs"] else 1 if typed["scale"] == "gpu" else cores()
    check_count("n_jobs", n_jobs, unit="processes")
    if typed["first_seed"]:
        check_count("first_seed", _whole(typed["first_seed"]), at_least=0)
    first_seed = int(typed["first_seed"]) if typed["first_seed"] else None
    publish = Path(typed["publish"]) if typed["publish"] else None
    return Options(tuple(dict.fromkeys(claims)), typed["scale"], int(n_jobs), Path(typed["folder"]), first_seed, publish)


def reproduce(options: Options, conf: Path) -> int:
    """Carry out the claims, one after another, and write their pages and the overview; returns the exit status."""
    from noisescale.studies.claims.overview import write_overview
    from noisescale.studies.claims.page import write_page
    from noisescale.studies.claims.published import check_publishable, publish
    from noisescale.studies.claims.summary import write_summary

    # All are read first, so that a mistake in one is said at once.
    claims = [claim_at(name, options.scale, conf) for name in options.claims]
    if options.first_seed is not None:
        claims = [replace(claim, first_seed=options.first_seed) for claim in claims]
    if options.publish is not None:
        for claim in claims:
            check_publishable(options.publish, claim)
    runner, folder, status = Runner(conf, _one_run(conf), options.n_jobs), options.folder / options.scale, 0
    pages, title = folder, f"Claims at scale {options.scale}"
    if options.first_seed:
        pages, title = folder / f"from-seed-{options.first_seed}", f"{title}, with seeds from {options.first_seed}"
    for claim in claims:
        try:
            result = result_of(claim, folder / claim.name / "runs", runner)
        except ConfigError as error:  # of this claim; the others go on
            say(composition_line(error, conf, []))
            status = INCOMPLETE
            continue
        write_page(result, pages / claim.name)
        for line in result.failed:
            say(line)
            status = INCOMPLETE
        print(f"{claim.name} ({claim.scale}): {result.verdict.word}: {result.verdict.why}", flush=True)
        write_overview(pages, fingerprints(options.scale, conf), title)
        if options.publish is not None and not result.failed:
            try:
                publish(result, options.publish)
            except ConfigError as error:  # its finding.md says something else
                say(composition_line(error, conf, []))
                status = INCOMPLETE
    print(os.path.relpath(write_overview(pages, fingerprints(options.scale, conf), title)))
    if options.publish is not None:
        print(os.path.relpath(write_summary(options.publish, fingerprints(options.scale, conf))))
    return status


def fingerprints(scale: str, conf: Path) -> dict[str, str]:
    """Every claim, with a checksum of what it says now; without one if it cannot be read, or not at this scale."""
    found = {}
    for name in names_of_claims(conf):
        try:
            found[name] = claim_at(name, scale, conf).fingerprint
        except ConfigError:
            found[name] = ""
    return found


def _one_run(conf: Path) -> TaskFunction:
    """What carries out one run, as train.py does."""

    @front_door(conf)
    def train_once(cfg: DictConfig) -> int:
        from noisescale.app.train import train

        return train(cfg, conf.parent / "train.py")

    return train_once.carry_out_run


def _whole(typed: str) -> int | str:
    return int(typed) if typed.isdecimal() else typed


def _help(conf: Path) -> str:
    described = ((name, claim_at(name, scales_of(name, conf)[0], conf)) for name in names_of_claims(conf))
    return "\n".join([USAGE, "Claims:", *(f"  {name}\n      {claim.sentence}" for name, claim in described)]) + "\n"
