"""Networks of people keep their classes, and what they do in training mode."""

from __future__ import annotations

import pickle

import pytest
import torch
from helpers.models import CifarResNet
from nets import IMAGES
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc


def activations(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


class _FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.linear(x).relu(), 0.5, training=self.training)


def test_functional_dropout_still_works_in_training() -> None:
    replaced = sjpc.replace_activations(_FunctionalDropout(), sjpc.ClipReLU, [torch.rand(50, 6)])
    x = torch.rand(50, 6)
    assert not torch.equal(replaced(x), replaced(x))
    assert torch.equal(replaced.eval()(x), replaced(x))


class Block(nn.Module):
    """One ReLU module called twice, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


class Auxiliary(nn.Module):
    """Two outputs in training mode; ReLUs as functions only further inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(), Block())
        self.head, self.aux = nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.head(self.blocks(x).mean((2, 3)))
        return (y, self.aux(x.mean((2, 3)))) if self.training else y


class FunctionalAuxiliary(Auxiliary):
    """Here the function is called beside what differs in training mode."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return super().forward(F.relu(x))


@pytest.mark.parametrize(("kind", "sites"), [(Auxiliary, 6), (FunctionalAuxiliary, 7)])
@pytest.mark.parametrize("training", [True, False])
def test_classes_and_what_they_do_in_training_mode_stay(kind: type[nn.Module], sites: int, training: bool) -> None:
    ann = kind().train(training)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, [IMAGES], v_threshold=1e6)
    kinds = [type(module) for module in ann.modules() if not isinstance(module, nn.ReLU)]
    theirs = [type(m) for m in replaced.modules() if not type(m).__module__.startswith("sj_parallel_conversion")]
    assert theirs == kinds and len(activations(replaced, sjpc.ClipReLU)) == sites
    assert all(module.training == training for module in replaced.modules())
    assert torch.equal(replaced.eval()(IMAGES), ann.eval()(IMAGES))
    ann.train(), replaced.train()
    assert all(torch.equal(a, b) for a, b in zip(replaced(IMAGES), ann(IMAGES), strict=True)), "with its second output"
    theirs, ours = ann.state_dict(), replaced.state_dict()
    assert set(theirs) == {key for key in ours if not key.endswith("v_threshold")}
    assert pickle.loads(pickle.dumps(replaced)).eval()(IMAGES).shape == (4, 5)


class SharedBlock(nn.Module):
    """A block that is called twice."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3), block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.stem(x)))


class FunctionalBlock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x - 0.1)


@pytest.mark.parametrize(("block", "sites"), [(Block(), 2), (FunctionalBlock(), 1), (nn.Sequential(nn.ReLU()), 1)])
@torch.no_grad()
def test_blocks_that_are_called_twice_share_their_activations_as_their_weights(block: nn.Module, sites: int) -> None:
    ann = SharedBlock(block).eval()
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, [IMAGES], v_threshold=1e6)
    assert len(activations(replaced, sjpc.ClipReLU)) == sites
    assert torch.equal(replaced(IMAGES), ann(IMAGES))
    part = IMAGES[:, :1].repeat(1, 4, 1, 1)
    assert torch.equal(replaced.block(part), ann.block(part)), "it can be used alone"
    qat = sjpc.replace_activations(ann, sjpc.QCFS, [IMAGES], levels=4, v_threshold=0.7)
    assert torch.equal(convert(qat).predict(IMAGES), qat(IMAGES))


def convert(model: nn.Module) -> sjpc.SpikingNetwork:
    options = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}
    return sjpc.ParallelConverter([IMAGES], **options).convert(model.eval())


class InPlace(nn.Module):
    """A residual network with in-place ReLUs or without."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.stem, self.act, self.inplace = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace), inplace
        self.block = Block()
        self.block.relu = nn.ReLU(inplace)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.act(self.stem(x)))
        return self.head(F.relu(self.block.conv1(x), inplace=self.inplace))


@torch.no_grad()
def test_in_place_networks_spike_as_much_as_others() -> None:
    """What is written over a value is what the next layer reads, and not an operation of its own."""
    torch.manual_seed(0)
    plain, in_place = InPlace(False), InPlace(True)
    in_place.load_state_dict(plain.state_dict())
    snns = []
    for ann in (plain, in_place):
        qat = sjpc.replace_activations(ann, sjpc.QCFS, [IMAGES], levels=4, v_threshold=0.7)
        snns.append(convert(qat))
        assert torch.equal(snns[-1].predict(IMAGES), qat(IMAGES))
    operations = [[node.target for node in snn.net.graph.nodes if node.op == "call_function"] for snn in snns]
    assert operations[0] == operations[1] and len(snns[0].neurons()) == len(snns[1].neurons()) == 4


@torch.no_grad()
def test_cifar_resnet() -> None:
    """Functions alone, in blocks of one class."""
    torch.manual_seed(0)
    ann, x = CifarResNet(1), torch.randn(4, 3, 32, 32)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, [x], v_threshold=1e6)
    names = [name for name, module in replaced.named_modules() if isinstance(module, sjpc.ClipReLU)]
    assert sorted(names) == ["layer1.0.relu", "layer1.0.relu_1", "layer2.0.relu", "layer2.0.relu_1", "layer3.0.relu",
                             "layer3.0.relu_1", "relu"]  # fmt: skip
    assert torch.equal(replaced.eval()(x), ann.eval()(x))


@torch.no_grad()
def test_torchvision_network_with_auxiliary_heads() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    ann = models.googlenet(weights=None, aux_logits=True, init_weights=False, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, [x], v_threshold=1e6)
    assert type(replaced) is type(ann) and replaced.aux_logits
    assert torch.equal(replaced(x), ann(x))
    assert type(replaced.train()(x)).__name__ == "GoogLeNetOutputs"
    options = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([x], **options).convert(replaced)
    assert snn.predict(x).shape == (2, 10) and replaced.training


@torch.no_grad()
def test_torchvision_resnet_can_be_indexed() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    replaced = sjpc.replace_activations(models.resnet18(), sjpc.QCFS, [torch.randn(2, 3, 64, 64)], levels=4)
    assert isinstance(replaced.layer1[0].conv1, nn.Conv2d) and replaced.training
    assert len(activations(replaced, sjpc.QCFS)) == 17
    assert isinstance(replaced.relu[0], sjpc.QCFS) and len(replaced.layer1[0].relu) == 2
