"""Every layer but the first receives spikes, and the passes leave the outputs as they were."""

from __future__ import annotations

import pytest
import torch
import torchvision
from captured import captured
from nets import lively
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.neuron.activations import SpikingIdentity

IMAGES = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Bottlenecks(nn.Module):
    """Linear bottlenecks with a shortcut, as in MobileNet v2: the sum feeds two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.project = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.expand, self.depthwise = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.project2, self.side = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(F.relu(self.stem(x)))
        y = self.project2(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return F.relu(y + self.side(x)).mean((2, 3))


class Attention(nn.Module):
    """A softmax, a normalisation and a product between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.qk = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 16)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k = self.qk(self.norm(x)).chunk(2, -1)
        x = x + self.out(torch.matmul(q @ k.transpose(-2, -1) * 8**-0.5, x).softmax(-1))
        return self.head(F.relu(x).mean(1))


def conv_pool_relu() -> nn.Sequential:
    """Pooling before the activation, as in many tutorials."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.MaxPool2d(2, 1),
        nn.MaxPool2d(2), nn.ReLU6(), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


NETS = {"bottlenecks": Bottlenecks, "attention": Attention, "pool before activation": conv_pool_relu}


def plain(name: str) -> tuple[nn.Module, fx.GraphModule]:
    torch.manual_seed(0)
    ann = lively(NETS[name](), IMAGES)
    return ann, captured(ann, IMAGES)[0]


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_outputs_stay(name: str) -> None:
    ann, model = plain(name)
    graph.pool_after_activation(model)
    graph.give_layers_spikes(model)
    assert torch.equal(model(IMAGES)[0], ann(IMAGES))


def test_one_identity_serves_all_layers_that_receive_the_value() -> None:
    _, model = plain("bottlenecks")
    graph.give_layers_spikes(model)
    identities = [n for n in model.graph.nodes if n.op == "call_module" and n.target.endswith("_input")]
    assert [(n.args[0].name, {user.name for user in n.users}) for n in identities] == [("project", {"expand", "side"})]
    assert isinstance(model.get_submodule(identities[0].target), SpikingIdentity)


def test_pools_follow_the_activation() -> None:
    _, model = plain("pool before activation")
    graph.pool_after_activation(model)
    order = [n.name for n in model.graph.nodes]
    assert order[1:9] == ["_0", "_1", "_3", "_2", "_4", "_7", "_5", "_6"]
    assert graph.analogue_operations(model) == []


def test_a_pool_that_feeds_something_else_stays() -> None:
    class TwoReaders(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(x * 2, 2)
            return F.relu(x) + x

    model, _ = captured(TwoReaders(), IMAGES)
    before = [n.name for n in model.graph.nodes]
    graph.pool_after_activation(model)
    assert [n.name for n in model.graph.nodes] == before


def test_activations_that_fall_are_not_moved() -> None:
    model, _ = captured(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.GELU()), IMAGES)
    graph.pool_after_activation(model)
    assert [n.name for n in model.graph.nodes][1:4] == ["_0", "_1", "_2"]


def convert(ann: nn.Module, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([IMAGES], show_progress=False, **options).convert(ann)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@torch.no_grad()
def test_every_layer_receives_spikes(name: str, mode: str) -> None:
    ann, _ = plain(name)
    snn = convert(ann, mode=mode, spiking_inputs=True, time_steps=8)
    report = sjpc.inspect(snn, show=False)
    assert report.graded == () and report.share_after_input == pytest.approx(
        1 - sum(row.macs for row in report.analogue) / (report.macs - report.input_macs)
    )
    spikes = snn.predict(IMAGES)
    snn.execution = "packed"
    assert torch.equal(spikes, snn.predict(IMAGES))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
@torch.no_grad()
def test_many_steps_approach_the_ann(name: str, calibration: str) -> None:
    ann, _ = plain(name)
    expected = ann(IMAGES)
    snn = convert(ann, spiking_inputs=True, time_steps=512, threshold="max", calibration=calibration)
    assert (snn.predict(IMAGES) - expected).norm() < 0.05 * expected.norm()


def test_signed_neurons_emit_both_signs() -> None:
    ann, _ = plain("bottlenecks")
    snn = convert(ann, spiking_inputs=True)
    (site,) = [site for site in snn.neurons() if site.node.signed]
    seen = []
    site.node.register_forward_hook(lambda module, args, spikes: seen.append(spikes))
    snn.predict(IMAGES)
    assert seen[0].unique().tolist() == [-1, 0, 1]


def test_conversions_without_the_option_have_no_signed_neurons() -> None:
    ann, _ = plain("bottlenecks")
    assert not any(site.node.signed for site in convert(ann).neurons())


class Sorted(nn.Sequential):
    """What no neuron can do."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sort(1)[0]


def test_strict() -> None:
    for name in NETS:
        assert sjpc.inspect(convert(plain(name)[0], strict=True), show=False).share_after_input == 1
    with pytest.raises(sjpc.ConversionError, match=r"no neuron or synapse can stand for: sort \(sort\)"):
        convert(Sorted(), strict=True)


@pytest.mark.parametrize("option", ["strict", "spiking_inputs"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=option):
        sjpc.ConversionConfig(**{option: 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x0_5", "densenet121", "resnet18"])
def test_relu_families_convert_strictly(name: str) -> None:
    ann = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    converter = sjpc.ParallelConverter([x], threshold="max", calibration="none", strict=True, show_progress=False)
    assert sjpc.inspect(converter.convert(ann), show=False).share_after_input == 1
