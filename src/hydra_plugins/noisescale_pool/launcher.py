"""The launcher plugin that Hydra discovers. Hydra imports this file at every start, so it imports as little as possible."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["PoolLauncher"]

OPTIONS = {
    "_target_": "hydra_plugins.noisescale_pool.launcher.PoolLauncher",
    "n_jobs": 2,
}
ConfigStore.instance().store(group="hydra/launcher", name="pool", node=OPTIONS, provider="noisescale")


class PoolLauncher(Launcher):
    """`hydra/launcher=pool`, see `noisescale.app.launchers.pool.launch`.

    Args:
        n_jobs: number of processes, at least 1.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from noisescale.app.launchers.pool import Sweep, launch

        sweep = Sweep(self.hydra_context, self.task_function, self.config)
        return launch(sweep, self.n_jobs, job_overrides, initial_job_idx)
