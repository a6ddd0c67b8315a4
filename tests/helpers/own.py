"""Classes that a user may have written, good and bad; none of them knows of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset, random_split

SLOPE = torch.tensor([1.0, -2.0, 0.5])


def examples(n: int, seed: int = 0) -> TensorDataset:
    """A line with noise: x (n, 3), y (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return TensorDataset(x, x @ SLOPE + 0.1 * torch.randn(n, generator=generator))


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def one_for_each(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten()


class Quantile(nn.Module):
    """Koenker & Bassett 1978: the mean of max(q d, (q - 1) d), d = target - output."""

    def __init__(self, q: float) -> None:
        super().__init__()
        self.q = q

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        d = targets - outputs
        return torch.maximum(self.q * d, (self.q - 1) * d).mean()


class Module(pl.LightningModule):
    """With everything; the optimizer is its own."""

    def __init__(self, width: int = 4, layers: tuple[int, ...] = (), lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))

    def error(self, batch: Any) -> Tensor:
        x, y = batch
        loss: Tensor = (self.net(x).squeeze(1) - y).square().mean()
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.error(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_error", self.error(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_error", self.error(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class WithScheduler(Module):
    """It decays its learning rate itself, tenfold after each epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]


class WithOptimizer(Module):
    """It takes the optimizer of the config."""

    def __init__(self, optimizer: Callable[[nn.Module], torch.optim.Optimizer], width: int = 4) -> None:
        super().__init__(width)
        self.make_optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self)


class OnlyTraining(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss: Tensor = (self.net(x).squeeze(1) - y).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class NoTrainingStep(pl.LightningModule):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class NoOptimizer(pl.LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.zeros(())


class TwoOptimizers(Module):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class ReturnsNoOptimizer(Module):
    def configure_optimizers(self) -> Any:
        return None


class NeedsWidth(Module):
    def __init__(self, width: int) -> None:
        super().__init__(width)


class Broken(Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__(len(width))  # type: ignore[arg-type]


class LightningModule(nn.Module):
    """As in the other package of Lightning."""


LightningModule.__module__ = "lightning.pytorch.core.module"


class OfTheOtherPackage(LightningModule):
    pass


class Data(pl.LightningDataModule):
    """Everything."""

    def __init__(self, n: int = 100, batch_size: int = 7) -> None:
        super().__init__()
        self.n, self.batch_size = n, batch_size

    def setup(self, stage: str | None = None) -> None:
        self.parts: dict[str, Any] = {
            name: examples(n, seed) for seed, (name, n) in enumerate({"train": self.n, "val": 20, "test": 30}.items())
        }

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts["train"], batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.parts["val"], batch_size=20)

    def test_dataloader(self) -> Any:
        return DataLoader(self.parts["test"], batch_size=30)


class Dropping(Data):
    """Its loader would leave out the last batch."""

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts["train"], batch_size=self.batch_size, shuffle=True, drop_last=True)


class OwnSampler(Data):
    """Draws its examples in a way of its own."""

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts["train"], batch_size=self.batch_size, sampler=_Backwards())


class _Backwards(Sampler[int]):
    def __iter__(self) -> Any:
        return iter(range(99, -1, -1))

    def __len__(self) -> int:
        return 100


class Described(Data):
    """With what a network of the template needs."""

    input_shape = (3,)
    num_outputs = 1


class NoStage(Data):
    def setup(self) -> None:  # type: ignore[override]
        super().setup()


class NoneToValidate(Data):
    def val_dataloader(self) -> Any:
        return None


class Split(Described):
    """A random split that is drawn anew at each call."""

    def setup(self, stage: str | None = None) -> None:
        train, val, test = random_split(examples(150), [100, 20, 30])
        self.parts = {"train": train, "val": val, "test": test}
        SPLITS.append({name: tuple(part.indices) for name, part in self.parts.items()})


SPLITS: list[dict[str, tuple[int, ...]]] = []


class OnlyTrain(pl.LightningDataModule):
    """As little as possible."""

    def train_dataloader(self) -> Any:
        return DataLoader(examples(64), batch_size=8)


class WithSize(Described):
    """Its `size` is not the template's."""

    def __init__(self, size: int, seed: int = 5) -> None:
        super().__init__(n=2 * size)
        self.seed = seed


class Nothing(pl.LightningDataModule):
    pass


class _Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(torch.zeros(3, 2))


class Endless(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(_Stream(), batch_size=2)


class Two(OnlyTrain):
    def train_dataloader(self) -> Any:
        return {"a": super().train_dataloader(), "b": super().train_dataloader()}


class Triples(Described):
    """Batches of three tensors."""

    def train_dataloader(self) -> Any:
        x, y = self.parts["train"].tensors
        return DataLoader(TensorDataset(x, y, y), batch_size=self.batch_size)


class TooManyClasses(Described):
    """Classes 0 to 4, but three outputs."""

    num_outputs = 3

    def train_dataloader(self) -> Any:
        x, _ = self.parts["train"].tensors
        return DataLoader(TensorDataset(x, torch.arange(len(x)) % 5), batch_size=self.batch_size)


class Net(nn.Module):
    """It takes what the data say of themselves."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, width: int = 8) -> None:
        super().__init__()
        n = int(torch.tensor(input_shape).prod())
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(n, width), nn.ReLU(), nn.Linear(width, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.net(x)
        return outputs


class ForDigits(Net):
    """Its sizes are its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__((1, 8, 8), 10, width)


class WrongInputs(nn.Linear):
    def __init__(self) -> None:
        super().__init__(5, 10)


class WrongOutputs(Net):
    def __init__(self) -> None:
        super().__init__((1, 8, 8), 7)


def a_net(width: int = 8) -> nn.Module:
    """A function that makes a network."""
    return ForDigits(width)


def not_a_net() -> int:
    return 3


def target_tokens(batch: Any) -> Tensor:
    """The sum of the weights of `Weighted`."""
    weight: Tensor = batch[0].square().sum()
    return weight


class Weighted(Module):
    """The mean of the squared errors with the weights |x|^2."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        weights = x.square().sum(1)
        loss: Tensor = (weights * (self.net(x).squeeze(1) - y).square()).sum() / weights.sum()
        return loss
