"""A converted network takes the weights of a retrained ANN, or says why it does not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from in_parts import PARTS, detector, same
from in_parts import convert as convert_in_parts
from nets import IMAGES, net
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([x], **{"time_steps": 4, "show_progress": False} | options).convert(ann)


def retrained(ann: nn.Module, by: float = 0.1) -> nn.Module:
    """Other weights and statistics, all a little."""
    generator, ann = torch.Generator().manual_seed(1), copy.deepcopy(ann)
    for value in ann.state_dict().values():
        if value.is_floating_point():
            value.mul_(1 + by * torch.rand(value.shape, generator=generator).to(value))
    return ann


def small(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, *more, nn.Flatten(), nn.Linear(4 * 8 * 8, 5)).eval()


@pytest.mark.parametrize("name", ["concatenated", "shared conv", "mlp", "transposed 2d, groups", "conv 2d"])
@pytest.mark.parametrize("options", [{}, {"fold": False}, {"calibration": "weights"}, {"mode": "css"}])
@torch.no_grad()
def test_the_same_ann_gives_the_same_network(name: str, options: dict) -> None:
    ann, x = net(name)
    snn = convert(ann, x, **options)
    expected, before = snn.predict(x), copy.deepcopy(ann.state_dict())
    assert snn.load_ann(retrained(ann)) is snn and not torch.equal(snn.predict(x), expected)
    for other in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        other.load_ann(ann)
        assert torch.equal(other.predict(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": "weights", "distillation_epochs": 2},
        {"calibration": "weights", "fold": False},
        {"shortcut": "membrane", "input_encoding": "spikes", "spiking_inputs": True},
        {"keep": ["3", "4"]},
    ],
)
@torch.no_grad()
def test_whatever_the_options(options: dict) -> None:
    ann = small()
    snn = convert(ann, IMAGES, **options)
    expected = snn.predict(IMAGES)
    torch.testing.assert_close(snn.load_ann(ann).predict(IMAGES), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["concatenated", "shared conv", "conv 2d"])
@torch.no_grad()
def test_weights_of_a_retrained_ann_are_folded_as_the_first_were(name: str) -> None:
    """In float64 a folded network is that with the ANN's own weights; those are fused with BatchNorms alone."""
    ann, x = net(name)
    ann, x = ann.double(), x.double()
    new = retrained(ann)
    folded, plain = (convert(ann, x, fold=fold).load_ann(new) for fold in (True, False))
    torch.testing.assert_close(folded.predict(x), plain.predict(x), rtol=1e-9, atol=1e-9)
    anew = convert(new, x, fold=False)
    weights = {key: v for key, v in anew.state_dict().items() if ".node." not in key}
    assert len(weights) > 1 and all(torch.equal(plain.state_dict()[key], v) for key, v in weights.items() if v.dim())


@torch.no_grad()
def test_it_is_near_the_retrained_ann() -> None:
    ann = small()
    new = retrained(ann)
    for options in ({"time_steps": 64}, {"mode": "spikepack", "time_steps": 8}):
        snn = convert(ann, IMAGES, **options)
        before, after = snn.predict(IMAGES), snn.load_ann(new).predict(IMAGES)
        expected = new(IMAGES)
        assert (after - expected).norm() < 0.5 * (before - expected).norm()


@torch.no_grad()
def test_an_activations_own_parameters_are_taken() -> None:
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(400, 5)).eval()
    new = copy.deepcopy(ann)
    new[1].weight.fill_(0.5)
    snn = convert(ann, IMAGES).load_ann(new)
    assert torch.equal(snn.net.get_submodule("1").node.activation.weight, new[1].weight)


class SharedLSTM(nn.Module):
    """A leaf that is called twice, between layers of which one has the name that the package gives to neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.node, self.lstm, self.head = nn.Linear(6, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.node(x))
        return self.head(torch.relu(self.lstm(self.lstm(x)[0])[0]))


@torch.no_grad()
def test_modules_with_several_names_and_unlucky_names() -> None:
    torch.manual_seed(0)
    ann, x = SharedLSTM().eval(), torch.randn(4, 3, 6)
    snn, new = convert(ann, x), retrained(ann)
    expected = snn.predict(x)
    assert not torch.equal(snn.load_ann(new).predict(x), expected)
    assert torch.equal(snn.net.get_submodule("lstm").weight_hh_l0, new.lstm.weight_hh_l0)
    assert torch.equal(snn.load_ann(ann).predict(x), expected)


class Other(nn.Sequential):
    """The class of a model is not what counts."""


OTHERS = {
    "stride": (lambda m: setattr(m[3], "padding", (1, 1)), "Conv2d"),
    "activation": (lambda m: m.__setitem__(4, nn.GELU()), "GELU"),
    "no norm": (lambda m: m.__setitem__(1, nn.Identity()), "ReLU|activation|batch"),
    "another layer": (lambda m: m.insert(5, nn.MaxPool2d(1)), "MaxPool2d"),
    "width": (lambda m: m.__setitem__(6, nn.Linear(256, 6)), "Linear"),
}


@pytest.mark.parametrize(("change", "words"), OTHERS.values(), ids=OTHERS)
@torch.no_grad()
def test_another_architecture_is_refused(change, words: str) -> None:
    snn, other = convert(small(), IMAGES), small()
    before = copy.deepcopy(snn.state_dict())
    change(other)
    with pytest.raises(sjpc.SJPCError, match=f"load_ann: .*({words})|fails"):
        snn.load_ann(other.eval())
    assert all(torch.equal(value, before[key]) for key, value in snn.state_dict().items())
    snn.load_ann(Other(*small()).eval())


@torch.no_grad()
def test_trained_quantisers() -> None:
    """A network that converts without loss takes the weights of another with the same thresholds, without loss too."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), sjpc.QCFS(4, 2.0), nn.Flatten(), nn.Linear(400, 5)).eval()
    snn, new = convert(ann, IMAGES), copy.deepcopy(ann)
    for layer in (new[0], new[3]):
        layer.weight.mul_(1.1)
    torch.testing.assert_close(snn.load_ann(new).predict(IMAGES), new(IMAGES))
    new[1].v_threshold.fill_(3.0)
    with pytest.raises(sjpc.ConversionError, match="v_threshold of the trained quantiser '1' has changed"):
        snn.load_ann(new)


@torch.no_grad()
def test_where_the_origin_is_not_known() -> None:
    ann = small()
    snn = convert(ann, IMAGES)
    with pytest.raises(sjpc.ConversionError, match="int8"):
        sjpc.to_int8(snn).load_ann(ann)
    snn.load_state_dict(convert(ann, IMAGES, calibration="weights", fold=True).state_dict(), strict=False)
    with pytest.raises(sjpc.ConversionError, match="has loaded a state dict"):
        snn.load_ann(ann)


@torch.no_grad()
def test_a_running_window_packed_weights_and_casts() -> None:
    ann = small()
    snn, new = convert(ann, IMAGES), retrained(ann)
    packed = sjpc.prepack(snn)
    for network in (packed, snn):
        network(IMAGES), network.predict(IMAGES)
        network.load_ann(new)
        assert network.step == 0
    torch.testing.assert_close(packed.predict(IMAGES), snn.predict(IMAGES), rtol=1e-4, atol=1e-4)
    expected = snn.predict(IMAGES)
    half = convert(ann, IMAGES).bfloat16().load_ann(new)
    assert half.net.get_submodule("0").weight.dtype == torch.bfloat16
    assert (half.predict(IMAGES.bfloat16()) - expected).norm() < 0.2 * expected.norm()


@pytest.mark.filterwarnings("ignore:only")
@torch.no_grad()
def test_models_in_parts() -> None:
    model = detector().eval()
    snn = convert_in_parts(model, PARTS)
    expected, new = snn(IMAGES), retrained(model)
    assert snn.load_ann(new) is snn and not same(snn(IMAGES), expected)
    assert torch.equal(snn.model.neck.fine.weight, new.neck.fine.weight)
    assert same(snn.load_ann(model)(IMAGES), expected)
    new.backbone.b[0] = nn.Conv2d(4, 4, 3, stride=1)
    with pytest.raises(sjpc.ConversionError, match=r"submodule 'backbone': load_ann: .*stride"):
        snn.load_ann(new)
    del new.neck["fine"]
    with pytest.raises(sjpc.ConversionError, match=r"no 'neck.fine.weight' of shape \[6, 4, 1, 1\]"):
        snn.load_ann(new)
    assert same(snn(IMAGES), expected), "nothing was changed"
