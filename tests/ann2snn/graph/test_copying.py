"""What is captured: a plain copy without wrappers; and what cannot be converted is told by name."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from captured import captured
from nets import IMAGES, net
from spikingjelly.activation_based import layer, neuron
from torch import nn
from torch.nn.utils import parametrizations, prune
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph

QUICK = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}


def convert(ann: nn.Module, batch: object = IMAGES) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([batch], **QUICK).convert(ann)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))


def spiking() -> nn.Module:
    return convert(network())


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compile": torch.compile,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
    "inside": lambda model: nn.Sequential(nn.DataParallel(torch.compile(model[:2])), *model[2:]),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@torch.no_grad()
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    expected, wrapped = convert(network()), wrap(network())
    modules = list(wrapped.modules())
    snn = convert(wrapped)
    assert len(snn.neurons()) == 1
    assert torch.equal(snn.predict(IMAGES), expected.predict(IMAGES))
    assert all(a is b for a, b in zip(wrapped.modules(), modules, strict=True)), "the model is as it was"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: None, "must be a torch.nn.Module, got NoneType"),
        (lambda: nn.ReLU, "must be a torch.nn.Module, got type"),
        (spiking, r"SpikingNetwork spikes already.*model \(SpikingNetwork\)"),
        (lambda: nn.Sequential(spiking(), nn.ReLU()), r"spikes already.*0 \(SpikingNetwork\)"),
        (lambda: nn.Sequential(nn.Linear(3, 3), neuron.IFNode(), nn.ReLU()), r"spikes already.*1 \(IFNode\)"),
        (lambda: nn.Sequential(nn.ReLU(), sjpc.TSANode(4)), r"spikes already.*1 \(TSANode\)"),
        (lambda: nn.Sequential(nn.ReLU(), layer.Dropout()), r"keeps a state over time: 1 \(Dropout\)"),
        (lambda: torch.jit.trace(network(), IMAGES), "compiled by TorchScript: model"),
        (lambda: nn.Sequential(torch.jit.trace(network(), IMAGES), nn.ReLU()), r"TorchScript: 0 \("),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.ReLU()), r"0\.weight of Sequential has no shape yet"),
        (lambda: network().to("meta"), "has parameters without values"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_that_are_refused(make: Callable[[], object], says: str) -> None:
    model = make()
    for call in (convert, graph.plain_copy):
        with pytest.raises(sjpc.ConversionError, match=says):
            call(model)


def test_layers_of_spikingjelly_without_state_convert() -> None:
    ann = nn.Sequential(layer.Conv2d(3, 4, 3), nn.ReLU(), layer.Flatten(), layer.Linear(400, 5))
    assert len(convert(ann).neurons()) == 1


@pytest.mark.parametrize("name", ["shared relu", "concatenated", "conv 2d"])
def test_the_original_is_left_as_it_was(name: str) -> None:
    ann, x = net(name)
    ann.train()
    next(ann.parameters()).requires_grad_(False)
    before = snapshot(ann)
    model, _ = captured(ann, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_unchanged(before, snapshot(ann))
    assert not any(module.training for module in model.modules())
    storages = {p.untyped_storage().data_ptr() for p in [*ann.parameters(), *ann.buffers()]}
    assert storages.isdisjoint(p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()])


def test_what_is_frozen_stays_frozen() -> None:
    ann, x = net("mlp")
    ann[0].weight.requires_grad_(False)
    model, _ = captured(ann, x)
    assert not model.get_submodule("0").weight.requires_grad and model.get_submodule("0").bias.requires_grad


def test_a_model_that_cannot_be_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model.last = threading.Lock()
    with pytest.raises(sjpc.ConversionError, match="Sequential cannot be copied"):
        graph.plain_copy(model)


def test_a_model_that_holds_results_can_be_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model.last = model(torch.ones(1, 3))  # deepcopy refuses results of a forward pass
    assert not graph.plain_copy(model).last.requires_grad
    assert model.last.requires_grad


def test_backward_hooks_stay_with_the_model() -> None:
    """A calibration with gradients is no training of the user's."""
    (ann, x), calls = net("mlp"), []
    for module in ann.modules():
        module.register_full_backward_hook(lambda *args: calls.append("after"))
        module.register_full_backward_pre_hook(lambda *args: calls.append("before"))
    captured(ann, x)[0](x)[0].sum().backward()
    assert not calls
    ann(x.requires_grad_()).sum().backward()
    assert "before" in calls and "after" in calls


COMPUTED_WEIGHTS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruning of bias and weight": lambda layer: [prune.l1_unstructured(layer, n, 0.5) for n in ("bias", "weight")],
}


@pytest.mark.parametrize("change", COMPUTED_WEIGHTS.values(), ids=COMPUTED_WEIGHTS)
@pytest.mark.parametrize("calibration", ["none", "weights"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_are_computed_at_each_call(change: Callable, calibration: str, training: bool) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    change(ann[0]), change(ann[4])
    ann.train(training)
    state, modules = copy.deepcopy(ann.state_dict()), [type(module) for module in ann.modules()]
    options = QUICK | {"time_steps": 64, "calibration": calibration}
    snn = sjpc.ParallelConverter([IMAGES], **options).convert(ann)
    names = {key.rpartition(".")[2] for key in snn.state_dict()}
    assert names <= {"weight", "bias", "v_threshold", "shift", "amplitude", "_extra_state"}
    assert all(torch.equal(value, state[key]) for key, value in ann.state_dict().items())
    assert [type(module) for module in ann.modules()] == modules and ann(IMAGES).requires_grad
    ann.load_state_dict(state)
    with torch.no_grad():
        expected = ann.eval()(IMAGES)
        assert (snn.predict(IMAGES) - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
def test_what_was_converted_in_inference_mode_can_be_trained(calibration: str) -> None:
    with torch.inference_mode():
        snn = sjpc.ParallelConverter([IMAGES], **QUICK | {"calibration": calibration}).convert(network())
    snn.requires_grad_().predict(IMAGES).sum().backward()
    trained = [parameter for parameter in snn.parameters() if parameter.requires_grad]
    assert snn.net.get_submodule("0").weight.requires_grad
    assert all(parameter.grad is not None for parameter in trained)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_converted_is_in_evaluation_mode(training: bool) -> None:
    assert not any(module.training for module in convert(network().train(training)).modules())
