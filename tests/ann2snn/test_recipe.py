"""Conversion from end to end on small networks: what it may not touch, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from nets import IMAGES, NETS, TOKENS, SharedReLU, conv_bn_relu, lively, mlp, net, volume
from torch import Tensor, nn
from torch.nn import functional as F
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False} | options
    return sjpc.ParallelConverter(options.pop("dataloader", [x]), **options).convert(ann)


def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
    """A user's forward hook."""


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("calibration", ["none", "da_qcfs"])
def test_the_ann_is_left_as_it_was(name: str, training: bool, calibration: str) -> None:
    ann, x = net(name)
    ann.train(training)
    children = list(ann.modules())
    children[-1].training = not training
    next(ann.parameters()).requires_grad_(False)
    children[-1].register_forward_hook(hook)
    before = snapshot(ann)
    snn = convert(ann, x, calibration=calibration)
    assert_unchanged(before, snapshot(ann))
    own = {t.untyped_storage().data_ptr() for t in [*ann.parameters(), *ann.buffers()]}
    assert own.isdisjoint(t.untyped_storage().data_ptr() for t in [*snn.parameters(), *snn.buffers()])


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_many_steps_approach_the_ann(name: str) -> None:
    ann, x = net(name)
    expected = ann(x.clone())
    errors = [
        (convert(ann, x, time_steps=T).predict(x) - expected).square().mean() / expected.square().mean()
        for T in (4, 4096)
    ]
    assert errors[1] < 1e-4 and errors[1] <= errors[0]


QCFS_NETS = [name for name in NETS if name != "shared relu"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("levels", [1, 4, 7])
@torch.no_grad()
def test_qcfs_networks_convert_without_loss(name: str, levels: int) -> None:
    """Any thresholds; counts are those of the ANN, and so are its outputs, to the bit."""
    ann, x = net(name)
    # As converted: torch multiplies what is not contiguous in another way if a weight asks for a gradient.
    ann = sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=levels).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for module in ann.modules():
        if isinstance(module, sjpc.QCFS):
            module.v_threshold.fill_(torch.rand((), generator=generator) * 2 + 0.2)
    snn = convert(ann, x, time_steps=levels, calibration="da_qcfs")
    for execution in ("spikes", "packed"):
        snn.execution = execution
        assert torch.equal(snn.predict(x), ann(x))
    snn.step_mode = "m"
    torch.testing.assert_close(snn.decode(snn(x.expand(levels, *x.shape))), ann(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_da_qcfs_network_converts_without_loss() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 4, 3), sjpc.DAQCFS(5, torch.rand(4) + 0.5, torch.rand(4) / 4, torch.rand(4) / 4, torch.rand(4)),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 5),
    )  # fmt: skip
    snn = convert(ann, IMAGES, time_steps=5)
    assert torch.equal(snn.predict(IMAGES), ann(IMAGES))


@torch.no_grad()
def test_qcfs_on_the_last_axis() -> None:
    ann = nn.Sequential(nn.Linear(6, 8), sjpc.QCFS(4, torch.rand(8) + 0.5, channel_dim=-1), nn.Linear(8, 3))
    assert torch.equal(convert(ann, TOKENS).predict(TOKENS), ann(TOKENS))


@torch.no_grad()
def test_qcfs_and_relu_in_one_network() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), sjpc.QCFS(4, 1.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    first, second = convert(ann, TOKENS[:, 0]).neurons()
    assert first.node.v_threshold == 1.5
    assert second.node.v_threshold.shape == (8,)


class Oracle(nn.Module):
    """An independent form of one conversion: thresholds by hand, no code of this project."""

    def __init__(self, ann: nn.Sequential, x: Tensor, T: int) -> None:
        super().__init__()
        self.ann, self.T, self.theta = ann, T, {}
        for i, layer in enumerate(ann):
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                self.theta[i] = x.amax([d for d in range(x.dim()) if d != 1], keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.ann):
            if i in self.theta:
                theta = self.theta[i]
                x = theta / self.T * (x * self.T / theta + 0.5).floor().clamp(0, self.T)
            else:
                x = layer(x)
        return x


@pytest.mark.parametrize("T", [1, 2, 8, 32])
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
@torch.no_grad()
def test_training_free_conversion_against_an_oracle(dim: int, T: int) -> None:
    """In float64, where fused BatchNorms round too little to move a value across a step."""
    torch.manual_seed(0)
    x = (volume(dim) if dim else TOKENS[:, 0]).double()
    ann = lively((conv_bn_relu(dim) if dim else mlp()).double(), x)
    snn = convert(ann, x, time_steps=T)
    torch.testing.assert_close(snn.predict(x), Oracle(ann, x, T)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_of_the_model(dtype: torch.dtype) -> None:
    ann, x = net("conv 2d")
    snn = convert(ann.to(dtype), x)  # float32 data
    assert {p.dtype for p in snn.parameters()} == {dtype}
    assert snn.predict(x.to(dtype)).dtype == dtype


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail = nn.Sequential(nn.Flatten(2), nn.GRU(144, 4)), nn.LSTM(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.tail(self.body(x)[0])[0])


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.mean() > 0 else x  # the line of the model


class NotFinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(432, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.log())  # NaN for negative inputs


RELU_NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
@pytest.mark.parametrize(
    ("ann", "loader", "error", "says"),
    [
        (RELU_NET, None, sjpc.DataError, ["dataloader=None"]),
        (RELU_NET, [], sjpc.DataError, ["dataloader is empty"]),
        (RELU_NET, iter(()), sjpc.DataError, ["dataloader is empty"]),
        (RELU_NET, IMAGES, sjpc.DataError, ["dataloader must be", "[x]"]),
        (RELU_NET, [("cat", 3)], sjpc.DataError, ["dataloader", "batch 0", "tuple", "no input tensor"]),
        (RELU_NET, [IMAGES, {"label": 3}], sjpc.DataError, ["dataloader", "batch 1", "label"]),
        (RELU_NET, [IMAGES, IMAGES / 0], sjpc.DataError, ["dataloader", "batch 1", "NaN or infinite"]),
        (RELU_NET, [IMAGES[:, :2]], sjpc.DataError, ["calibration batch", "'0'"]),
        (NotFinite(), [IMAGES], sjpc.DataError, ["layer 'body.2'", "NaN or infinite"]),
        (Untraceable(), [IMAGES], sjpc.ConversionError, ["Untraceable", __file__, "# the line of the model"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), [IMAGES], sjpc.ConversionError, ["nothing to convert"]),
        ("a path", [IMAGES], sjpc.ConversionError, ["torch.nn.Module", "str"]),
    ],
)
def test_refused(ann: object, loader: object, error: type[Exception], says: list[str], calibration: str) -> None:
    with pytest.raises(error) as raised:
        convert(ann, IMAGES, dataloader=loader, calibration=calibration)
    assert all(what in str(raised.value) for what in says), str(raised.value)


@pytest.mark.parametrize("form", ["x", "tuple", "triple", "single", "dict", "generator"])
def test_forms_of_batches_give_the_same_network(form: str) -> None:
    ann, x = net("concatenated")
    y = torch.zeros(len(x))
    batch = {"x": x, "tuple": (x, y), "triple": (x, y, y), "single": (x,), "dict": {"image": x, "label": y}}.get(form)
    loader = (b for b in [x]) if form == "generator" else [batch]
    expected, snn = convert(ann, x, calibration="da_qcfs"), convert(ann, x, dataloader=loader, calibration="da_qcfs")
    assert torch.equal(snn.predict(x), expected.predict(x))


def test_a_converter_can_be_used_again_even_with_a_generator() -> None:
    ann, x = net("concatenated")
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    converter = sjpc.ParallelConverter((b for b in [x]), **options)
    assert torch.equal(converter.convert(ann).predict(x), converter.convert(ann).predict(x))


@pytest.mark.parametrize("show", [True, False])
def test_progress_bars(show: bool, capsys: pytest.CaptureFixture) -> None:
    convert(*net("concatenated"), calibration="da_qcfs", show_progress=show)
    err = capsys.readouterr().err
    assert ("largest activations" in err and "calibrate" in err) == show


def test_conversion_is_reproducible() -> None:
    ann, x = net("concatenated")
    a, b = (convert(ann, x, calibration="da_qcfs").state_dict() for _ in range(2))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_converts_within_no_grad_and_inference_free_code() -> None:
    ann, x = net("mlp")
    with torch.no_grad():
        expected = convert(ann, x).predict(x)
    assert not expected.requires_grad
    assert all(p.requires_grad for p in convert(ann, x, fold=False).parameters())


def test_each_call_site_has_its_own_neuron() -> None:
    torch.manual_seed(0)
    snn = convert(SharedReLU().eval(), IMAGES)
    assert len(snn.neurons()) == 3
    assert len({site.node.v_threshold.data_ptr() for site in snn.neurons()}) == 3
