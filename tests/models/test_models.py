"""Models: shapes, published sizes, errors, training."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisescale.errors import ConfigError
from noisescale.models import CNN, MLP, VGG11, GhostBatchNorm2d, Logistic, ResNet9, ResNet18, WideResNet
from tests.helpers.models import SMALL, build, config_of, gradients, network_of
from tests.helpers.repository import CONF
from tests.helpers.rounding import assert_equal_to_rounding

NAMES = ["logistic", "mlp", "cnn", "resnet9", "resnet18", "wrn", "vgg11"]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_config_is_known_here() -> None:
    assert {path.stem for path in (CONF / "model").glob("[!_]*.yaml")} == {*NAMES, "own"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_logits_for_every_image_size(name: str, channels: int, size: int) -> None:
    model = build(name, channels, size, **SMALL.get(name, {}))
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "height", "width"), [(name, 9, 5) for name in NAMES] + [("vgg11", 1, 1), ("cnn", 1, 1)])
def test_images_need_not_be_square_or_even(name: str, height: int, width: int) -> None:
    config = config_of(name, **SMALL.get(name, {}))
    model = network_of(config, 2, height, width, outputs=3)
    assert model(torch.randn(4, 2, height, width)).shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("logistic", {}, 3 * 32 * 32 * 10 + 10),
        ("resnet9", {}, 6_573_130),  # 6.57 M
        ("resnet18", {}, 11_173_962),  # 11.17 M
        ("wrn", {}, 2_748_890),  # 2.7 M, Zagoruyko & Komodakis table 4
        ("wrn", {"depth": 40, "width": 1}, 563_930),  # 0.6 M, the same table
        (
            "mlp",
            {"widths": [512] * 5, "norm": "batch"},
            3072 * 512 + 4 * 512**2 + 5 * 2 * 512 + 512 * 10 + 10,
        ),  # a scale and a shift, no bias
        ("vgg11", {}, 9_225_610),
        ("vgg11", {"norm": "batch"}, 9_225_610 + 2 * 2752 - 2752),  # 2752 channels, each with a scale and a shift but no bias
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, options: dict[str, Any], count: int) -> None:
    assert parameters(build(name, **options)) == count


def test_wide_network_of_the_paper_has_36_million_parameters() -> None:
    with torch.device("meta"):
        model = WideResNet(input_shape=(3, 32, 32), num_outputs=10, depth=28, width=10, dropout=0.0, ghost_batch_size=None)
    assert parameters(model) == pytest.approx(36.5e6, rel=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_step_decreases_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 1, 8, **SMALL.get(name, {}))
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    before = F.cross_entropy(model(images), labels)
    before.backward()
    size = torch.stack([g.square().sum() for g in gradients(model)]).sum()
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None
            p.sub_(0.01 * p.grad / size.sqrt())
        after = F.cross_entropy(model(images), labels)
    assert after < before - 0.005 * size.sqrt()  # to first order the loss falls by .01 |g|


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_model_computes_the_same(name: str) -> None:
    model = build(name, 1, 8, **SMALL.get(name, {})).eval()
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), model(images))


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "vgg11"])
def test_without_batch_norm_micro_batches_are_exact(name: str) -> None:
    """The longest sums have 4608 terms, and the deepest network has 11 layers, forward and backward: 10^5 roundings."""
    torch.manual_seed(0)
    model = build(name, 1, 8).double()
    images, labels = torch.randn(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 10
    F.cross_entropy(model(images), labels).backward()
    whole = gradients(model)
    model.zero_grad()
    for part in torch.arange(12).split(5):
        (F.cross_entropy(model(images[part]), labels[part]) * len(part) / 12).backward()
    for a, b in zip(whole, gradients(model), strict=True):
        assert_equal_to_rounding(a, b, 100_000)


def test_batch_norm_of_the_mlp_is_that_of_vectors() -> None:
    """It is torch's BatchNorm1d between the linear layer and relu."""
    torch.manual_seed(0)
    model: Any = build("mlp", 1, 8, widths=[6], norm="batch").double()
    linear, norm = (next(m for m in model.modules() if isinstance(m, kind)) for kind in (nn.Linear, nn.BatchNorm2d))
    same = nn.BatchNorm1d(6).double()
    images = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    expected = model.classifier(F.relu(same(linear(images.flatten(1)))))
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, same.running_var)
    model.eval(), same.eval()
    torch.testing.assert_close(model(images), model.classifier(F.relu(same(linear(images.flatten(1))))), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet9", {"width": 4}),
        ("resnet18", {"width": 8}),
        ("wrn", SMALL["wrn"]),
        ("mlp", {"norm": "batch"}),
        ("cnn", {"norm": "batch"}),
        ("vgg11", {"norm": "batch"}),
    ],
)
def test_with_ghost_batch_norm_micro_batches_are_exact(name: str, options: dict[str, Any]) -> None:
    """10^5 roundings as above. Each batch norm subtracts a mean, which makes the relative error of the rest ten times as large."""
    torch.manual_seed(0)
    model = build(name, 1, 8, ghost_batch_size=4, **options).double()
    assert {type(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {GhostBatchNorm2d}
    twin = copy.deepcopy(model)
    images, labels = torch.randn(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % 10
    F.cross_entropy(model(images), labels).backward()
    for part in torch.arange(16).split(8):
        (F.cross_entropy(twin(images[part]), labels[part]) / 2).backward()
    for a, b in zip(gradients(model), gradients(twin), strict=True):
        assert_equal_to_rounding(a, b, 1_000_000)
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert_equal_to_rounding(a, b, 1_000_000)


def test_plain_batch_norm_does_see_the_micro_batch() -> None:
    torch.manual_seed(0)
    model = build("cnn", 1, 8, norm="batch").double()
    images = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    assert not torch.allclose(model(images), torch.cat([model(images[:8]), model(images[8:])]), rtol=1e-3)


def test_dropout_of_the_wide_network_is_off_in_evaluation_and_on_in_training() -> None:
    model = build("wrn", 1, 8, depth=10, width=1, dropout=0.5)
    images = torch.randn(4, 1, 8, 8)
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == 3
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_convolutions_of_residual_networks_start_with_variance_2_over_fan_out() -> None:
    torch.manual_seed(0)
    for name in ("resnet9", "resnet18", "wrn"):
        for layer in build(name).modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 30_000:
                fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
                # The variance of 30 000 draws has a standard error of sqrt(2 / 30 000) = 0.8 %.
                assert float(layer.weight.detach().var()) == pytest.approx(2 / fan_out, rel=0.05)


SIZES: dict[str, Any] = {"input_shape": (1, 8, 8), "num_outputs": 10}
CNN_OPTIONS: dict[str, Any] = {"widths": [8], "hidden": 8, "norm": "none", "ghost_batch_size": None}
WRN_OPTIONS: dict[str, Any] = {"depth": 16, "width": 1, "dropout": 0.0, "ghost_batch_size": None}


@pytest.mark.parametrize(
    ("make", "options", "line"),
    [
        (Logistic, {"num_outputs": 0}, "num_outputs=0: must be a whole number of outputs, at least 1"),
        (Logistic, {"input_shape": ()}, "input_shape=(): must be the shape of one example; for example (channels, height, width)"),
        (Logistic, {"input_shape": 8}, "input_shape=8: must be the shape of one example; for example (channels, height, width)"),
        (Logistic, {"input_shape": (1, 8, 0)}, "input_shape=0: must be a whole number, at least 1"),
        (
            VGG11,
            {"input_shape": (10,), "norm": "none", "ghost_batch_size": None},
            "input_shape=(10,): must be that of an image: channels, height and width in pixels; mlp and logistic take any shape",
        ),
        (MLP, {"widths": 128}, "widths=128: must be a list of whole numbers; write [128] for one layer"),
        (MLP, {"widths": [8, 2.5]}, "widths=2.5: must be a whole number of units or channels, at least 1"),
        (CNN, CNN_OPTIONS | {"widths": "32"}, "widths=32: must be a list of whole numbers; write [128] for one layer"),
        (CNN, CNN_OPTIONS | {"hidden": 0}, "hidden=0: must be a whole number of units, at least 1"),
        (CNN, CNN_OPTIONS | {"norm": "layer"}, "norm=layer: must be one of none, batch"),
        (
            CNN,
            CNN_OPTIONS | {"ghost_batch_size": 32},
            "ghost_batch_size=32: must be null for a model without batch norm; set norm=batch",
        ),
        (
            VGG11,
            {"norm": "batch", "ghost_batch_size": 1},
            "ghost_batch_size=1: must be a whole number of examples, at least 2",
        ),
        (
            ResNet9,
            {"width": 8, "logit_scale": 0, "ghost_batch_size": None},
            "logit_scale=0: must be a finite number in (0, inf)",
        ),
        (ResNet18, {"width": -1, "ghost_batch_size": None}, "width=-1: must be a whole number of channels, at least 1"),
        (WideResNet, WRN_OPTIONS | {"depth": 18}, "depth=18: must be 6 n + 4 for a whole number n; choose 16 or 22"),
        (WideResNet, WRN_OPTIONS | {"depth": 4}, "depth=4: must be a whole number, at least 10"),
        (WideResNet, WRN_OPTIONS | {"width": 1.5}, "width=1.5: must be a whole number, at least 1"),
        (WideResNet, WRN_OPTIONS | {"dropout": 1.0}, "dropout=1.0: must be a finite number in [0, 1)"),
    ],
)
def test_a_bad_option_is_one_line_with_its_key(make: type[nn.Module], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**SIZES | options)
    assert str(caught.value) == line
