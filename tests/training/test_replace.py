"""ReLU -> trainable activations: parameters, flags and weight sharing stay."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from nets import IMAGES, NETS, TOKENS, mlp, net
from torch import Tensor, nn
from torch.nn import functional as F
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc


def activations(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_wide_clip_changes_nothing(name: str) -> None:
    ann, x = net(name)
    before = snapshot(ann)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, [x], v_threshold=1e6)
    assert_unchanged(before, snapshot(ann))
    assert type(replaced) is type(ann) and not activations(replaced, nn.ReLU)
    for twin in (replaced, copy.deepcopy(replaced), pickle.loads(pickle.dumps(replaced))):
        assert torch.equal(twin(x.clone()), ann(x.clone()))


@pytest.mark.parametrize("name", ["shared conv", "norm of two convs", "concatenated"])
def test_parameters_have_their_names_and_sharing(name: str) -> None:
    ann, x = net(name)
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=4)
    theirs, ours = ann.state_dict(), replaced.state_dict()
    assert set(theirs) == {key for key in ours if not key.endswith("v_threshold")}
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert sum("v_threshold" in key for key in ours) == len(activations(replaced, sjpc.QCFS))
    own = {p.data_ptr() for p in ann.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in replaced.parameters())


@pytest.mark.parametrize(("name", "sites"), [("shared relu", 3), ("shared conv", 2), ("concatenated", 3), ("mlp", 1)])
def test_an_own_activation_at_each_call_site(name: str, sites: int) -> None:
    ann, x = net(name)
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=4, v_threshold=2.0)
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
    x = torch.rand(2, 3)
    for data in (None, [x]):
        with pytest.raises(sjpc.ConversionError, match="nothing to replace: Linear has no ReLU"):
            sjpc.replace_activations(nn.Linear(3, 4), sjpc.QCFS, data, levels=4)
        with pytest.raises(sjpc.ConversionError, match=r"no ReLU.*its activations are GELU"):
            sjpc.replace_activations(nn.Sequential(nn.Linear(3, 4), nn.GELU()), sjpc.QCFS, data, levels=4)


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


def test_the_same_module_at_two_places_of_a_sequence() -> None:
    relu = nn.ReLU()
    ann = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    replaced = sjpc.replace_activations(ann, sjpc.QCFS, [torch.rand(2, 3)], levels=4)
    assert type(replaced) is nn.Sequential and replaced[1] is not replaced[3]
    assert isinstance(replaced[1], sjpc.QCFS) and isinstance(replaced[3], sjpc.QCFS)


@pytest.mark.parametrize("data", [None, [torch.rand(2, 3)]])
def test_a_network_that_is_a_relu(data: list[Tensor] | None) -> None:
    assert isinstance(sjpc.replace_activations(nn.ReLU(), sjpc.QCFS, data, levels=4), sjpc.QCFS)


def no_module() -> int:
    return 3


@pytest.mark.parametrize(
    ("activation", "kwargs", "says"),
    [
        (sjpc.QCFS, {"level": 4}, r"QCFS\(level=4\) fails: .*The options are: levels, v_threshold=8.0, psi=None, "),
        (sjpc.QCFS, {"levels": 4, "data": 1}, r"fails: .*'data'\. The options are: levels, "),
        (lambda levels: sjpc.QCFS(levels), {"level": 4}, r"fails: .*The options are: levels$"),
        (partial(sjpc.DAQCFS, 4), {"level": 4}, r"fails: .*The options are: .*phi=0.0"),
        (sjpc.QCFS, {}, r"QCFS\(\) fails: .*'levels'"),
        (sjpc.QCFS, {"levels": 0}, r"levels must be an integer >= 1, got 0"),
        (sjpc.ClipReLU, {"v_threshold": -1.0}, "v_threshold"),
        (no_module, {}, r"no_module\(\) must make a torch.nn.Module, got int"),
    ],
)
@pytest.mark.parametrize("data", [None, [torch.rand(2, 3)]])
def test_activations_that_cannot_be_made(
    activation: Callable, kwargs: dict[str, object], says: str, data: list[Tensor] | None
) -> None:
    ann = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(sjpc.ConfigError, match=says):
        sjpc.replace_activations(ann, activation, data, **kwargs)


def test_an_option_that_does_not_exist_is_refused_where_nothing_is_to_be_replaced() -> None:
    with pytest.raises(sjpc.ConfigError, match="'level'"):
        sjpc.replace_activations(nn.Sequential(nn.Linear(3, 3), sjpc.QCFS(4)), sjpc.QCFS, level=4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (4, "must be an iterable of batches, got int"),
        (torch.rand(2, 3), "must be an iterable of batches, got Tensor"),
        ([], "dataloader is empty"),
        (["a"], "batch 0 is a str"),
        ([torch.rand(2, 7)], "Sequential does not run on the first batch"),
        (torch.utils.data.TensorDataset(torch.rand(2, 3)), "is a Dataset"),
    ],
)
def test_data_that_cannot_be_used(data: object, says: str) -> None:
    with pytest.raises(sjpc.DataError, match=says):
        sjpc.replace_activations(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), sjpc.QCFS, data, levels=4)


def test_hooks_of_a_relu_module_go_to_its_activation() -> None:
    ann = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    ann[1].register_forward_hook(lambda module, args, y: 2 * y)
    x = torch.rand(2, 3)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
    assert torch.equal(replaced(x), ann(x)) and isinstance(replaced[1], sjpc.ClipReLU)


class PreActivation(nn.Module):
    """The shortcut reads what the in-place ReLU has written, as in many networks by mistake."""

    def __init__(self, read_again: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
        self.read_again = read_again

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.conv2(self.act(x))
        return y + x if self.read_again else y


@pytest.mark.parametrize("read_again", [True, False])
@pytest.mark.parametrize("data", [None, [IMAGES]])
def test_in_place_modules_go_on_overwriting(read_again: bool, data: list[Tensor] | None) -> None:
    ann = PreActivation(read_again)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, data, v_threshold=1e6)
    assert isinstance(replaced.act[0], sjpc.ClipReLU)
    for model in (ann, replaced):
        model(IMAGES).square().sum().backward()
    assert torch.equal(replaced(IMAGES), ann(IMAGES))
    for p, q in zip(ann.parameters(), (replaced.get_parameter(n) for n, _ in ann.named_parameters()), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


class Names(nn.Module):
    """Calls ReLUs in the way of ``forward``; without data it would not be seen how often."""

    def __init__(self, forward: Callable) -> None:
        super().__init__()
        self.relu, self.act, self.run = nn.ReLU(), nn.ReLU(), forward

    def step(self, x: Tensor) -> Tensor:
        return torch.clamp(x, min=0)

    def clipped(self, x: Tensor) -> Tensor:
        return F.gelu(x)


def named(forward: Callable) -> nn.Module:
    return type("Own", (Names,), {"forward": forward})(forward)


NEED_DATA = {
    "function": lambda self, x: F.relu(self.act(x)),
    "method": lambda self, x: self.act(x).relu_(),
    "a child of that name": lambda self, x: self.relu(self.relu(x)) + self.act(x),
    "inner function": lambda self, x: sum(map(lambda y: y.clamp(min=0), (x, self.act(x)))),
    "list comprehension": lambda self, x: sum([y.relu() for y in (x, self.act(x))]),
    "own method": lambda self, x: self.step(self.act(x)),
}


@pytest.mark.parametrize("how", NEED_DATA)
def test_what_needs_data(how: str) -> None:
    ann, x = named(NEED_DATA[how]), torch.randn(4, 6)
    with pytest.raises(sjpc.ConfigError, match=r"needs data .*: the code of 0 \(Own\) names .* dataloader="):
        sjpc.replace_activations(nn.Sequential(ann), sjpc.ClipReLU)
    assert torch.equal(sjpc.replace_activations(ann, sjpc.ClipReLU, [x], v_threshold=1e6)(x), ann(x))


def test_what_needs_no_data() -> None:
    ann = named(lambda self, x: self.clipped(self.act(x)))
    replaced = sjpc.replace_activations(nn.Sequential(ann), sjpc.ClipReLU)
    assert isinstance(replaced[0].act, sjpc.ClipReLU)


def test_relus_with_several_names_need_data() -> None:
    relu = nn.ReLU()
    with pytest.raises(sjpc.ConfigError, match=r"1 \(ReLU\) has several names"):
        sjpc.replace_activations(nn.Sequential(nn.Linear(3, 3), relu, relu), sjpc.ClipReLU)


def test_the_message_names_three_modules() -> None:
    ann = nn.Sequential(*(named(NEED_DATA["function"]) for _ in range(5)))
    with pytest.raises(sjpc.ConfigError, match=r"0 \(Own\) names relu; .* 2 \(Own\) names relu, and 2 more"):
        sjpc.replace_activations(ann, sjpc.ClipReLU)
