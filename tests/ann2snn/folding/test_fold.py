"""Folded and unfolded networks compute the same, whatever stands between two neurons."""

from __future__ import annotations

import pytest
import torch
from nets import IMAGES, NETS, net
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.graph.folded import Rescale, ResidualAdd

MODES = ["parallel", "spikepack", "css"]


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 4, "threshold": "max", "calibration": "least_squares", "show_progress": False} | options
    return sjpc.ParallelConverter([x], **options).convert(ann)


def assert_fold_changes_nothing(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    """In float64, where rounding is far too small to move a value across a threshold. Returns the folded network."""
    ann, x = ann.double(), x.double()
    folded, plain = convert(ann, x, **options), convert(ann, x, fold=False, **options)
    assert not any(site.node.folded_input or site.node.folded_output for site in plain.neurons())
    trains = [record(snn) for snn in (folded, plain)]
    expected = plain.predict(x)
    spikes = folded.predict(x)
    torch.testing.assert_close(spikes, expected, rtol=1e-9, atol=1e-9)
    assert len(trains[0]) == len(trains[1]) == len(folded.neurons())
    assert all(torch.equal(a, b) for a, b in zip(*trains, strict=True)), "the trains differ"
    folded.execution = "packed"
    assert torch.equal(folded.predict(x), spikes), "packed and spikes differ"
    folded.step_mode = "m"
    for folded.execution in ("stepwise", "spikes"):
        y = folded.decode(folded(x.expand(4, *x.shape)))
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    return folded


def record(snn: sjpc.SpikingNetwork) -> list[Tensor]:
    trains: list[Tensor] = []
    for site in snn.neurons():
        site.node.register_forward_hook(lambda module, args, output: trains.append(output) and None)
    return trains


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_awkward_networks(name: str, mode: str) -> None:
    assert_fold_changes_nothing(*net(name), mode=mode)


@pytest.mark.parametrize("options", [{"per_channel": False}, {"calibration": "none"}, {"calibration": "da_qcfs"}])
@pytest.mark.parametrize("name", ["concatenated", "tokens", "mlp", "transposed 2d, groups"])
@torch.no_grad()
def test_parameters_of_any_shape(name: str, options: dict) -> None:
    assert_fold_changes_nothing(*net(name), **options)


class Between(nn.Module):
    """Two neurons, and ``function`` between the first and the second or the readout."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.conv3, self.wide, self.function = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1), function
        self.head, self.flat, self.norm = nn.Linear(4, 5), nn.Linear(144, 5), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, F.relu(self.conv1(x)))


def pooled(m: Between, x: Tensor) -> Tensor:
    return m.head(x.mean((2, 3)))


# What stands there, and which neurons have (input, output) folded.
BOTH, INPUT = (True, True), (True, False)
BETWEEN = {
    "residual": (lambda m, x: pooled(m, F.relu(m.conv2(x) + x)), [BOTH, BOTH]),
    "residual, other way round": (lambda m, x: pooled(m, F.relu(x + m.conv2(x))), [BOTH, BOTH]),
    "residual with a layer": (lambda m, x: pooled(m, F.relu(m.conv2(x) + m.conv3(x))), [BOTH, BOTH]),
    "three branches": (lambda m, x: pooled(m, F.relu(m.conv2(x) + m.conv3(x) + x)), [BOTH, BOTH]),
    "residual of a pooled value": (
        lambda m, x: pooled(m, F.relu(m.conv2(F.max_pool2d(x, 2)) + F.avg_pool2d(x, 2))), [BOTH, BOTH],
    ),
    "residual by strides and padding": (
        lambda m, x: pooled(m, F.relu(m.conv2(x[:, :, ::2, ::2]) + F.pad(x[:, 1:3, ::2, ::2], (0, 0, 0, 0, 1, 1)))),
        [BOTH, BOTH],
    ),
    "twice the same branch": (lambda m, x: pooled(m, F.relu((y := m.conv2(x)) + y)), [BOTH, (False, True)]),
    "a number added": (lambda m, x: pooled(m, F.relu(m.conv2(x) + 0.1)), [BOTH, (False, True)]),
    "addition with alpha": (lambda m, x: pooled(m, F.relu(torch.add(m.conv2(x), x, alpha=2))), [BOTH, BOTH]),
    "addition without a layer": (lambda m, x: pooled(m, F.relu(x + x.flip(3))), [INPUT, (False, True)]),
    "branch that is read again": (lambda m, x: pooled(m, F.relu((y := m.conv2(x)) + x) + y), [BOTH, (False, False)]),
    "concatenation": (lambda m, x: pooled(m, F.relu(m.wide(torch.cat([x, F.relu(m.conv2(x))], 1)))), [BOTH] * 3),
    "concatenation with a value": (
        lambda m, x: pooled(m, F.relu(m.wide(torch.cat([m.conv2(x), x], 1)))), [BOTH, BOTH],
    ),
    "flatten": (lambda m, x: m.flat(F.max_pool2d(x, 2).flatten(1)), [BOTH]),
    "view by size": (lambda m, x: m.flat(F.adaptive_avg_pool2d(x, 6).view(x.size(0), -1)), [BOTH]),
    "shuffle": (
        lambda m, x: pooled(m, x.view(x.size(0), 2, 2, x.size(2), x.size(3)).transpose(1, 2).reshape(x.shape)), [BOTH],
    ),
    "chunks": (lambda m, x: pooled(m, torch.cat(x.chunk(2, 1)[::-1], 1)), [BOTH]),
    "padding": (lambda m, x: pooled(m, m.conv2(F.pad(x, (1, 2, 0, 1)))), [BOTH]),
    "padding with ones": (lambda m, x: pooled(m, m.conv2(F.pad(x, (1, 2, 0, 1), value=1.0))), [INPUT]),
    "upsampling": (lambda m, x: pooled(m, m.conv2(F.interpolate(x, scale_factor=2, mode="bilinear"))), [BOTH]),
    "a user that cannot": (lambda m, x: pooled(m, m.conv2(x) + x.softmax(1)), [BOTH]),
    "only users that cannot": (lambda m, x: x.softmax(1).mean((2, 3)), [INPUT]),
    "output": (lambda m, x: (x, pooled(m, x)), [BOTH]),
    "batch normalisation before": (lambda m, x: pooled(m, F.relu(m.norm(F.max_pool2d(x, 2)))), [INPUT, BOTH]),
    "channels that become positions": (lambda m, x: F.linear(x.flatten(2), x.new_ones(1, 144)).flatten(1), [INPUT]),
    "channels that become inputs": (
        lambda m, x: m.flat(x.reshape(x.size(0) * 4, 144)).view(x.size(0), -1), [BOTH],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
@torch.no_grad()
def test_between_neurons(name: str) -> None:
    function, expected = BETWEEN[name]
    torch.manual_seed(0)
    ann = Between(function).eval()
    if name == "output":
        folded, plain = (convert(ann.double(), IMAGES.double(), fold=fold) for fold in (True, False))
        torch.testing.assert_close(folded.predict(IMAGES.double()), plain.predict(IMAGES.double()))
    else:
        folded = assert_fold_changes_nothing(ann, IMAGES)
    assert [(site.node.folded_input, site.node.folded_output) for site in folded.neurons()] == expected
    whole, part = folded.predict(IMAGES.double()), folded.predict(IMAGES[:3].double())
    torch.testing.assert_close(part, tree_map(lambda y: y[:3], whole), msg="another size of batch")


@torch.no_grad()
def test_a_value_is_rescaled_once_for_all_who_need_it() -> None:
    torch.manual_seed(0)
    ann = Between(lambda m, x: pooled(m, m.conv2(x) + x.softmax(1) + x.softmax(2))).eval()
    snn = convert(ann, IMAGES)
    assert sum(type(module) is Rescale for module in snn.modules()) == 1


@pytest.mark.parametrize(
    "name",
    ["residual", "residual of a pooled value", "residual by strides and padding", "concatenation", "flatten",
     "view by size", "shuffle", "chunks", "padding", "upsampling"],
)  # fmt: skip
@torch.no_grad()
def test_no_multiplication_is_left(name: str) -> None:
    torch.manual_seed(0)
    snn = convert(Between(BETWEEN[name][0]).eval(), IMAGES)
    assert not any(type(module) is Rescale for module in snn.modules())


@torch.no_grad()
def test_residual_costs_one_operation() -> None:
    torch.manual_seed(0)
    snn = convert(Between(BETWEEN["residual"][0]).eval(), IMAGES)
    assert sum(isinstance(module, ResidualAdd) for module in snn.modules()) == 1


class TiedWeights(nn.Module):
    """Two layers with one weight, of which each is scaled in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 5)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


@torch.no_grad()
def test_tied_weights() -> None:
    torch.manual_seed(0)
    assert_fold_changes_nothing(TiedWeights().eval(), IMAGES)


@torch.no_grad()
def test_trained_quantisers_are_not_folded() -> None:
    ann, x = net("concatenated")
    snn = convert(sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=4).eval(), x)
    assert not any(site.node.folded_input or site.node.folded_output for site in snn.neurons())


@torch.no_grad()
def test_half_precision_is_not_folded() -> None:
    ann, x = net("conv 2d")
    assert not any(site.node.folded_input for site in convert(ann.bfloat16(), x).neurons())


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_parameters_stay_in_the_units_of_the_ann(mode: str) -> None:
    ann, x = net("conv 2d")
    (folded,), (plain,) = (convert(ann, x, mode=mode, fold=fold).neurons() for fold in (True, False))
    for name, parameter in plain.node.named_parameters():
        assert torch.equal(parameter, folded.node.get_parameter(name))
    levels = torch.arange(4.0).view(-1, 1) * torch.ones(6)
    assert torch.equal(folded.node.value(levels), levels)
    torch.testing.assert_close(levels * folded.node.unit, plain.node.value(levels))
    torch.testing.assert_close(folded.node.step, plain.node.step)
    assert "folded_input=True, folded_output=True" in repr(folded.node) and "folded" not in repr(plain.node)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_events(mode: str) -> None:
    """Frames that differ from step to step, in a network whose biases hold the neurons' shifts."""
    ann, x = net("concatenated")
    x = x.double()
    snn = convert(ann.double(), x, mode=mode)
    functional.set_step_mode(snn, "m")
    events = torch.randint(0, 3, (4, *x.shape), generator=torch.Generator().manual_seed(0)).double()
    expected = snn.predict(events.mean(0))
    for snn.execution in ("stepwise", "spikes"):
        torch.testing.assert_close(snn.decode(snn(events)), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_serial_nodes_in_a_folded_network() -> None:
    ann, x = net("conv 2d")
    x = x.double()
    snn = convert(ann.double(), x, mode="spikepack")
    expected = snn.predict(x)
    snn.neurons()[0].node.serial = True
    torch.testing.assert_close(snn.predict(x), expected)
    plain = convert(ann, x, mode="css", fold=False)
    css = convert(ann, x, mode="css")
    for network in (plain, css):
        network.execution = "serial"  # the network injects at the first step what reaches a neuron without a spike
    torch.testing.assert_close(css.predict(x), plain.predict(x))


@torch.no_grad()
def test_packed_values_are_overwritten_only_where_nobody_keeps_them() -> None:
    torch.manual_seed(0)
    snn = convert(Between(BETWEEN["residual"][0]).eval(), IMAGES)
    snn.execution, kept, x = "packed", [], IMAGES.clone()
    expected = snn.predict(x)
    assert torch.equal(x, IMAGES)
    for module in snn.modules():
        if isinstance(module, (nn.Conv2d, ResidualAdd)):
            module.register_forward_hook(lambda module, args, output: kept.append((output, output.clone())))
    assert torch.equal(snn.predict(x), expected)
    assert len(kept) == 3 and all(torch.equal(a, b) for a, b in kept)
    with torch.enable_grad():
        assert torch.equal(snn.predict(x.requires_grad_()), expected)


@pytest.mark.parametrize("execution", ["spikes", "packed"])
@torch.no_grad()
def test_channels_last_is_kept(execution: str) -> None:
    torch.manual_seed(0)
    x = IMAGES.contiguous(memory_format=torch.channels_last)
    ann = Between(BETWEEN["residual"][0]).eval().to(memory_format=torch.channels_last)
    snn = convert(ann, x)
    snn.execution, layouts = execution, []
    for module in snn.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            module.register_forward_pre_hook(
                lambda module, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    y = snn.predict(x)
    assert layouts == [True] * 2
    torch.testing.assert_close(y, snn.predict(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["concatenated", "conv 1d", "conv 3d", "tokens"])
@torch.no_grad()
def test_packed_network_compiles_without_a_graph_break(name: str, mode: str) -> None:
    ann, x = net(name)
    snn = convert(ann, x, mode=mode)
    snn.execution = "packed"
    expected = snn.predict(x)
    torch._dynamo.reset()
    predict = torch.compile(snn.predict, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(predict(x), expected)
    functional.set_step_mode(snn, "m")
    forward = torch.compile(snn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(forward(x.expand(4, *x.shape)).mean(0), expected)
