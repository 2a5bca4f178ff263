"""Every entry point gives the same network, on every release, and leaves the ANN as it was."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import ann2snn
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

Convert = Callable[..., nn.Module]
QUICK = {"threshold": "max", "calibration": "none", "show_progress": False}


def converter(dataloader: object, **options: object) -> object:
    """SpikingJelly's own Converter, asked for our mode."""
    argument = {"recipe" if hasattr(ann2snn, "ModuleConverter") else "mode": "parallel"}
    return ann2snn.Converter(dataloader=dataloader, **argument, **options)


def run(converter: object, ann: nn.Module) -> nn.Module:
    """``converter.convert(ann)``, or ``converter(ann)`` where there is no ``convert``."""
    return getattr(converter, "convert", converter)(ann)


def by_recipe(make: Callable) -> Convert:
    """Conversion by a converter that takes a recipe object."""

    def convert(ann: nn.Module, dataloader: object, device: object = None, **options: object) -> nn.Module:
        return make(ann2snn.ParallelConversionRecipe(dataloader, **options), device=device).convert(ann)

    return convert


ENTRY_POINTS: dict[str, Convert] = {
    "ParallelConverter.convert": lambda ann, *args, **options: ann2snn.ParallelConverter(*args, **options).convert(ann),
    "ParallelConverter()": lambda ann, *args, **options: ann2snn.ParallelConverter(*args, **options)(ann),
    "Converter": lambda ann, *args, **options: run(converter(*args, **options), ann),
}
if hasattr(ann2snn, "ModuleConverter"):
    ENTRY_POINTS |= {
        "Converter(recipe)": by_recipe(ann2snn.Converter),
        "ModuleConverter(recipe)": by_recipe(ann2snn.ModuleConverter),
    }

entry_points = pytest.mark.parametrize("convert", ENTRY_POINTS.values(), ids=ENTRY_POINTS)


@pytest.fixture
def ann() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    net(torch.rand(16, 1, 8, 8))
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@entry_points
def test_entry_points_agree(convert: Convert, ann: nn.Module, x: Tensor) -> None:
    snn = convert(ann, [x], time_steps=4, **QUICK)
    reference = sjpc.ParallelConverter([x], "parallel", 4, "max", "none", None, False).convert(ann)
    assert type(snn) is sjpc.SpikingNetwork
    assert snn.time_steps == 4
    assert torch.equal(snn.predict(x), reference.predict(x))


def test_it_is_the_same_object() -> None:
    assert ann2snn.ParallelConverter is sjpc.ParallelConverter
    assert ann2snn.ParallelConversionRecipe is sjpc.ParallelConversionRecipe


@entry_points
@pytest.mark.parametrize("training", [True, False])
def test_ann_is_left_as_it_was(convert: Convert, ann: nn.Module, x: Tensor, training: bool) -> None:
    ann.train(training)
    ann[1].eval()
    state, flags = copy.deepcopy(ann.state_dict()), [m.training for m in ann.modules()]
    storage = {tensor.data_ptr() for tensor in ann.state_dict().values()}
    snn = convert(ann, [x], **QUICK)
    assert all(torch.equal(ann.state_dict()[key], state[key]) for key in state)
    assert [m.training for m in ann.modules()] == flags
    assert {tensor.data_ptr() for tensor in ann.state_dict().values()} == storage
    assert storage.isdisjoint(tensor.data_ptr() for tensor in snn.state_dict().values())
    assert all(p.requires_grad for p in ann.parameters())


@entry_points
def test_a_converter_is_as_good_as_new_after_an_error(convert: Convert, ann: nn.Module, x: Tensor) -> None:
    with pytest.raises(sjpc.ConversionError):
        convert(nn.Linear(8, 2), [x], **QUICK)
    assert convert(ann, [x], **QUICK).predict(x).shape == (8, 3)


@pytest.mark.gpu
@entry_points
@pytest.mark.parametrize(
    "ann_device, device, expected", [("cpu", "cuda", "cuda"), ("cuda", "cpu", "cpu"), ("cuda", None, "cuda")]
)
def test_device(
    convert: Convert, ann: nn.Module, x: Tensor, ann_device: str, device: str | None, expected: str
) -> None:
    ann.to(ann_device)
    snn = convert(ann, [x], device=device, **QUICK)
    assert {p.device.type for p in snn.state_dict().values()} == {expected}
    assert {p.device.type for p in ann.parameters()} == {ann_device}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("make", [sjpc.ParallelConverter, converter], ids=["ParallelConverter", "Converter"])
def test_converters_can_be_copied(make: Callable, copied: Callable, ann: nn.Module, x: Tensor) -> None:
    original = make([x], time_steps=4, device="cpu", **QUICK)
    assert torch.equal(run(copied(original), ann).predict(x), run(original, ann).predict(x))


def test_pickled_converter_brings_the_plugin_with_it(x: Tensor) -> None:
    code = "import pickle, sys; print(type(pickle.load(sys.stdin.buffer).recipe).__name__)"
    dump = pickle.dumps(converter([x], **QUICK))
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], input=dump, capture_output=True, timeout=120)
    assert run.stdout.decode().strip() == "ParallelConversionRecipe", run.stderr.decode()


@entry_points
@pytest.mark.parametrize(
    "option, says",
    [
        ({"time_steps": 0}, "time_steps"),
        ({"time_steps": 2.5}, "time_steps"),
        ({"time_steps": True}, "time_steps"),
        ({"threshold": "sum"}, "threshold.*'sum'.*mse.*max"),
        ({"calibration": "sum"}, "calibration.*'sum'.*none.*da_qcfs"),
        ({"time_step": 8}, "time_step.*time_steps"),
    ],
    ids=repr,
)
def test_bad_options(convert: Convert, ann: nn.Module, x: Tensor, option: dict[str, object], says: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=says):
        convert(ann, [x], **option)


@pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if "ModuleConverter" not in name])  # upstream's own
@pytest.mark.parametrize("device", ["foo", 1.5, ["cpu"], "cuda:99", "meta"], ids=repr)
def test_unknown_devices(name: str, ann: nn.Module, x: Tensor, device: object) -> None:
    with pytest.raises(sjpc.ConfigError) as error:
        ENTRY_POINTS[name](ann, [x], device=device, **QUICK)
    assert f"device={device!r} cannot be used" in str(error.value)


def test_unknown_device_is_refused_before_the_conversion(x: Tensor) -> None:
    with pytest.raises(sjpc.ConfigError, match="device='foo'"):
        sjpc.ParallelConverter([x], device="foo")


def test_unknown_mode_lists_the_modes(x: Tensor) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"mode='paralel'.*'parallel'"):
        sjpc.ParallelConverter([x], mode="paralel")


@entry_points
@pytest.mark.parametrize("dataloader, says", [(None, "dataloader=None"), ([], "empty"), ([("a", "b")], "batch 0")])
def test_bad_data(convert: Convert, ann: nn.Module, dataloader: object, says: str) -> None:
    with pytest.raises(sjpc.DataError, match=says):
        convert(ann, dataloader, **QUICK)


@entry_points
def test_batches_of_any_form(convert: Convert, ann: nn.Module, x: Tensor) -> None:
    expected = convert(ann, [x], **QUICK).predict(x)
    for batch in ((x, 0), (x, 0, 1), (x,), [x, 0], {"image": x, "label": 0}):
        assert torch.equal(convert(ann, [batch], **QUICK).predict(x), expected)
