"""ReLU -> trainable activations: parameters, flags and weight sharing stay."""

from __future__ import annotations

import pickle

import pytest
import torch
from nets import IMAGES, NETS, TOKENS, mlp, net
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc


def activations(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_wide_clip_changes_nothing(name: str) -> None:
    ann, x = net(name)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
    assert torch.equal(replaced(x), ann(x.clone()))
    assert not activations(replaced, nn.ReLU)


@pytest.mark.parametrize("name", ["shared conv", "norm of two convs", "concatenated"])
def test_parameters_have_their_names_and_sharing(name: str) -> None:
    ann, _ = net(name)
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4)
    theirs, ours = ann.state_dict(), replaced.state_dict()
    assert set(theirs) == {key for key in ours if not key.endswith("v_threshold")}
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert sum("v_threshold" in key for key in ours) == len(activations(replaced, sjpc.QCFS))
    own = {p.data_ptr() for p in ann.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in replaced.parameters())


@pytest.mark.parametrize(("name", "sites"), [("shared relu", 3), ("shared conv", 2), ("concatenated", 3), ("mlp", 1)])
def test_an_own_activation_at_each_call_site(name: str, sites: int) -> None:
    ann, _ = net(name)
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4, v_threshold=2.0)
    found = activations(replaced, sjpc.QCFS)
    assert len(found) == sites == len({id(module.v_threshold) for module in found})
    assert all(module.levels == 4 and module.v_threshold == 2.0 for module in found)


@pytest.mark.parametrize("training", [True, False])
def test_training_flags(training: bool) -> None:
    ann = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 3))
    ann.train(training)
    ann[3].training = not training
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4)
    for name, module in ann.named_modules():
        assert replaced.get_submodule(name).training == module.training, name
    assert ann[2].inplace and isinstance(ann[2], nn.ReLU)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype(dtype: torch.dtype) -> None:
    replaced = sjpc.replace_activations(mlp().to(dtype), sjpc.QCFS, levels=4)
    assert {p.dtype for p in replaced.parameters()} == {dtype}


def test_own_activations_stay_and_stay_shared() -> None:
    own = sjpc.QCFS(7, 3.0)
    ann = nn.Sequential(nn.Linear(6, 6), own, nn.Linear(6, 6), own, nn.ReLU())
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4)
    assert sorted(module.levels for module in activations(replaced, sjpc.QCFS)) == [4, 7]


def test_any_callable() -> None:
    made = []

    def make(slope: float) -> nn.Module:
        made.append(nn.LeakyReLU(slope))
        return made[-1]

    replaced = sjpc.replace_activations(mlp(), make, slope=0.2)
    assert replaced.get_submodule("2") is made[0]


@pytest.mark.parametrize("activation", [None, 4, "QCFS", sjpc.QCFS(4)])
def test_what_is_no_activation(activation: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="activation must be a class"):
        sjpc.replace_activations(mlp(), activation)


def test_nothing_to_replace() -> None:
    with pytest.raises(sjpc.ConversionError, match="nothing to convert"):
        sjpc.replace_activations(nn.Linear(3, 4), sjpc.QCFS, levels=4)
    with pytest.raises(sjpc.ConversionError, match=r"no ReLU.*1 \(GELU\)"):
        sjpc.replace_activations(nn.Sequential(nn.Linear(3, 4), nn.GELU()), sjpc.QCFS, levels=4)


def test_other_activations_stay() -> None:
    ann = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.Hardtanh(), nn.ReLU6(), nn.Sigmoid())
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4)
    assert [type(module) for module in replaced.children()] == [
        nn.Linear, nn.GELU, nn.Linear, nn.Hardtanh, sjpc.QCFS, nn.Sigmoid
    ]  # fmt: skip


def test_train_then_convert() -> None:
    """The whole path: replace, fine-tune all parameters, convert, same outputs."""
    torch.manual_seed(0)
    model = sjpc.replace_activations(mlp().train(), sjpc.QCFS, levels=4, v_threshold=1.0)
    x, y = TOKENS.reshape(-1, 6), torch.randint(0, 3, (35,))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    (qcfs,) = activations(model, sjpc.QCFS)
    assert losses[-1] < 0.8 * losses[0] and qcfs.v_threshold != 1.0
    model.eval()
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    snn = sjpc.ParallelConverter([x], time_steps=4, **options).convert(model)
    with torch.no_grad():
        assert torch.equal(snn.predict(x), model(x))


def test_pickles() -> None:
    ann, x = net("concatenated")
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4)
    assert torch.equal(pickle.loads(pickle.dumps(replaced))(x), replaced(x))
    assert replaced(IMAGES).shape == (4, 5)


class _FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.linear(x).relu(), 0.5, training=self.training)


def test_functional_dropout_still_works_in_training() -> None:
    replaced = sjpc.replace_activations(_FunctionalDropout(), sjpc.ClipReLU)
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


def test_classes_stay_and_only_what_must_be_is_a_graph() -> None:
    ann = Auxiliary().eval()
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
    assert type(replaced) is Auxiliary and isinstance(replaced.blocks[0], fx.GraphModule)
    assert type(replaced.blocks[0].conv1) is nn.Conv2d
    assert not activations(replaced, nn.ReLU) and len(activations(replaced, sjpc.ClipReLU)) == 6
    assert torch.equal(replaced(IMAGES), ann(IMAGES))
    ann.train(), replaced.train()
    assert all(torch.equal(a, b) for a, b in zip(replaced(IMAGES), ann(IMAGES), strict=True)), "with its second output"
    theirs, ours = ann.state_dict(), replaced.state_dict()
    assert set(theirs) == {key for key in ours if not key.endswith("v_threshold")}
    assert pickle.loads(pickle.dumps(replaced)).eval()(IMAGES).shape == (4, 5)


def test_what_is_lost_of_training_mode_is_said() -> None:
    ann = FunctionalAuxiliary()
    with pytest.warns(UserWarning, match="FunctionalAuxiliary computes something else in training mode") as caught:
        replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
    assert caught[0].filename == __file__ and len(caught) == 1
    assert isinstance(replaced, fx.GraphModule)
    assert torch.equal(replaced.eval()(IMAGES), ann.eval()(IMAGES))


class SharedBlock(nn.Module):
    """A block that is called twice: two call sites of its ReLU, whatever way it is spelt."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3), block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.stem(x)))


class FunctionalBlock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x - 0.1)


@pytest.mark.parametrize(("block", "sites"), [(Block(), 4), (FunctionalBlock(), 2), (nn.Sequential(nn.ReLU()), 2)])
@torch.no_grad()
def test_blocks_that_are_called_twice_get_an_own_activation_for_each_call(block: nn.Module, sites: int) -> None:
    ann = SharedBlock(block).eval()
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
    assert len(activations(replaced, sjpc.ClipReLU)) == sites
    assert torch.equal(replaced(IMAGES), ann(IMAGES))


def test_the_same_module_at_two_places_of_a_sequence() -> None:
    relu = nn.ReLU()
    ann = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, levels=4)
    assert type(replaced) is nn.Sequential and replaced[1] is not replaced[3]


@torch.no_grad()
def test_torchvision_network_with_auxiliary_heads() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    ann = models.googlenet(weights=None, aux_logits=True, init_weights=False, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
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
    replaced = sjpc.replace_activations(models.resnet18(), sjpc.QCFS, levels=4)
    assert isinstance(replaced.layer1[0].conv1, nn.Conv2d) and replaced.training
    assert len(activations(replaced, sjpc.QCFS)) == 17
