"""Folding together with the other options: serial neurons, spikes as input, signed neurons, int8, inspect, copies."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from nets import IMAGES
from test_fold import MODES, assert_fold_changes_nothing, convert
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.graph.folded import Rescale, ResidualAdd


class Residual(nn.Module):
    """An inverted residual block with ``activation``, whose bottleneck is linear."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.up, self.down = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.mix, self.head, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5), activation

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.act(self.stem(x)), 2)
        x = self.act(x + self.mix(x))
        x = x + self.down(self.act(self.up(x)))
        return self.head(self.act(self.mix(x)).mean((2, 3)))


class Forked(nn.Module):
    """A layer takes over what a level stands for, and an analogue operation needs the value."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.b(x) + torch.softmax(x, 1)


def residual(activation: nn.Module | None = None) -> nn.Module:
    return Residual(activation or nn.ReLU()).eval()


def tail() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def copies(snn: sjpc.SpikingNetwork, anew: sjpc.SpikingNetwork) -> list[sjpc.SpikingNetwork]:
    """Copies, and ``anew``, converted with other data, with the state of ``snn``."""
    file = io.BytesIO()
    torch.save(snn.state_dict(), file)
    file.seek(0)
    anew.load_state_dict(torch.load(file, weights_only=True))
    return [copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), anew]


@pytest.mark.parametrize("options", [{}, {"input_encoding": "spikes"}, {"spiking_inputs": True}], ids=str)
@pytest.mark.parametrize("mode", ["spikepack", "css"])
@torch.no_grad()
def test_serial_networks(mode: str, options: dict[str, object]) -> None:
    ann, x = residual().double(), IMAGES.double()
    folded, plain = (convert(ann, x, mode=mode, fold=fold, **options) for fold in (True, False))
    assert any(site.node.folded_input and site.node.folded_output for site in folded.neurons())
    closed = folded.predict(x)
    for snn in (folded, plain):
        snn.execution = "serial"
    serial = folded.predict(x)
    torch.testing.assert_close(serial, plain.predict(x), rtol=1e-9, atol=1e-9)
    if mode == "spikepack":
        torch.testing.assert_close(serial, closed, rtol=1e-9, atol=1e-9)
    folded.execution = "spikes"
    assert torch.equal(folded.predict(x), closed)


@pytest.mark.parametrize("options", [{}, {"spiking_inputs": True}, {"strict": True}], ids=str)
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_spikes_as_input(mode: str, options: dict[str, object]) -> None:
    snn = assert_fold_changes_nothing(residual(), IMAGES, mode=mode, input_encoding="spikes", **options)
    encoder = snn.net.get_submodule("input_encoder").node
    assert encoder.signed and not (encoder.folded_input or encoder.folded_output)
    assert sjpc.inspect(snn, show=False).input_macs == 0


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Hardswish()], ids=str)
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_neurons_with_an_activation_of_their_own(mode: str, activation: nn.Module) -> None:
    snn = assert_fold_changes_nothing(residual(activation), IMAGES, mode=mode)
    nodes = [site.node for site in snn.neurons()]
    assert not any(node.folded_input for node in nodes if node.activation is not None)
    assert any(node.folded_output for node in nodes)
    single = convert(residual(activation), IMAGES, mode=mode)
    spikes = single.predict(IMAGES)
    single.execution = "packed"
    assert torch.equal(single.predict(IMAGES), spikes)


@torch.no_grad()
def test_serial_neurons_refuse_activations() -> None:
    snn = convert(residual(nn.SiLU()), IMAGES, mode="css")
    with pytest.raises(sjpc.ConfigError, match=r"serial form.*activation"):
        snn.execution = "serial"
    assert snn.execution == "spikes" and not any(site.node.serial for site in snn.neurons())


@pytest.mark.parametrize("input_encoding", ["analogue", "spikes"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_parts(mode: str, input_encoding: str) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()), tail())
    x, results = IMAGES.double(), []
    for fold in (True, False):
        options = {"time_steps": 4, "mode": mode, "show_progress": False, "input_encoding": input_encoding}
        converter = sjpc.ParallelConverter([x], fold=fold, **options)
        snn = converter.convert(ann.double(), submodules=["0", "1"])
        encoded = [hasattr(part.net, "input_encoder") for part in snn.parts.values()]
        assert encoded == [input_encoding == "spikes", False], "the second part's input is not the network's"
        spikes = snn(x)
        snn.execution = "packed"
        assert torch.equal(snn(x), spikes)
        results.append(spikes)
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"spiking_inputs": True}, {"input_encoding": "spikes"}], ids=str)
@torch.no_grad()
def test_inspect_sees_the_same_network(options: dict[str, object]) -> None:
    reports = []
    for fold in (True, False):
        snn = convert(residual(), IMAGES, fold=fold, **options)
        before = snn.predict(IMAGES)
        reports.append(sjpc.inspect(snn, IMAGES, show=False))
        assert torch.equal(snn.predict(IMAGES), before)
        assert fold == any(isinstance(module, ResidualAdd) for module in snn.net.modules())
    folded, plain = ([(row.name, row.kind, row.receives, row.macs) for row in r.rows] for r in reports)
    assert folded == plain and reports[0].analogue == ()


@torch.no_grad()
def test_inspect_takes_what_is_left_of_units_for_no_operation() -> None:
    snn = convert(Forked().eval(), IMAGES)
    report = sjpc.inspect(snn, show=False)
    assert any(isinstance(module, Rescale) for module in snn.net.modules())
    assert [row.operation for row in report.normalisations] == ["softmax"] and not report.analogue
    assert [row.kind for row in report.rows] == ["layer", "node", "layer", "normalisation"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU()], ids=str)
@torch.no_grad()
def test_copies(mode: str, activation: nn.Module) -> None:
    ann = residual(activation)
    options = {"mode": mode, "input_encoding": "spikes", "spiking_inputs": True}
    snn, anew = convert(ann, IMAGES, **options), convert(ann, IMAGES * 2, **options)
    expected = snn.predict(IMAGES)
    assert not torch.equal(anew.predict(IMAGES), expected)
    for twin in copies(snn, anew):
        for twin.execution in ("spikes", "packed"):
            assert torch.equal(twin.predict(IMAGES), expected)
        for a, b in zip(snn.neurons(), twin.neurons(), strict=True):
            assert (a.node.folded_input, a.node.folded_output) == (b.node.folded_input, b.node.folded_output)


class Attention(nn.Module):
    """A module of several results, one of which is None, between layers that folding changes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.attention = nn.Conv2d(3, 8, 3, stride=2), nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp, self.act, self.head = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x)).flatten(2).transpose(1, 2)
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.act(self.mlp(x + y))).mean(1)


@pytest.mark.parametrize("mode", MODES)
def test_attention(mode: str) -> None:
    assert_fold_changes_nothing(Attention().eval(), IMAGES, mode=mode)


class StaticBranch(nn.Module):
    """A branch of the input, which has no time axis, beside a branch of spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.c = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.a(x) + self.c(F.relu(self.b(x)))).mean((2, 3)))


@torch.no_grad()
def test_a_value_without_time_axis_serves_all_steps() -> None:
    torch.manual_seed(0)
    ann = StaticBranch().eval()
    assert_fold_changes_nothing(ann, IMAGES)
    snn = convert(ann, IMAGES.double())
    expected = snn.predict(IMAGES.double())
    for snn.execution in ("packed", "spikes", "stepwise"):
        torch.testing.assert_close(snn.predict(IMAGES.double()), expected, rtol=1e-9, atol=1e-9)
