"""How a step is computed: precision, memory order and compilation may change the rounding, and nothing else."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from noisescale.app.config import build as built
from noisescale.app.trainer import choices_of_run
from noisescale.errors import ConfigError
from noisescale.execution.compile_first import CompileFirst
from tests.helpers.front_door import process, run
from tests.helpers.models import SMALL, build
from tests.helpers.rounding import assert_equal_to_rounding
from tests.helpers.trainings import ignored, quiet_trainer

COMPILING = [
    "ignore:.*CUDA.*",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
    "ignore:.*lineno.*:DeprecationWarning",
    "ignore:.*torch.jit.script_method",  # raised by torch 2.11 itself
    *ignored,
]
CONVOLUTIONAL = ["cnn", "resnet9", "resnet18", "wrn", "vgg11"]


def trained(net: nn.Module, sizes: list[int], channels: int = 3) -> Tensor:
    """The weights after a few updates, as one flat vector."""
    generator, parameters = torch.Generator().manual_seed(1), list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    for size in sizes:
        images = torch.randn(size, channels, 8, 8, generator=generator, dtype=parameters[0].dtype)
        optimizer.zero_grad()
        F.cross_entropy(net(images), torch.arange(size) % 10).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(p.detach().contiguous() for p in parameters)


# Memory order


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_channels_last_reaches_weights_images_and_all_between(name: str) -> None:
    net = build(name, 3, 8, channels_last=True, **SMALL.get(name, {}))
    seen: list[bool] = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            # For a 1x1 convolution, or an image of a single pixel, both memory orders are the same.
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last)))
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    net(torch.randn(2, 3, 8, 8))
    assert len(seen) >= 3
    assert all(seen)


@pytest.mark.cases(2)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["logistic", "mlp", *CONVOLUTIONAL])
def test_channels_last_changes_nothing_but_rounding(name: str, channels: int) -> None:
    """Two updates, forward and backward through up to 18 layers, with sums of up to 4608 terms: at most 10^6 roundings."""
    weights = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        weights.append(trained(build(name, channels, 8, channels_last=channels_last, **SMALL.get(name, {})).double(), [6, 5], channels))
    assert_equal_to_rounding(weights[1], weights[0], 1_000_000)


# Compilation


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
@pytest.mark.filterwarnings(*COMPILING)
def test_one_graph_serves_micro_batches_of_all_sizes() -> None:
    """The weights are also those of the uncompiled network, with the same names."""
    torch._dynamo.reset()
    counters.clear()
    plain = build("mlp", 3, 8, widths=[16]).double()
    compiled = build("mlp", 3, 8, widths=[16], compile=True).double()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    sizes = [*range(2, 12), 32, 31, 100, 257]
    # 14 updates, forward and backward through two layers, with sums over at most 257 examples or 192 pixels: 30 000 roundings.
    assert_equal_to_rounding(trained(compiled, sizes), trained(plain, sizes), 30_000)
    assert graphs() == 1
    trained(compiled, [1, 7, 1])
    assert graphs() == 2  # torch compiles a separate graph for a batch of one


@pytest.mark.slow
@pytest.mark.filterwarnings(*COMPILING)
def test_ghost_batch_norm_does_not_multiply_graphs() -> None:
    torch._dynamo.reset()
    counters.clear()
    plain = build("cnn", 3, 8, widths=[4, 4], hidden=8, norm="batch", ghost_batch_size=4).double()
    compiled = build("cnn", 3, 8, widths=[4, 4], hidden=8, norm="batch", ghost_batch_size=4, compile=True).double()
    compiled.load_state_dict(plain.state_dict())
    first = [8, 12, 7]
    # 11 updates, forward and backward through four layers, with sums over at most 60 images of 64 pixels: 10^6 roundings.
    assert_equal_to_rounding(trained(compiled, first), trained(plain, first), 1_000_000)
    before = graphs()
    later = [16, 20, 24, 28, 32, 13, 40, 44, 48, 60, 9]
    assert_equal_to_rounding(trained(compiled, later), trained(plain, later), 1_000_000)
    assert graphs() == before


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


@pytest.mark.slow
@pytest.mark.filterwarnings(*COMPILING)
def test_compiling_first_leaves_no_trace_and_nothing_to_compile(capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    counters.clear()
    net = build("cnn", 1, 8, widths=[4], hidden=8, norm="batch", compile=True)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    CompileFirst((1, 8, 8), True).on_fit_start(quiet_trainer(), Module(net))
    assert capsys.readouterr().err.splitlines()[-1].startswith("note: compiled the network in ")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    count = graphs()
    assert count > 0
    trained(net, [5, 9], channels=1)
    with torch.inference_mode():
        net.eval()(torch.randn(7, 1, 8, 8))
    assert graphs() == count


def test_what_cannot_be_compiled_is_one_line() -> None:
    net = build("mlp", 1, 8, widths=[4])

    def broken(*_: Any) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand forty lines more")

    net.register_forward_pre_hook(broken)
    with pytest.raises(ConfigError) as caught:
        CompileFirst((1, 8, 8), "max-autotune").on_fit_start(quiet_trainer(), Module(net))
    assert str(caught.value) == (
        "model.compile=max-autotune: the network cannot be compiled here (InvalidCxxCompiler: No working C++ compiler found); "
        "install a C++ compiler (g++), or set model.compile=false"
    )


SHORT = ("threads=1", "epochs=1")


@pytest.mark.slow
def test_without_a_compiler_one_line_before_training(tmp_path: Path) -> None:
    there = {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = process(*SHORT, "model.compile=true", f"hydra.run.dir={tmp_path}/run", **there)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: model.compile=true: the network cannot be compiled here (")
    assert errors[0].endswith("; install a C++ compiler (g++), or set model.compile=false")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "steps.csv").exists()


@pytest.mark.slow
def test_a_checkpoint_moves_between_ways_to_compute(tmp_path: Path) -> None:
    """A checkpoint of a compiled run is resumed uncompiled, in another memory order, with a fused optimizer."""
    first = process(*SHORT, "model=cnn", "model.widths=[4]", "model.compile=true", f"hydra.run.dir={tmp_path}/a")
    assert first.returncode == 0, first.stderr
    assert "note: compiled the network in " in first.stderr
    checkpoint = tmp_path / "a" / "checkpoints" / "last.ckpt"
    words = ("model=cnn", "model.widths=[4]", "model.channels_last=false", "optimizer.fused=true", "epochs=2", f"ckpt_path={checkpoint}")
    resumed = process(*SHORT, *words, f"hydra.run.dir={tmp_path}/b")
    assert resumed.returncode == 0, resumed.stderr
    updates = [json.loads((tmp_path / folder / "results.json").read_text())["updates"] for folder in ("a", "b")]
    assert updates == [math.ceil(1293 / 32), math.ceil(2 * 1293 / 32)]


def test_how_a_step_is_computed_is_no_part_of_what_a_run_is() -> None:
    def identity(*words: str) -> dict[str, Any]:
        cfg = OmegaConf.create(run("--cfg", "job", *words).out)
        assert isinstance(cfg, DictConfig)
        return choices_of_run(cfg, built(cfg, "data"))

    others = ("model.channels_last=true", "model.compile=true", "optimizer.fused=true")
    assert identity(*others) == identity()
    assert identity("model.widths=[3]") != identity()


# Precision


@pytest.mark.cases(1)
@pytest.mark.filterwarnings(*ignored)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_precisions_train_from_the_front_door(precision: str, tmp_path: Path) -> None:
    outcome = run(f"trainer.precision={precision}", "model=cnn", "model.widths=[4]", "epochs=3", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["test/acc"] > 0.6  # guessing gives 0.1, and each precision reaches 0.98
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["net.classifier.weight"]
    assert weights.dtype == (torch.float64 if precision == "64-true" else torch.float32)
