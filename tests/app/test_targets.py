"""What a config may name: a name of the wrong kind is refused before anything is called, and a user's own classes pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from noisescale.app.targets import BASES, PARTS, check_nested, checked, is_users, made
from noisescale.errors import ConfigError
from tests.helpers import own
from tests.helpers.front_door import run, run_dir

OWN = "tests.helpers.own"
CALLED: list[object] = []
NOTHING = "is not a class of torch, Lightning or your own that may be the value of an argument; write a class of your own that makes it"


class Notes:
    """Not derived from anything."""

    def __init__(self, *values: object, **named: object) -> None:
        CALLED.append((values, named))


class Holder(nn.Module):
    """It keeps what it is given."""

    def __init__(self, *inner: Any, **named: Any) -> None:
        super().__init__()
        self.inner, self.named = inner, named


def makes_anything() -> Any:
    CALLED.append("a function")


ATTACKS = (
    "os.system",
    "posix.system",
    "os.mkdir",
    "shutil.copy",
    "subprocess.Popen",
    "subprocess.run",
    "builtins.eval",
    "builtins.__import__",
    "functools.partial",
    "io.FileIO",
    "pathlib.Path",
    "ctypes.CDLL",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "noisescale.files.write_atomically",
    "noisescale.files.os.mkdir",
    "noisescale.app.command.Command",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
    f"{__name__}.makes_anything",
)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_of_no_group_is_not_called_in_any(name: str) -> None:
    CALLED.clear()
    for group, base in BASES.items():
        with pytest.raises(ConfigError) as refused:
            made({"_target_": name, "path": "/nowhere/at/all"}, base)
        assert (refused.value.key, refused.value.value) == ("_target_", name), group
    for nested in ({"x": {"_target_": name}}, {"x": [{"y": {"_target_": name, "_partial_": True}}]}, {"_args_": [{"_target_": name}]}):
        with pytest.raises(ConfigError, match="_target_="):
            made({"_target_": f"{__name__}.Holder", **nested}, BASES["model"])
    assert CALLED == []


def test_all_names_are_checked_before_the_first_is_called() -> None:
    CALLED.clear()
    good = {"_target_": f"{__name__}.Notes"}
    with pytest.raises(ConfigError) as refused:
        made({"_target_": f"{__name__}.Holder", "a": good, "b": [good, {"c": {"_target_": "os.getcwd"}}]}, BASES["model"])
    assert str(refused.value) == f"b.1.c._target_=os.getcwd: {NOTHING}"
    assert CALLED == []


def test_what_a_description_makes() -> None:
    net = made(
        {
            "_target_": f"{__name__}.Holder",
            "_args_": [1, {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}],
            "parts": [{"_target_": "datetime.timedelta", "minutes": 5}, {"plain": "${not.resolved}"}],
            "make": {"_target_": "torch.nn.ReLU", "_partial_": True},
            "_convert_": "all",
        },
        BASES["model"],
        given=7,
    )
    assert (net.inner[0], type(net.inner[1])) == (1, nn.Linear)
    assert net.named["parts"][0].total_seconds() == 300
    assert net.named["parts"][1] == {"plain": "${not.resolved}"}, "text is not resolved a second time"
    assert (type(net.named["make"]()), net.named["given"]) == (nn.ReLU, 7)
    kept = made({"_target_": f"{__name__}.Holder", "x": {"_target_": "torch.nn.ReLU"}, "_recursive_": False}, BASES["model"])
    assert kept.named == {"x": {"_target_": "torch.nn.ReLU"}}


@pytest.mark.parametrize("name", ["Net", "ForDigits", "a_net"])
def test_classes_of_ones_own_pass_and_functions_that_say_what_they_make(name: str) -> None:
    assert checked("model._target_", f"{OWN}.{name}", BASES["model"]) is getattr(own, name)


def test_a_function_of_ones_own_must_say_what_it_makes() -> None:
    with pytest.raises(ConfigError, match=r"is a function that is not annotated with -> torch\.nn\.Module; annotate it, or name a class"):
        checked("model._target_", f"{__name__}.makes_anything", BASES["model"])


def test_torchvisions_functions_and_transforms_pass() -> None:
    assert callable(checked("model._target_", "torchvision.models.resnet18", BASES["model"]))
    check_nested(
        {"transform": {"_target_": "torchvision.transforms.Compose", "transforms": [{"_target_": "torchvision.transforms.ToTensor"}]}}
    )


def test_an_object_is_known_by_where_it_is_defined() -> None:
    """A module of one's own that imports os does not make it one's own."""
    assert is_users(Notes)
    assert is_users(own.Quantile)
    assert not any(map(is_users, (Path, torch.load, pl.Trainer, ConfigError, print, nn.Linear)))


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"_partial_": 32}, "_partial_=32: must be true or false"),
        ({"_recursive_": "no"}, "_recursive_=no: must be true or false"),
        ({"_args_": 3}, "_args_=3: must be a list of arguments"),
        ({"_target_": "builtins"}, "_target_=builtins: must be the dotted name of a class; for example my_module.MyClass"),
        ({"_target_": 7}, "_target_=7: must be the dotted name of a class; for example my_module.MyClass"),
        ({"_target_": "torch.nn"}, "_target_=torch.nn: is not a torch.nn.Module"),
    ],
)
def test_marks_of_a_description(node: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        made({"_target_": f"{__name__}.Holder", **node}, BASES["model"])
    assert str(refused.value) == line


def test_hydra_makes_no_other_callbacks_than_its_own(tmp_path: Path) -> None:
    outcome = run("+hydra.callbacks.x._target_=os.mkdir", f"+hydra.callbacks.x.path={tmp_path}/made", run_dir(tmp_path / "run"))
    assert (outcome.status, outcome.lines) == (2, ["error: hydra.callbacks.x._target_=os.mkdir: is not a Callback"])
    assert not (tmp_path / "made").exists()


def test_every_base_exists() -> None:
    for name in (*BASES.values(), *PARTS):
        assert isinstance(checked("_target_", name, name), type)
