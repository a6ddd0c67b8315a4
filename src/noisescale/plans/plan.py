"""A plan: the clock, the batch, the micro-batches and the learning rate of every update.

It is a pure function of a cursor and never depends on a running trainer. Row k of a plan holds the values that update k uses; its clock is
read at the START of the update.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

from noisescale.errors import ConfigError, check_count
from noisescale.plans.checks import check_ghost_multiple, check_smallest_micro_batch
from noisescale.plans.cutting import can_be_halved, count_parts, cut
from noisescale.plans.noise import sgd_noise_scale
from noisescale.plans.strategies import BatchChoice, BatchStrategy, sizes_follow_clock
from noisescale.plans.stretches import Cursor, Stretch, Update, stretches
from noisescale.plans.uncuttable import uncuttable
from noisescale.schedules import Constant, Schedule, warmup_and_rest

__all__ = ["Cursor", "Plan", "Stretch", "Update"]


@dataclass(frozen=True)
class Plan:
    """All updates of a training of `epochs` passes over N = num_examples.

    A window is the examples of one update. The strategy's `last` decides what happens at the end of a pass, when fewer than B examples
    remain:
        carry: the window is filled from the next pass, so that every B is exactly as planned. The epoch ends with the first update that
            reaches or crosses the end of the pass, and the training with the first that does so for its last epoch.
        partial: a smaller window, whose noise g = lr (N/B - 1) is higher, unless the strategy has match_last.
        drop: they are left out of this pass; the clock still moves on to the next whole epoch.
        spread: the remaining windows of the pass are made nearly equal: R examples in ceil(R/B) windows, none larger than B.

    The batch of an update, its learning rate and its examples depend on neither `world_size` nor `max_micro_batch_size`. Only the number of
    micro-batches per device does, and it is the smallest that respects the limit.

    Args:
        schedule: epoch -> factor; it must not have an open horizon.
        strategy: (epoch, factor, N, warm-up) -> (B, lr / lr0).
        num_examples: N, the number of examples that one pass draws from.
        epochs: number of passes; None: no end (unless max_updates sets one).
        world_size: number of devices, W.
        max_micro_batch_size: the most examples that one device processes at once; None: no limit.
        micro_batch_multiple: micro-batches are multiples of it, except the last one of an update that is not a multiple itself. It is the
            size of a ghost batch, so that ghost batch norm sees the same examples together however the update is cut.
        min_micro_batch_size: the fewest examples that one forward pass, or one ghost batch, may have: 2 for batch norm, 1 for other models.
        max_updates: the most updates in all; None: no limit.
        max_updates_per_epoch: the most updates in one epoch, after which the clock moves on to the next; None: no limit.
        replacement: whether a pass is N draws with replacement, so that an example can come several times in it, or not at all; then
            g = lr N/B.
        split_every: n: every n-th update, from update n - 1 on, is cut in two where it would be a single piece and can be cut; None: no
            update is cut for that. The noise of the gradient is measured by comparing the pieces of an update.

    Raises:
        ConfigError: a size is above N, a count is not positive, or the strategy needs batches that are drawn without replacement.
    """

    schedule: Callable[[float], float]
    strategy: BatchStrategy
    num_examples: int
    epochs: int | None
    world_size: int = 1
    max_micro_batch_size: int | None = None
    micro_batch_multiple: int = 1
    min_micro_batch_size: int = 1
    max_updates: int | None = None
    max_updates_per_epoch: int | None = None
    replacement: bool = False
    split_every: int | None = None

    def __post_init__(self) -> None:
        check_count("num_examples", self.num_examples, unit="examples")
        check_count("world_size", self.world_size, unit="devices")
        for key in ("epochs", "max_micro_batch_size", "max_updates", "max_updates_per_epoch", "split_every"):
            if getattr(self, key) is not None:
                check_count(key, getattr(self, key))
        check_count("micro_batch_multiple", self.micro_batch_multiple, unit="examples")
        check_ghost_multiple("max_micro_batch_size", self.max_micro_batch_size, self.micro_batch_multiple)
        check_ghost_multiple("micro_batch_size", self.strategy.micro_batch_size, self.micro_batch_multiple)
        check_count("min_micro_batch_size", self.min_micro_batch_size, unit="examples")
        check_smallest_micro_batch("max_micro_batch_size", self.max_micro_batch_size, self.min_micro_batch_size)
        check_smallest_micro_batch("micro_batch_size", self.strategy.micro_batch_size, self.min_micro_batch_size)
        self.strategy.check(self.num_examples)
        if self.replacement:
            self.strategy.check_replacement()

    def __iter__(self) -> Iterator[Update]:
        return self.updates()

    def updates(self, start: Cursor | None = None) -> Iterator[Update]:
        """The updates from `start` on. From the cursor at step k they are the whole plan without its first k updates."""
        for stretch in self.stretches(start):
            yield from self.updates_in(stretch)

    def stretches(self, start: Cursor | None = None) -> Iterator[Stretch]:
        """The same updates in stretches of equal ones: many at once where the schedule and the batch are known to be constant."""
        return stretches(
            self.schedule,
            self.strategy,
            self.num_examples,
            Cursor() if start is None else start,
            epochs=self.epochs,
            max_updates=self.max_updates,
            max_updates_per_epoch=self.max_updates_per_epoch,
            match=self.match,
        )

    def updates_in(self, stretch: Stretch) -> Iterator[Update]:
        """The updates of a stretch, in order."""
        step, position, seen, done, count, _, size, planned, lr_factor = stretch
        n, every, (usual, split) = self.num_examples, self.split_every, self.ways_to_cut(size)
        for _ in range(count):
            k = split if every and (step + 1) % every == 0 else usual
            yield Update(Cursor(step, position, seen, done), position / n, size, k, lr_factor, planned)
            step, position, seen, done = step + 1, position + size, seen + size, done + 1

    def update_in(self, stretch: Stretch, index: int = 0) -> Update:
        """Update `index` of a stretch; -1 is the last one."""
        start, size = stretch.cursor(index % stretch.updates), stretch.effective_batch_size
        epoch = start.position / self.num_examples
        return Update(start, epoch, size, self._accumulate(size, start.step), stretch.lr_factor, stretch.planned_batch_size)

    def micro_batches_in(self, stretch: Stretch) -> int:
        """The number of micro-batches of each device in a stretch."""
        (usual, split), step, every = self.ways_to_cut(stretch.effective_batch_size), stretch.step, self.split_every
        turns = (step + stretch.updates) // every - step // every if every else 0
        return stretch.updates * usual + turns * (split - usual)

    def sizes(self, start: Cursor | None = None) -> Iterator[Stretch]:
        """The stretches from `start` on, for those who need no learning rate: their lr_factor may be any number.

        Where the batch does not follow the schedule, they are as long as the batch is constant.
        """
        if sizes_follow_clock(self.strategy):
            return replace(self, schedule=Constant()).stretches(start)
        return self.stretches(start)

    def finished(self, cursor: Cursor) -> bool:
        """Whether no update starts at `cursor`."""
        out_of_epochs = self.epochs is not None and cursor.position >= self.epochs * self.num_examples
        return out_of_epochs or (self.max_updates is not None and cursor.step >= self.max_updates)

    def epoch_of(self, cursor: Cursor) -> int:
        """The whole epoch that an update starting at `cursor` belongs to."""
        return cursor.position // self.num_examples

    @property
    def monitors(self) -> frozenset[str]:
        """What has to be measured during the training for the plan to be known further than to the end of an epoch; empty for most."""
        return self.strategy.monitors | (self.schedule.monitors if isinstance(self.schedule, Schedule) else frozenset())

    def observed(self, epoch: float, values: Mapping[str, float]) -> Plan:
        """The plan after the values of `monitors` were read between two passes: no update that starts before `epoch` is another."""
        schedule = self.schedule.observed(epoch, values) if isinstance(self.schedule, Schedule) else self.schedule
        return replace(self, schedule=schedule, strategy=self.strategy.observed(epoch, values))

    def choice_at(self, epoch: float) -> BatchChoice:
        """B and lr / lr0 at the time `epoch`, whether or not an update starts there."""
        warmup, factor = warmup_and_rest(self.schedule, epoch)
        return self.strategy(epoch, factor, self.num_examples, warmup)

    def update_at(self, cursor: Cursor) -> Update:
        """The update that starts at `cursor`."""
        epoch = cursor.position / self.num_examples
        planned, lr_factor = self.choice_at(epoch)
        size = planned
        remaining = self.num_examples - cursor.position % self.num_examples
        if self.strategy.last == "partial":
            size = min(size, remaining)
        elif self.strategy.last == "spread":
            size = math.ceil(remaining / math.ceil(remaining / size))
        if size != planned and self.strategy.match_last:
            lr_factor *= self.strategy.resized(planned, size, self.num_examples, self.match)
        return Update(cursor, epoch, size, self._accumulate(size, cursor.step), lr_factor, planned)

    def after(self, update: Update) -> Cursor:
        """The cursor after `update`."""
        start, n = update.start, self.num_examples
        position = start.position + update.effective_batch_size
        updates_in_epoch = start.updates_in_epoch + 1
        next_epoch = (start.position // n + 1) * n
        if updates_in_epoch == self.max_updates_per_epoch:
            position = max(position, next_epoch)
        elif self.strategy.last == "drop" and position < next_epoch:
            epoch = position / n
            if next_epoch - position < self.choice_at(epoch).size:
                position = next_epoch
        if position >= next_epoch:
            updates_in_epoch = 0
        return Cursor(start.step + 1, position, start.examples_seen + update.effective_batch_size, updates_in_epoch)

    def updates_of_epoch(self, epoch: int, start: Cursor) -> Iterator[Update]:
        """The updates from `start` on that belong to the whole epoch `epoch`; none if `start` is in another epoch."""
        return takewhile(lambda update: self.epoch_of(update.start) == epoch, self.updates(start))

    def sizes_of_epoch(self, epoch: int, start: Cursor) -> Iterator[Stretch]:
        """The same as `sizes`."""
        return takewhile(lambda stretch: stretch.position // self.num_examples == epoch, self.sizes(start))

    def total_updates(self) -> int:
        """The number of updates of the whole training.

        Raises:
            ConfigError: the plan has no end.
        """
        self._check_end()
        return sum(stretch.updates for stretch in self.sizes())

    def end(self) -> float:
        """When the training ends, in epochs: where its last update does, but at most `epochs`.

        Raises:
            ConfigError: the plan has no end.
        """
        self._check_end()
        if self.epochs is not None and self.max_updates is None:
            return self.epochs
        (last,) = deque(self.sizes(), maxlen=1)
        return self.end_after(last)

    def end_after(self, last: Stretch) -> float:
        """When a training with this last stretch ends, in epochs."""
        stop = self.after(self.update_in(last, -1)).position / self.num_examples
        return stop if self.epochs is None else min(stop, self.epochs)

    def share_before(self, stretch: Stretch) -> float:
        """About which share of the training comes before `stretch`, 0 to 1; 0 if the plan has no end."""
        by_epochs = 0.0 if self.epochs is None else stretch.epoch / self.epochs
        by_updates = 0.0 if self.max_updates is None else stretch.step / self.max_updates
        return max(by_epochs, by_updates)

    def _check_end(self) -> None:
        if self.epochs is None and self.max_updates is None:
            raise ConfigError("epochs", "null", "the plan has no end", "give epochs or max_updates")

    def pieces(self, update: Update, rank: int) -> list[tuple[int, int]]:
        """(first position in the stream of passes, number of examples) of each of the k micro-batches of device `rank`.

        The window is cut into k W nearly equal pieces; micro-batch j of rank r is piece j W + r. A piece is empty only if B < W, if the
        limit is one example (or one ghost batch) and W does not divide the number of them, or if there are too few examples for
        `min_micro_batch_size` in each.

        Raises:
            ConfigError: the update cannot be cut into pieces of at least `min_micro_batch_size`.
        """
        starts, position = [], update.start.position
        for size in self._cut(update):
            starts.append((position, size))
            position += size
        return starts[rank :: self.world_size]

    def micro_batch_size(self, update: Update) -> int:
        """The largest micro-batch of an update, over all devices, in examples."""
        return self._cut(update)[0]

    def _cut(self, update: Update) -> tuple[int, ...]:
        parts = update.accumulate_grad_batches * self.world_size
        sizes = cut(update.effective_batch_size, parts, self.micro_batch_multiple, self.min_micro_batch_size, self.limit)
        if not sizes:
            raise uncuttable(update, self.strategy, self.min_micro_batch_size, self.micro_batch_multiple, self.limit)
        return sizes

    @cached_property
    def limit(self) -> int | None:
        """The most examples that one device processes at once; None: no limit."""
        return min((limit for limit in (self.max_micro_batch_size, self.strategy.micro_batch_size) if limit is not None), default=None)

    def noise(self, update: Update, lr: float) -> float:
        """g of `update` for an optimizer with learning rate `lr`: lr lr_factor (N/B - 1); lr lr_factor N/B with replacement."""
        return sgd_noise_scale(lr * update.lr_factor, self.num_examples, update.effective_batch_size, self.replacement)

    @property
    def match(self) -> str:
        """The form of n(B) in g = lr n(B), see `noise.batch_noise`: exact; ratio with replacement."""
        return "ratio" if self.replacement else "exact"

    def in_words(self, update: Update) -> str:
        """`effective 512 = 64 micro x 4 accumulate x 2 devices`; `~` instead of `=` if the micro-batches differ in size."""
        size, k = update.effective_batch_size, update.accumulate_grad_batches
        micro = self.micro_batch_size(update)
        equal = "=" if micro * k * self.world_size == size else "~"
        devices = "1 device" if self.world_size == 1 else f"{self.world_size} devices"
        return f"effective {size} {equal} {micro} micro x {k} accumulate x {devices}"

    def ways_to_cut(self, size: int) -> tuple[int, int]:
        """k of an update of `size` examples, usually and where `split_every` has its turn."""
        usual = count_parts(size, self.world_size, self.micro_batch_multiple, self.limit)
        if self.split_every is None or usual * self.world_size > 1:
            return usual, usual
        return usual, 1 + can_be_halved(size, self.micro_batch_multiple, self.min_micro_batch_size, self.limit)

    def _accumulate(self, size: int, step: int) -> int:
        turn = self.split_every is not None and (step + 1) % self.split_every == 0
        return self.ways_to_cut(size)[turn]
