"""Examples per second over batch sizes, with a clock that a model of the costs moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisescale.errors import ConfigError
from noisescale.measures.throughput import saturation, throughput
from tests.helpers.hungry import ERRORS, Hungry

FIXED, EACH = 0.008, 0.001
"""Seconds of an update: of itself, and of each of its examples."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Costs(nn.Module):
    """Moves a clock; notes the sizes; slower in some of its passes, and out of memory above `capacity`."""

    def __init__(self, clock: Clock, capacity: int = 10**9, slow: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.spent = lambda n, factor: setattr(clock, "now", clock.now + factor * (FIXED + EACH * n))
        self.ran: list[int] = []
        self.capacity, self.slow = capacity, slow

    def __deepcopy__(self, memo: dict[int, Any]) -> Costs:
        twin = Costs.__new__(Costs)
        nn.Module.__init__(twin)
        twin.layer = nn.Linear(3, 1)
        twin.layer.weight, twin.layer.bias = (memo[id(each)] for each in (self.layer.weight, self.layer.bias))
        twin.spent, twin.ran, twin.capacity, twin.slow = self.spent, self.ran, self.capacity, self.slow
        return twin

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.capacity:
            raise ERRORS["cuda"]()
        self.ran.append(len(x))
        self.spent(len(x), 10.0 if len(self.ran) in self.slow else 1.0)
        outputs: Tensor = self.layer(x)
        return outputs


def rates_of(module: Costs, clock: Clock, sizes: list[int], **options: Any) -> dict[int, float]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return throughput(
        module, torch.ones(2, 3), sizes, optimizer=optimizer, loss=lambda twin, x: twin(x).square().mean(), clock=clock, **options
    )


def test_it_is_the_size_over_the_time_of_an_update() -> None:
    clock = Clock()
    rates = rates_of(Costs(clock), clock, [64, 1, 8, 8])
    assert list(rates) == [1, 8, 64]
    for size, rate in rates.items():
        assert rate == pytest.approx(size / (FIXED + EACH * size))


def test_sizes_take_turns_and_fast_ones_are_repeated() -> None:
    clock = Clock()
    module = Costs(clock)
    rates_of(module, clock, [1, 64], rounds=3)
    before = [1] * 3 + [64] * 3  # whether they fit, in two passes, and how long they take
    assert module.ran == before + 3 * ([1] * 3 + [64])  # 3 x 9 ms and 72 ms


def test_what_slows_the_machine_for_a_while_is_left_out_by_the_median() -> None:
    clock = Clock()
    module = Costs(clock, slow=tuple(range(7, 11)))
    rates = rates_of(module, clock, [1, 64], rounds=5)
    for size, rate in rates.items():
        assert rate == pytest.approx(size / (FIXED + EACH * size))


def test_sizes_that_do_not_fit_are_left_out() -> None:
    clock = Clock()
    assert list(rates_of(Costs(clock, capacity=20), clock, [4, 16, 64, 256])) == [4, 16]
    assert rates_of(Costs(clock, capacity=2), clock, [4, 16]) == {}


def test_a_module_of_ones_own_is_as_it_was() -> None:
    module = Hungry(limit=16)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    rates = throughput(module, (torch.ones(1, 3), torch.zeros(1)), [2, 8, 32], rounds=1)
    assert list(rates) == [2, 8]
    assert all(rate > 0 for rate in rates.values())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_where_more_examples_per_second_stop_coming() -> None:
    rates = {n: n / (FIXED + EACH * n) for n in (1, 8, 32, 64, 128, 512)}  # the limit is 1000 a second
    assert saturation(rates) == 64  # 889 a second, where 512 has 985
    assert saturation(rates, share=0.5) == 8
    assert saturation(rates, share=1) == 512
    assert saturation({4: 3.0, 8: 2.0}) == 4


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sizes": [0]}, "sizes=0: must be a whole number of examples, at least 1"),
        ({"sizes": [1.5]}, "sizes=1.5: must be a whole number of examples, at least 1"),
        ({"rounds": 0}, "rounds=0: must be a whole number, at least 1"),
    ],
)
def test_bad_arguments_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        throughput(Hungry(), (torch.ones(1, 3), torch.zeros(1)), **{"sizes": [1], **options})
    assert str(caught.value) == line


def test_saturation_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="must have at least one size"):
        saturation({})
    with pytest.raises(ConfigError, match="share=0: must be a finite number in"):
        saturation({1: 1.0}, share=0)
