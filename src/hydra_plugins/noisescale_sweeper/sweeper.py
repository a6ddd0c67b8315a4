"""The sweeper plugin that Hydra discovers. Hydra imports this file at every start, so it imports as little as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from noisescale.app.known_runs import KnownRuns

__all__ = ["UnfinishedRuns"]

OPTIONS = {
    "_target_": "hydra_plugins.noisescale_sweeper.sweeper.UnfinishedRuns",
    "max_batch_size": None,
    "params": None,
}
ConfigStore.instance().store(group="hydra/sweeper", name="unfinished", node=OPTIONS, provider="noisescale")


class UnfinishedRuns(BasicSweeper):
    """`hydra/sweeper=unfinished`: Hydra's basic sweeper, which keeps the runs that its folder holds, see `noisescale.app.known_runs`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.launcher = _UnlessEmpty(self.launcher)
        self._known: KnownRuns | None = None

    def get_job_batch(self) -> Sequence[Sequence[str]]:
        from noisescale.app.known_runs import KnownRuns
        from noisescale.app.sweeps import announce

        assert self.config is not None
        assert self.hydra_context is not None
        known = self._known = self._known or KnownRuns(self.config, self.hydra_context.config_loader)
        decisions = known.decide(super().get_job_batch())
        announce(each.folder for each in decisions)
        return [each.words for each in decisions if each.words is not None]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: to decide about a run its config was composed."""


class _UnlessEmpty(Launcher):
    """A launcher that is not called for no runs, which most of them refuse; a job of a cluster that has failed is said in one line."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if not job_overrides:
            return []
        try:
            return self.launcher.launch(job_overrides, initial_job_idx)
        except Exception as error:
            from noisescale.app.sweeps import as_death

            raise as_death(error) from error
