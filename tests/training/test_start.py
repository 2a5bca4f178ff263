"""The thresholds that trainable activations start from."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from nets import IMAGES, NETS, mlp, net
from torch import Tensor, nn
from torch.nn import functional as F
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc

QUICK = {"show_progress": False, "calibration": "none"}


def thresholds(model: nn.Module) -> dict[str, Tensor]:
    kinds = (sjpc.QCFS, sjpc.DAQCFS, sjpc.ClipReLU)
    return {name: m.v_threshold.detach() for name, m in model.named_modules() if isinstance(m, kinds)}


class OneReLU(nn.Module):
    """An activation whose values the test knows; it is written as ``spelling``."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        if "module" in spelling:
            self.act = nn.ReLU(inplace=True) if spelling == "module" else nn.ReLU6()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return {
            "module": lambda: self.act(x), "module twice": lambda: self.act(self.act(x)),
            "relu": lambda: F.relu(x), "method": lambda: x.relu_(), "clamp": lambda: x.clamp(min=0),
            "relu6": lambda: F.relu6(x), "clamp 3": lambda: x.clamp(0, 3), "hardtanh 2": lambda: F.hardtanh(x, 0.0, 2),
            "hardtanh": lambda: F.hardtanh_(x, 0.0), "clip": lambda: torch.clip(x, max=5.0, min=0.0),
        }[self.spelling]()  # fmt: skip


@pytest.mark.parametrize(
    ("spelling", "largest"),
    [
        ("module", 7), ("module twice", 6), ("relu", 7), ("method", 7), ("clamp", 7), ("relu6", 6), ("clamp 3", 3),
        ("hardtanh 2", 2), ("hardtanh", 1), ("clip", 5),
    ],
)  # fmt: skip
def test_measured_is_what_the_relu_gives(spelling: str, largest: float) -> None:
    """A ReLU that cuts its input has no larger value than that."""
    data = [torch.tensor([[-9.0, 2.0], [0.5, 3.0]]), torch.tensor([[-8.0, 7.0], [0.5, 0.1]])]
    ann = OneReLU(spelling)
    before = snapshot(ann)
    for activation in (sjpc.ClipReLU, partial(sjpc.QCFS, 4), partial(sjpc.DAQCFS, levels=4)):
        found = thresholds(sjpc.replace_activations(ann, activation, data, threshold="max"))
        assert found and all(value == largest and value.shape == () for value in found.values())
    assert_unchanged(before, snapshot(ann))


def least_error(x: Tensor, levels: int) -> Tensor:
    """By search over thresholds: the least squared error of the rounded values."""
    candidates = torch.linspace(0.02, 1, 981) * x.max()
    errors = torch.stack([
        ((x * levels / c + 0.5).floor().clamp(0, levels) * c / levels - x).square().sum() for c in candidates
    ])  # fmt: skip
    return errors.min()


@pytest.mark.parametrize("levels", [1, 2, 4, 16])
def test_least_squared_error(levels: int) -> None:
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    model = sjpc.replace_activations(OneReLU("relu"), sjpc.QCFS, [x], levels=levels)
    assert (model(x) - x.relu()).square().sum() < 1.02 * least_error(x.relu(), levels)


@pytest.mark.parametrize("name", ["shared relu", "concatenated", "mlp"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("threshold", ["mse", "max", "99%"])
def test_the_same_as_a_conversion(name: str, per_channel: bool, threshold: str) -> None:
    ann, x = net(name)
    options = {"threshold": threshold, "per_channel": per_channel}
    ours = thresholds(sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=4, **options))
    snn = sjpc.ParallelConverter([x], time_steps=4, fold=False, **options, **QUICK).convert(ann)
    theirs = [site.node.v_threshold.detach() for site in snn.neurons()]
    for value in ours.values():
        assert any(v.shape == value.shape and torch.allclose(v, value, rtol=1e-5) for v in theirs)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("per_channel", [False, True])
@torch.no_grad()
def test_fine_rounding_is_the_ann(name: str, per_channel: bool) -> None:
    """Every network has a threshold that is large enough for all of its values, whatever the ANN's code is like."""
    ann, x = net(name)
    options = {"levels": 2**16, "threshold": "max", "per_channel": per_channel}
    if per_channel and x.dim() == 3:
        options["channel_dim"] = -1
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, [x], **options)
    torch.testing.assert_close(replaced(x.clone()), ann(x.clone()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", [
    partial(sjpc.QCFS, v_threshold=3.0), partial(sjpc.QCFS, v_threshold=torch.tensor(3.0)),
    lambda levels: sjpc.QCFS(levels, 3.0),
])  # fmt: skip
def test_given_thresholds_stay(activation: object) -> None:
    model = sjpc.replace_activations(mlp(), activation, [torch.rand(4, 6)], levels=4)
    assert list(thresholds(model).values()) == [3.0]


def test_given_as_positional_arguments() -> None:
    model = sjpc.replace_activations(mlp(), partial(sjpc.QCFS, 4, 3.0), [torch.rand(4, 6)])
    assert list(thresholds(model).values()) == [3.0]


def test_without_data_the_default_is_said() -> None:
    with pytest.warns(UserWarning, match="thresholds start at the default of 8.0"):
        assert list(thresholds(sjpc.replace_activations(mlp(), sjpc.QCFS, levels=4)).values()) == [8.0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": "median"}, "threshold='median' is unknown"),
        ({"threshold": 3.0}, "threshold=3.0 is unknown"),
        ({"per_channel": 1}, "per_channel must be True or False"),
        ({"max_batches": 0}, "max_batches must be None or an integer"),
        ({"max_batches": True}, "max_batches must be None or an integer"),
        ({"per_channel": True, "v_threshold": 2.0}, "no v_threshold of your own"),
        ({"threshold": "max", "v_threshold": 2.0}, "no v_threshold of your own"),
        ({"threshold": "max", "dataloader": None}, "need a dataloader"),
    ],
)
def test_bad_options(options: dict[str, object], says: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=says):
        sjpc.replace_activations(mlp(), sjpc.QCFS, **{"dataloader": [torch.rand(4, 6)], "levels": 4} | options)


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, "layer 'act.0' gives .* cannot tell which axis"), ({"channel_dim": 3}, "no single number")],
)
def test_channels_that_are_not_known(options: dict[str, int], says: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=says):
        sjpc.replace_activations(
            OneReLU("module"), sjpc.QCFS, [torch.rand(2, 5, 3)], per_channel=True, levels=4, **options
        )


@pytest.mark.parametrize(("channel_dim", "channels"), [(1, 5), (-1, 3)])
def test_channel_dim(channel_dim: int, channels: int) -> None:
    x = torch.rand(2, 5, 3)
    model = sjpc.replace_activations(
        OneReLU("method"), sjpc.QCFS, [x], threshold="max", per_channel=True, levels=4, channel_dim=channel_dim
    )
    (value,) = thresholds(model).values()
    assert torch.equal(value, x.movedim(channel_dim, 0).flatten(1).amax(1)) and len(value) == channels


class WithAuxiliaryHead(nn.Module):
    """A head that runs in training mode alone, and a ReLU that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.never = nn.ReLU(), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x), self.aux(x)) if self.training else self.body(x)


def test_what_the_data_do_not_reach_is_said() -> None:
    x = torch.rand(64, 3)
    with pytest.warns(UserWarning, match="the data do not reach never: thresholds start there at the default of 8.0"):
        model = sjpc.replace_activations(WithAuxiliaryHead().eval(), sjpc.QCFS, [x], threshold="max", levels=4)
    normalised = F.batch_norm(x, None, None, training=True).max()
    assert model.body.v_threshold == x.max() and model.never.v_threshold == 8.0 and not model.training
    torch.testing.assert_close(model.aux[1].v_threshold.detach(), normalised)
    assert model.aux[0].num_batches_tracked == 0


def test_max_batches() -> None:
    batches = [torch.full((4, 2), float(i + 1)) for i in range(5)]
    for most, largest in ((2, 2), (None, 5)):
        options = {"max_batches": most, "threshold": "max", "levels": 4}
        model = sjpc.replace_activations(OneReLU("relu"), sjpc.QCFS, batches, **options)
        assert list(thresholds(model).values()) == [largest]


def test_values_that_are_not_finite() -> None:
    ann = OneReLU("relu")
    with torch.no_grad():
        ann.scale.fill_(float("inf"))
    with pytest.raises(sjpc.DataError, match="layer 'relu' gives NaN or infinite"):
        sjpc.replace_activations(ann, sjpc.QCFS, [torch.rand(4, 3)], levels=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype(dtype: torch.dtype) -> None:
    model = sjpc.replace_activations(mlp().to(dtype), sjpc.QCFS, [torch.rand(8, 6)], levels=4)
    (value,) = thresholds(model).values()
    assert value.dtype == dtype and 0 < value < 5


def test_a_new_network_is_near_the_ann() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.LazyLinear(5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        y = ann(IMAGES)
        model = sjpc.replace_activations(ann, sjpc.QCFS, [IMAGES], levels=4)
        assert isinstance(model[2], nn.MaxPool2d)
        assert (model(IMAGES) - y).square().mean() < 0.1 * y.var()


class Gated(nn.Module):
    """A ReLU, and activations that are none: as a function, as a method, as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.part, self.norm = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.SiLU()), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.norm(self.part(F.gelu(x)) * x.sigmoid())


def test_other_activations_are_named() -> None:
    with pytest.warns(UserWarning, match="not replaced, as these activations are no ReLUs") as found:
        sjpc.replace_activations(nn.Sequential(Gated()), sjpc.QCFS, [torch.rand(4, 6)], levels=4)
    (message,) = [str(w.message) for w in found]
    assert "0 (Gated) calls gelu, sigmoid; 0.part.1 (SiLU) calls silu. A conversion" in message
    assert found[0].filename == __file__
