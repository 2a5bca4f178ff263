"""Membrane shortcuts in converted networks: folded or not, in each execution, the same trains and values."""

from __future__ import annotations

import operator

import pytest
import torch
from nets import IMAGES, lively
from test_fold import MODES, assert_fold_changes_nothing, convert
from test_interplay import copies
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu.int8 import Int8Conv2d
from sj_parallel_conversion.ann2snn.graph.folded import Rescale, ResidualAdd, ToLevels


class Blocks(nn.Module):
    """Two residual blocks of the option ``A`` of He et al.: the second shortcut is a slice with zeros around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a, self.b = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 3, padding=2)
        self.c, self.d, self.head = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 5)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.bn(self.b(F.relu(self.a(x)))) + x)
        x = F.relu(self.d(F.relu(self.c(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        return self.head(x.mean((2, 3)))


class TokenBlock(nn.Module):
    """A residual block of linear layers on tokens, whose channels are the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x.flatten(2).transpose(1, 2).reshape(x.size(0), -1, 12)))
        return self.head(F.relu(self.b(F.relu(self.a(x))) + x).mean(1))


NETS = {"blocks": Blocks, "tokens": TokenBlock}
OPTIONS = [
    {}, {"calibration": "none"}, {"calibration": "da_qcfs"}, {"calibration": "weights", "distillation_epochs": 0},
    {"per_channel": False}, {"threshold": "mse"}, {"threshold": "99%"}, {"spiking_inputs": True},
    {"input_encoding": "spikes"}, {"strict": True}, {"max_memory": 0},
]  # fmt: skip


def blocks(name: str = "blocks") -> nn.Module:
    torch.manual_seed(0)
    return lively(NETS[name](), IMAGES)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_fold_changes_nothing(name: str, mode: str, options: dict[str, object]) -> None:
    folded = assert_fold_changes_nothing(blocks(name), IMAGES, mode=mode, shortcut="membrane", **options)
    kinds = [type(module) for module in folded.modules()]
    shortcuts = 2 if name == "blocks" else 1
    assert kinds.count(ToLevels) == 2 * shortcuts and kinds.count(ResidualAdd) == shortcuts + 1 and Rescale not in kinds
    assert not any(node.target is operator.neg for node in folded.net.graph.nodes)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_every_channel_has_its_threshold(name: str) -> None:
    nodes = [site.node for site in convert(blocks(name), IMAGES, shortcut="membrane").neurons()]
    assert all(node.v_threshold.dim() == 1 for node in nodes)
    whole = convert(blocks(name), IMAGES, shortcut="membrane", per_channel=False).neurons()
    assert len(whole) == len(nodes) and not any(site.node.v_threshold.dim() for site in whole)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_with_many_levels_it_is_the_ann(mode: str) -> None:
    steps = 4096 if mode == "parallel" else 14
    ann = blocks()
    for shortcut in ("membrane", "spikes"):
        snn = convert(ann, IMAGES, mode=mode, time_steps=steps, shortcut=shortcut, calibration="none")
        snn.execution = "packed"
        torch.testing.assert_close(snn.predict(IMAGES), ann(IMAGES), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
@torch.no_grad()
def test_less_error_than_with_spikes_on_the_shortcut(calibration: str) -> None:
    x = torch.randn(128, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    ann = blocks()
    errors = []
    for shortcut in ("membrane", "spikes"):
        options = {"threshold": "mse", "shortcut": shortcut, "calibration": calibration, "distillation_epochs": 0}
        errors.append(float((convert(ann, x, **options).predict(x) - ann(x)).square().sum()))
    assert errors[0] < 0.9 * errors[1]


@torch.no_grad()
def test_auto_is_membrane_with_few_levels_and_corrected_weights_alone() -> None:
    for mode in MODES:
        for calibration in ("none", "da_qcfs", "least_squares", "weights"):
            snn = convert(blocks(), IMAGES, mode=mode, calibration=calibration)
            found = any(isinstance(module, ToLevels) for module in snn.modules())
            assert found == (calibration == "weights" and mode == "parallel") == snn.config.membrane_shortcuts


@pytest.mark.parametrize("mode", ["spikepack", "css"])
@torch.no_grad()
def test_serial(mode: str) -> None:
    x = IMAGES.double()
    networks = [convert(blocks().double(), x, mode=mode, fold=fold, shortcut="membrane") for fold in (True, False)]
    for network in networks:
        network.execution = "serial"
    torch.testing.assert_close(networks[0].predict(x), networks[1].predict(x))
    if mode == "spikepack":  # its serial and closed form are equal
        networks[0].execution = "spikes"
        expected = networks[0].predict(x)
        torch.testing.assert_close(networks[1].predict(x), expected)


@torch.no_grad()
def test_copies() -> None:
    snn, anew = (convert(blocks(), x, shortcut="membrane") for x in (IMAGES, IMAGES * 2))
    expected = snn.predict(IMAGES)
    assert not torch.equal(anew.predict(IMAGES), expected)
    for twin in copies(snn, anew):
        for twin.execution in ("spikes", "packed"):
            assert torch.equal(twin.predict(IMAGES), expected)


@pytest.mark.parametrize("options", [{}, {"spiking_inputs": True}, {"input_encoding": "spikes"}], ids=str)
@torch.no_grad()
def test_inspect_sees_the_same_network(options: dict[str, object]) -> None:
    reports = []
    for fold in (True, False):
        snn = convert(blocks(), IMAGES, fold=fold, shortcut="membrane", **options)
        reports.append(sjpc.inspect(snn, IMAGES, show=False))
    folded, plain = ([(row.name, row.kind, row.receives, row.macs) for row in r.rows] for r in reports)
    assert folded == plain and reports[0].analogue == ()


@torch.no_grad()
def test_values_that_someone_keeps_are_not_overwritten() -> None:
    snn = convert(blocks(), IMAGES, shortcut="membrane")
    snn.execution, kept = "packed", []
    expected = snn.predict(IMAGES)
    for module in snn.modules():
        if isinstance(module, (nn.Conv2d, ResidualAdd, ToLevels)):
            module.register_forward_hook(lambda module, args, output: kept.append((output, output.clone())))
    assert torch.equal(snn.predict(IMAGES), expected)
    assert len(kept) == 5 + 3 + 4 and all(torch.equal(a, b) for a, b in kept)


@torch.no_grad()
def test_compiles_without_a_graph_break() -> None:
    snn = convert(blocks(), IMAGES, shortcut="membrane")
    snn.execution = "packed"
    torch._dynamo.reset()
    predict = torch.compile(snn.predict, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(predict(IMAGES), snn.predict(IMAGES))


def test_gradients_reach_all_layers() -> None:
    snn = convert(blocks(), IMAGES, shortcut="membrane")
    snn.execution = "packed"
    snn.requires_grad_().predict(IMAGES).square().sum().backward()
    layers = [module for module in snn.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 6 and all(layer.weight.grad.abs().sum() > 0 for layer in layers)


@torch.no_grad()
def test_beside_a_trained_quantiser() -> None:
    """Its neuron stays lossless; the shortcut around a plain ReLU is made all the same."""
    ann = blocks()
    model = sjpc.replace_activations(ann, sjpc.QCFS, [IMAGES], levels=4).eval()
    assert not any(isinstance(m, ToLevels) for m in convert(model, IMAGES, shortcut="membrane").modules())
    mixed = nn.Sequential(nn.Conv2d(3, 3, 1), sjpc.QCFS(4), ann).eval()
    for fold in (True, False):
        snn = convert(mixed, IMAGES, shortcut="membrane", fold=fold)
        assert any(isinstance(m, ToLevels) for m in snn.modules()) == fold
        expected = snn.predict(IMAGES)
        snn.execution = "packed"
        assert torch.equal(snn.predict(IMAGES), expected)


@torch.no_grad()
def test_half_precision() -> None:
    ann = blocks().bfloat16()
    snn = convert(ann, IMAGES.bfloat16(), time_steps=16, shortcut="membrane", threshold="mse", calibration="weights")
    error = (snn.predict(IMAGES.bfloat16()) - ann(IMAGES.bfloat16())).float()
    assert error.square().mean() < 1e-3 * ann(IMAGES.bfloat16()).float().var()


@pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")), reason="no oneDNN"
)
@torch.no_grad()
def test_int8() -> None:
    """Layers that read levels, among them those behind the shared values, get int8 weights."""
    snn = convert(blocks(), IMAGES, shortcut="membrane", time_steps=8)
    snn.execution = "packed"
    small = sjpc.to_int8(snn)
    assert sum(isinstance(module, Int8Conv2d) for module in small.modules()) == 4
    expected = snn.predict(IMAGES)
    assert (small.predict(IMAGES) - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_auto_keeps_spikes_where_a_current_is_mostly_negative() -> None:
    """Where it is mostly positive, and where membrane shortcuts are asked for by name, they are made."""
    ann = blocks()
    ann.stem.bias -= 3
    ann.bn.bias += 6
    options = {"calibration": "weights", "distillation_epochs": 0}
    for shortcut, expected in (("auto", 1), ("membrane", 2), ("spikes", 0)):
        snn = convert(ann, IMAGES, shortcut=shortcut, **options)
        assert sum(isinstance(module, ToLevels) for module in snn.modules()) == 2 * expected
