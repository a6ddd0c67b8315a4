"""Which process of a run this is, if torchrun or SLURM's srun has started several. Does not import torch."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.signals import Interrupted

__all__ = ["World", "join", "outer_world", "tell_others", "words_of_rank"]

PATIENCE = timedelta(minutes=10)
"""How long the other processes wait for rank 0 to come to its training, as it reads the config and prepares the data first."""

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS")


@dataclass(frozen=True)
class World:
    """The processes of a run that another program has started.

    Args:
        launcher: torchrun or srun.
        rank: of this process among all, from 0.
        size: the number of processes, on all machines.
    """

    launcher: str
    rank: int
    size: int


def outer_world(environment: Mapping[str, str] = os.environ) -> World | None:
    """The world that torchrun or srun has made; None if neither has started this process, or only one process.

    Of SLURM only the tasks of srun count: in a batch script, or under salloc, SLURM_NTASKS is the size of the allocation, and this process
    may be the only one.
    """
    if "NOISESCALE_RANK_0" in environment:  # this process was started by rank 0 of a run of ours
        return None
    if all(name in environment for name in _TORCHRUN):
        world = World("torchrun", int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    elif all(name in environment for name in _SRUN):
        world = World("srun", int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]))
    else:
        return None
    return world if world.size > 1 else None


class Meeting:
    """Where rank 0 of an outer world tells the others where it has recorded the config of the run.

    It is torchrun's store, or that at MASTER_ADDR and MASTER_PORT, which torch uses afterwards to connect the processes.
    """

    def __init__(self, world: World) -> None:
        import torch

        distributed: Any = torch.distributed
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        hosts = world.rank == 0 and not agent
        store = distributed.TCPStore(address, port, None, hosts, PATIENCE, wait_for_workers=False, multi_tenant=True)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = distributed.PrefixStore(f"noisescale/{attempt}", store)
        self._told = world.rank != 0

    def tell(self, record: Path | None) -> None:
        """Let the others begin; None: let them end, because there is nothing to train."""
        if not self._told:
            self._told = True
            self._store.set("record", "" if record is None else str(record))

    def ask(self) -> Path:
        """Wait for rank 0; returns the folder of the recorded config.

        Raises:
            SystemExit: rank 0 has ended without a training, as after `--cfg job`.
            Interrupted: rank 0 has ended, for a reason that it has given itself.
        """
        deadline = time.monotonic() + PATIENCE.total_seconds()
        try:
            while not self._store.check(["record"]) and time.monotonic() < deadline:  # a call that waits could not be interrupted
                time.sleep(0.1)
            record = self._store.get("record").decode()
        except RuntimeError as error:
            raise Interrupted(None, "the end of rank 0") from error
        if not record:
            raise SystemExit(0)
        return Path(record)


_meeting: Meeting | None = None


def join(words: Sequence[str]) -> list[str]:
    """The words with which this process composes its config: those of the command line, or, of a rank other than 0, rank 0's config.

    Raises:
        ConfigError: a sweep, which starts its own runs; a folder that this machine does not see.
    """
    global _meeting
    world = outer_world()
    if world is None:
        return list(words)
    if "-m" in words or "--multirun" in words or "hydra.mode=MULTIRUN" in words:
        remedy = f"start each run of the sweep with a {world.launcher} of its own, or leave out {world.launcher} and set trainer.devices"
        raise ConfigError(world.launcher, world.size, "starts the processes of one run, not those of a sweep", remedy)
    if world.launcher == "srun":
        _translate()
    _meeting = Meeting(world)
    if world.rank == 0:
        return list(words)
    record = _meeting.ask()
    if not (record / "config.yaml").exists():
        problem = f"rank {world.rank} does not see this folder of rank 0"
        raise ConfigError("hydra.run.dir", _run_of(record), problem, "choose one on a file system that all machines share")
    return words_of_rank(record)


def tell_others(record: Path | None) -> None:
    """As rank 0 of an outer world, let the other ranks begin; None: let them end, if they have not begun."""
    if _meeting is not None:
        _meeting.tell(None if record is None else record.resolve())


def _run_of(record: Path) -> Path:
    """The folder of the run: its config is recorded in `.hydra`, or in `.hydra/resumed-1` and so on."""
    return record.parent if record.name == ".hydra" else record.parent.parent


def words_of_rank(record: Path) -> list[str]:
    """The words that make a process a further rank of a run: it reads the config that rank 0 has recorded, an absolute path."""
    quoted = "'" + str(_run_of(record)).replace("'", "\\'") + "'"
    return [
        *("--config-path", str(record), "--config-name", "config"),
        *(f"hydra.run.dir={quoted}", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"),
    ]


def _translate() -> None:
    """Put SLURM's variables into those of torchrun, which torch and Lightning read."""
    slurm: dict[str, Any] = {name: os.environ[name] for name in _SRUN}
    os.environ.update(
        RANK=slurm["SLURM_PROCID"],
        LOCAL_RANK=slurm["SLURM_LOCALID"],
        GROUP_RANK=slurm["SLURM_NODEID"],
        WORLD_SIZE=slurm["SLURM_STEP_NUM_TASKS"],
    )
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
    if "MASTER_ADDR" not in os.environ:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        os.environ["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(nodes)
    if "MASTER_PORT" not in os.environ:
        job, step = (int(os.environ.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        os.environ["MASTER_PORT"] = str(15000 + (job + 1009 * step) % 15000)  # the same on all machines, and another for another step
