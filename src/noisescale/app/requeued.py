"""A run that a cluster has started again, after pre-emption or the loss of a machine: it goes on from its own last checkpoint."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.config import output_dir
from noisescale.app.launchers.ranks import is_first
from noisescale.studies.runs import COMPLETE, STARTED, read_run

__all__ = ["cluster_job", "go_on_if_requeued"]


def cluster_job(environment: Mapping[str, str] = os.environ) -> str:
    """The job of a cluster that this process carries out, the same each time the job is started again; empty without a cluster.

    Commands that are typed one after another inside one allocation, as under salloc, are no job of their own.
    """
    if "SUBMITIT_LOCAL_JOB_ID" in environment:
        return f"local-{environment['SUBMITIT_LOCAL_JOB_ID']}"
    return f"slurm-{environment['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in environment else ""


def go_on_if_requeued(cfg: DictConfig) -> None:
    """Set `cfg.ckpt_path` to the last checkpoint in the folder of this run if the same job of a cluster has begun it there.

    SLURM keeps the number of a job that it starts again, and counts the starts. Nothing has to be done before the job ends, so that this
    holds after the loss of a machine as well.
    """
    job, folder = cluster_job(), output_dir()
    if not job or not is_first() or cfg.ckpt_path is not None:
        return
    if job.startswith("slurm") and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return
    run = read_run(folder)
    if run is None or run.state in COMPLETE or run.checkpoint is None or _begun_by(folder) != job:
        return
    print(f"note: started again: it goes on from {os.path.relpath(run.checkpoint)}", file=sys.stderr)
    cfg.ckpt_path = str(run.checkpoint.resolve())


def _begun_by(folder: Path) -> str:
    try:
        return str(json.loads((folder / STARTED).read_text()).get("job", ""))
    except (OSError, ValueError, AttributeError):
        return ""
