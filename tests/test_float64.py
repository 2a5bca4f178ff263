"""Devices without float64, as Apple's MPS, simulated on a CPU: the only way there is by way of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import net
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import parameters
from sj_parallel_conversion.parameters import exact
from sj_parallel_conversion.torch_compat import tree_leaves


class WithoutFloat64(TorchDispatchMode):
    """
    Raises where something of float64 is computed from tensors that are neither of float64, so that they are on the CPU,
    nor were moved there, before or by ``.to()`` a tensor of float64.
    """

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        inputs = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        wide = any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(result))
        allowed = [x for x in inputs if x.dtype == torch.float64 or hasattr(x, "moved")]
        if wide and inputs and not allowed and "device" not in (kwargs or {}):
            raise TypeError(f"the device has no float64 ({func})")
        return result


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> WithoutFloat64:
    def cpu(x: Tensor) -> Tensor:
        copy = x.clone()
        copy.moved = True
        return copy

    monkeypatch.setattr(parameters, "_has_float64", lambda device: False)
    monkeypatch.setattr(Tensor, "cpu", cpu)
    return WithoutFloat64()


def test_the_simulation_raises(no_float64: WithoutFloat64) -> None:
    x = torch.ones(3)
    with no_float64, pytest.raises(TypeError, match="no float64"):
        x.double()
    with no_float64:
        assert exact(x).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_exact_values(dtype: torch.dtype) -> None:
    x = torch.arange(3).to(dtype)
    assert exact(x).dtype == torch.float64 and exact(x).tolist() == [0, 1, 2]
    assert parameters._has_float64(torch.device("cpu"))


@pytest.mark.parametrize("error", [TypeError("MPS has no float64"), RuntimeError("no float64")])
def test_a_device_that_refuses_float64(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch, "empty", refuse)
    assert not parameters._has_float64.__wrapped__(torch.device("cpu"))


def test_nothing_else_makes_float64() -> None:
    """On the way of a conversion; activations are looked at on the CPU (quantisers.py)."""
    package = Path(sjpc.__file__).parent
    found = {path.name for path in (package / "ann2snn").rglob("*.py") if ".double()" in path.read_text()}
    assert found == {"quantisers.py"}


def wide_mlp() -> tuple[nn.Module, Tensor]:
    """A layer with more features than there are rows, for which a regression has another way."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    return ann, torch.randn(24, 6)


def pruned_mlp() -> tuple[nn.Module, Tensor]:
    ann, x = wide_mlp()
    for layer in ann[::2]:
        layer.weight.data *= torch.rand_like(layer.weight) > 0.4
    return ann, x


NETWORKS = {
    "wide": wide_mlp, "pruned": pruned_mlp,
    "residual": lambda: net("in-place in branches"), "BatchNorm": lambda: net("norm of two convs"),
}  # fmt: skip
CASES = [
    ("wide", {"calibration": "none"}),
    ("wide", {"threshold": "99%", "calibration": "da_qcfs"}),
    ("wide", {"calibration": "weights", "distillation_epochs": 1}),
    ("pruned", {"calibration": "weights"}),
    ("residual", {"calibration": "weights", "shortcut": "auto"}),
    ("residual", {"input_encoding": "spikes", "spiking_inputs": True, "per_channel": False}),
    ("BatchNorm", {"mode": "css"}),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_conversions_need_no_float64_of_the_device(name: str, options: dict, no_float64: WithoutFloat64) -> None:
    ann, x = NETWORKS[name]()
    options = {"time_steps": 3, "show_progress": False, **options}
    expected = sjpc.ParallelConverter(list(x.split(len(x) // 2)), **options).convert(ann)
    with no_float64:
        snn = sjpc.ParallelConverter(list(x.split(len(x) // 2)), **options).convert(ann)
        y = snn.predict(x)
    assert torch.equal(y, expected.predict(x))
