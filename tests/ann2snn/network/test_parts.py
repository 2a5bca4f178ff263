"""Networks that were converted in parts: what they answer, their copies, names and options."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from in_parts import PARTS, convert, detector, refuse_huge, same
from nets import IMAGES
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import compat


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
@torch.no_grad()
def test_many_steps_approach_the_ann(calibration: str) -> None:
    model = detector().eval()
    snn = convert(model, PARTS, calibration=calibration, threshold="max", time_steps=2048)
    for expected, found in zip(model(IMAGES), snn(IMAGES), strict=True):
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=0.05, atol=0.05)


def test_the_model_is_left_as_it_was() -> None:
    model = detector().train()
    before = snapshot(model)
    snn = convert(model, PARTS)
    assert_unchanged(before, snapshot(model))
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert own.isdisjoint(t.untyped_storage().data_ptr() for t in [*snn.parameters(), *snn.buffers()])
    assert not snn.training and not any(m.training for m in snn.modules())


@torch.no_grad()
def test_executions_step_modes_and_copies_agree() -> None:
    snn = convert(detector(), PARTS)
    assert list(snn.parts) == PARTS and snn.time_steps == 4 and len(snn.neurons()) == 3
    expected = snn(IMAGES)
    for execution in ("packed", "spikes"):
        snn.execution = execution
        assert snn.execution == execution and same(snn(IMAGES), expected)
    for step_mode in ("m", "s"):
        functional.set_step_mode(snn, step_mode)
        functional.reset_net(snn)
        assert same(snn(list(IMAGES)), expected)
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert same(other.predict(IMAGES), expected)
    snn.execution = "stepwise"
    assert snn.execution == "stepwise"
    for one, other in zip(expected, snn(IMAGES), strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-3, atol=1e-3)


def test_conversion_is_deterministic() -> None:
    one, other = convert(detector(), PARTS), convert(detector(), PARTS)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_spikingjelly_s_converter_takes_submodules() -> None:
    argument = {compat.DIALECT.argument: "parallel", "dataloader": [IMAGES], "time_steps": 4, "show_progress": False}
    converter = compat.Converter(**argument)
    snn = getattr(converter, compat.DIALECT.method)(detector(), submodules=PARTS)
    assert same(snn(IMAGES), convert(detector(), PARTS)(IMAGES))


class Aliased(nn.Module):
    """Holds its encoder under many names, and calls it by one of them."""

    def __init__(self, called: str) -> None:
        super().__init__()
        self.called = called
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.features = self.encoder
        self.inner = nn.ModuleDict({"again": nn.ModuleList([self.encoder])})
        self.listed, self.pair, self.table = [self.encoder], (self.encoder, 1), {"a": {"b": [self.encoder]}}
        self.shared = self.listed
        object.__setattr__(self, "hidden", self.encoder)  # past nn.Module, as for modules that must have no name
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        refuse_huge(x)
        names = {
            "encoder": self.encoder, "features": self.features, "inner": self.inner["again"][0],
            "listed": self.listed[0], "pair": self.pair[0], "table": self.table["a"]["b"][0], "hidden": self.hidden,
        }  # fmt: skip
        return self.head(names[self.called](x))


NAMES = ["encoder", "features", "inner", "listed", "pair", "table", "hidden"]


@pytest.mark.parametrize("called", NAMES)
@torch.no_grad()
def test_every_name_of_a_part_is_replaced(called: str) -> None:
    torch.manual_seed(0)
    model = Aliased(called).eval()
    snn = convert(model, ["encoder"], time_steps=1, calibration="none")
    expected = snn.head(snn.parts["encoder"].predict(IMAGES))
    ran = []
    for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        for neuron in network.neurons():
            neuron.register_forward_hook(lambda *call: ran.append(1))
        assert torch.equal(network(IMAGES), expected)
        assert network.model.shared is network.model.listed
    assert len(ran) == 3, "the neurons of the part ran, once in each network"
    assert not torch.equal(expected, model(IMAGES))
    assert isinstance(model.listed[0], nn.Sequential) and model.pair[0] is model.encoder, "the ANN's are its own"


def test_a_part_may_be_called_by_another_name() -> None:
    torch.manual_seed(0)
    model = Aliased("encoder").eval()
    one, other = (convert(model, [name], calibration="none") for name in ("encoder", "features"))
    assert torch.equal(one(IMAGES), other(IMAGES)) and len(other.parts) == 1


def in_two(first: nn.Module, change: object = lambda model: None) -> nn.Sequential:
    """A model whose first part has been changed, run once, as in training."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(first, nn.ReLU()), nn.Flatten(), nn.Linear(400, 5))
    change(first)
    model(IMAGES)
    return model.eval()


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
    ids=["pruned", "weight_norm", "spectral_norm", "new weight_norm", "new spectral_norm"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_parts_with_computed_weights(change) -> None:
    with torch.enable_grad():  # results of computations are what deepcopy refuses
        model = in_two(nn.Conv2d(3, 4, 3), change)
    snn = convert(model, ["0"], time_steps=1024, threshold="max", calibration="none")
    torch.testing.assert_close(snn(IMAGES), model(IMAGES), rtol=0, atol=0.01)
    assert snn.load_state_dict(snn.state_dict()).missing_keys == []
    assert torch.equal(pickle.loads(pickle.dumps(snn.parts["0"])).predict(IMAGES), snn.parts["0"].predict(IMAGES))


@pytest.mark.parametrize("model", [None, nn.ReLU, torch.jit.trace(nn.Sequential(nn.ReLU()), IMAGES)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_model(model: object) -> None:
    with pytest.raises(sjpc.ConversionError, match=r"must be a torch\.nn\.Module|TorchScript"):
        convert(model, ["0"])


def test_options_act_or_are_refused() -> None:
    snn = convert(in_two(nn.Conv2d(3, 4, 3)), ["0"], mode="css")
    for name, value, says in (
        ("serial", True, "serial was replaced by execution"),
        ("step_by_step", True, "step_by_step was replaced by execution"),
        ("backend", "cuda", "submodule '0': .*backend='cuda'"),
        ("execution", "fast", "submodule '0': .*execution='fast'"),
        ("step_mode", "m", "has no step mode"),
        ("time_steps", 8, "time_steps is an option of the conversion"),
    ):
        with pytest.raises(sjpc.ConfigError, match=says):
            setattr(snn, name, value)
        assert snn.execution == "spikes" and snn.backend == "torch" and snn.time_steps == 4
    snn.execution = "serial"
    assert {site.node.serial for site in snn.neurons()} == {True}
    functional.set_step_mode(snn, "m")
    with pytest.raises(sjpc.DataError, match=r"sequence \[T=4, N, ...\] of shape \[4, 4, 3, 12, 12\]"):
        snn(IMAGES.expand(4, *IMAGES.shape))
    with pytest.raises(sjpc.DataError, match="sequence"):
        snn.predict(input=IMAGES.expand(4, *IMAGES.shape))


def test_evaluation_records_no_gradient() -> None:
    """Nor do the layers outside of the parts, unless the network is to be trained."""
    snn = convert(detector(), PARTS)
    snn(IMAGES)[0]["scores"].numpy()
    assert snn.requires_grad_() is snn and snn(IMAGES)[0]["scores"].requires_grad
    dead = [site.node.v_threshold for site in snn.neurons() if site.node.folded_input and site.node.folded_output]
    assert dead and not any(parameter.requires_grad for parameter in dead)
    assert all(parameter.requires_grad for parameter in convert(detector(), PARTS, fold=False).parameters())
