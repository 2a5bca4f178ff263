"""Fine-tuning brings a converted network nearer to the ANN, or makes a loss less, and leaves the rest as it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from fine_tuned import ANN, BATCHES, UNSEEN, X, convert, error, same, tune
from in_parts import IMAGES, PARTS, detector
from in_parts import convert as convert_parts
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc


@pytest.fixture(scope="module")
def converted() -> sjpc.SpikingNetwork:
    return convert()


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@pytest.mark.parametrize("fold", [True, False])
def test_brings_unseen_outputs_nearer(mode: str, fold: bool) -> None:
    snn = convert(mode=mode, fold=fold)
    before = error(snn)
    result = tune(snn)
    assert error(snn) < 0.95 * before
    assert result.best > 0 and result.losses[result.best] == min(result.losses) and len(result.losses) == 4
    snn.execution = "packed"
    packed = snn.predict(UNSEEN)
    snn.execution = "stepwise"
    torch.testing.assert_close(snn.predict(UNSEEN), packed)
    assert "kept" in str(result).splitlines()[result.best + 1]


def test_what_is_not_trained_stays(converted: sjpc.SpikingNetwork) -> None:
    snn, ann, state = copy.deepcopy(converted), copy.deepcopy(ANN).train(), torch.get_rng_state()
    snn.train()
    snn.execution = "stepwise"
    flags = [(name, p.requires_grad) for name, p in snn.named_parameters()]
    sjpc.fine_tune(snn, ann, BATCHES, epochs=1, show_progress=False)
    assert same(ann, ANN) and ann.training and snn.training and snn.execution == "stepwise"
    assert [(name, p.requires_grad) for name, p in snn.named_parameters()] == flags
    assert all(p.grad is None for p in [*snn.parameters(), *ann.parameters()])
    assert torch.equal(state, torch.get_rng_state())


def test_a_window_begins_anew(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    snn(UNSEEN)
    tune(snn)
    assert torch.equal(snn(UNSEEN), snn.predict(UNSEEN))


def test_only_parameters_that_ask_for_a_gradient(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    last = snn.net.get_submodule("6")
    last.weight.requires_grad_(True)
    tune(snn)
    changed = [n for (n, p), q in zip(snn.named_parameters(), converted.parameters(), strict=True) if not p.equal(q)]
    assert changed == ["net.6.weight"] and last.weight.requires_grad


def test_by_default_the_weights_of_layers() -> None:
    snn = convert(keep=["2"])
    before = copy.deepcopy(snn)
    tune(snn)
    changed = {n for (n, p), q in zip(snn.named_parameters(), before.parameters(), strict=True) if not p.equal(q)}
    assert changed == {"net.0.weight", "net.6.weight"}


def test_all_parameters(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted).requires_grad_()
    before = error(snn)
    tune(snn)
    assert error(snn) < 0.95 * before
    pairs = zip(snn.parameters(), converted.parameters(), strict=True)
    assert all(p.requires_grad is not p.equal(q) for p, q in pairs)


def test_steps_that_do_harm_are_not_kept(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    with pytest.warns(UserWarning, match="has not made the network better"):
        result = tune(snn, learning_rate=0.9, epochs=2)
    assert result.best == 0 and same(snn, converted)
    snn.load_ann(ANN)  # its weights are still the ANN's


def test_a_trained_network_takes_no_other_weights(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    tune(snn)
    with pytest.raises(sjpc.ConversionError, match="not known"):
        snn.load_ann(ANN)


def test_the_best_epoch_is_kept(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    held_out = [UNSEEN]
    result = tune(snn, held_out=held_out, epochs=4, learning_rate=0.05)
    assert error(snn) == pytest.approx(min(result.losses), rel=2e-3)  # variances of samples, and of all


def test_labels(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    labels = X.mean((2, 3)).argmax(1)
    data = DataLoader(TensorDataset(X, labels), 32)
    before = F.cross_entropy(snn.predict(X), labels)
    tune(snn, data, ann=None, loss=F.cross_entropy, learning_rate=0.02)
    assert F.cross_entropy(snn.predict(X), labels) < before - 0.1


def test_zeros_of_pruned_layers_stay() -> None:
    snn = convert()
    layer = snn.net.get_submodule("2")
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    layer.weight.data[mask] = 0
    before = layer.weight.detach().clone()
    tune(snn)
    assert not layer.weight[mask].any() and not torch.equal(layer.weight, before)


def test_prepacked_networks_notice(converted: sjpc.SpikingNetwork) -> None:
    snn, packed = copy.deepcopy(converted), sjpc.prepack(converted)
    with torch.no_grad():
        packed.predict(UNSEEN)
        tune(snn)
        tune(packed)
        torch.testing.assert_close(packed.predict(UNSEEN), snn.predict(UNSEEN))
        assert not torch.allclose(packed.predict(UNSEEN), converted.predict(UNSEEN))


def test_dicts_and_parts() -> None:
    ann = detector()
    snn = convert_parts(ann, PARTS)
    distance = _distance(snn, ann)
    options = {"held_out": [IMAGES], "epochs": 10, "learning_rate": 0.01, "show_progress": False}
    result = sjpc.fine_tune(snn, ann, [IMAGES], **options)
    assert result.best > 0 and _distance(snn, ann) < distance == pytest.approx(result.losses[0])


@torch.no_grad()
def _distance(snn: nn.Module, ann: nn.Module) -> float:
    """As fine_tune measures it: each output of each image relative to its variance."""
    pairs = [(p[key], q[key]) for p, q in zip(snn(IMAGES), ann(IMAGES), strict=True) for key in q]
    errors = [(y - target).square().mean() / target.var(correction=0) for y, target in pairs if y.is_floating_point()]
    return float(sum(errors) / len(errors))


def test_patience(converted: sjpc.SpikingNetwork) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tune(copy.deepcopy(converted), epochs=8, patience=2, learning_rate=0.9)
    assert len(result.losses) - 1 - result.best == 2


def test_nan(converted: sjpc.SpikingNetwork) -> None:
    snn = copy.deepcopy(converted)
    calls = []

    def loss(output: Tensor, target: object) -> Tensor:
        calls.append(None)
        return output.square().mean() * (float("nan") if len(calls) > 8 else 1)

    with pytest.raises(sjpc.ConfigError, match="the loss is nan"):
        tune(snn, loss=loss)
    assert all(p.isfinite().all() for p in snn.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"epochs": 1.5}, "epochs must be"),
        ({"patience": 0}, "patience must be"),
        ({"learning_rate": 0}, "learning_rate must be between 0 and 1"),
        ({"learning_rate": "fast"}, "learning_rate must be"),
        ({"loss": "mse"}, "loss must be a function"),
        ({"loss": lambda output, target: 1.0}, "a tensor of one number"),
        ({"loss": lambda output, target: output}, "a tensor of one number"),
        ({"ann": None}, "fine_tune needs the ANN, or loss="),
    ],
)
def test_wrong_arguments(converted: sjpc.SpikingNetwork, options: dict, words: str) -> None:
    snn = copy.deepcopy(converted)
    with pytest.raises(sjpc.ConfigError, match=words):
        tune(snn, **options)
    assert same(snn, converted)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "dataloader is empty"),
        ([X[:3]], "too few samples to hold one out"),
        (None, "dataloader=None"),
        ([X[:, :2]], "the ANN cannot be run on the held-out samples: .*3 channels"),
    ],
)
def test_wrong_data(converted: sjpc.SpikingNetwork, batches: object, words: str) -> None:
    with pytest.raises(sjpc.DataError, match=words):
        tune(copy.deepcopy(converted), batches)


def test_wrong_networks(converted: sjpc.SpikingNetwork) -> None:
    with pytest.raises(sjpc.DataError, match="needs a converted network"):
        tune(ANN)
    with pytest.raises(sjpc.ConfigError, match="half precision"):
        tune(copy.deepcopy(converted).bfloat16())
