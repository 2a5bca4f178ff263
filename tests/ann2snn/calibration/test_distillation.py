"""Outputs come nearer to the ANN's, nothing but weights changes, and what would do harm leaves no trace."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration import distillation

IMAGES = 192


def network(head: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 5)) if head is None else head
    return nn.Sequential(*body, *head).eval()


def images(n: int = IMAGES, seed: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def convert(ann: nn.Module, batches: list[Tensor], **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 1, "calibration": "weights", "show_progress": False} | options
    return sjpc.ParallelConverter(batches, **options).convert(ann)


def error(snn: sjpc.SpikingNetwork, ann: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        y = ann(x)
        return float((snn.predict(x) - y).square().mean() / y.var())


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@pytest.mark.parametrize("fold", [True, False])
def test_brings_unseen_outputs_nearer(mode: str, fold: bool) -> None:
    ann, x, unseen = network(), images(), images(seed=3)
    plain, distilled = (
        convert(ann, [x], mode=mode, fold=fold, calibration="none", distillation_epochs=epochs) for epochs in (0, 10)
    )
    assert error(distilled, ann, unseen) < 0.95 * error(plain, ann, unseen)


def test_only_weights_behind_spikes_change() -> None:
    ann, x = network(), images()
    plain, distilled = (convert(ann, [x], fold=False, distillation_epochs=epochs).state_dict() for epochs in (0, 3))
    changed = {name for name, value in plain.items() if not torch.equal(value, distilled[name])}
    assert changed == {"net.2.weight", "net.6.weight"}


@pytest.mark.parametrize("fold", [False, True])
def test_the_ann_and_the_flags_stay(fold: bool) -> None:
    ann, x = network(), images()
    before = copy.deepcopy(ann.state_dict())
    plain, distilled = (convert(ann, [x], fold=fold, distillation_epochs=epochs) for epochs in (0, 3))
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    flags = [{name: p.requires_grad for name, p in snn.named_parameters()} for snn in (plain, distilled)]
    assert flags[0] == flags[1]
    assert all(p.grad is None for p in [*ann.parameters(), *distilled.parameters()])
    assert distilled.execution == plain.execution
    distilled.execution = "spikes"
    spikes = distilled.predict(x)
    distilled.execution = "packed"
    assert torch.equal(spikes, distilled.predict(x))


def test_is_deterministic_and_streams() -> None:
    ann, x = network(), images()
    snns = [convert(ann, list(x.split(48)), **options) for options in ({}, {}, {"max_memory": 0})]
    outputs = [snn.predict(x) for snn in snns]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def weights_of(snn: sjpc.SpikingNetwork) -> list[Tensor]:
    return [m.weight for m in snn.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def same(first: sjpc.SpikingNetwork, second: sjpc.SpikingNetwork) -> bool:
    return all(map(torch.equal, weights_of(first), weights_of(second)))


MAPS = nn.Sequential(nn.Conv2d(6, 2, 1))


@pytest.mark.parametrize(
    ("head", "options", "distilled"),
    [
        (None, {}, True),
        (None, {"calibration": "least_squares"}, False),
        (None, {"calibration": "none"}, False),
        (None, {"time_steps": 256}, False),  # nothing to gain
        (MAPS, {}, False),  # no classes
        (None, {"calibration": "none", "distillation_epochs": 2}, True),
        (MAPS, {"calibration": "none", "distillation_epochs": 2}, True),
    ],
)
def test_by_default_only_classifiers_with_an_error(head: nn.Module | None, options: dict, distilled: bool) -> None:
    ann, x = network(head), images(64)
    plain = convert(ann, [x], **{**options, "distillation_epochs": 0})
    assert same(convert(ann, [x], **options), plain) is not distilled


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.constant = network(), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.body(x)
        return {"logits": y, "first": y[:, 0], "constant": 0 * y + self.constant, "names": ["a"]}


def test_several_outputs() -> None:
    ann, x = TwoOutputs().eval(), images()
    found = []
    for epochs in (0, 5):
        snn = convert(ann, [x], calibration="none", distillation_epochs=epochs)
        found.append((snn.predict(x)["logits"] - ann(x)["logits"]).square().sum())
    assert found[1] < found[0]


def assert_not_distilled(ann: nn.Module, x: Tensor, why: str, **options: object) -> None:
    plain = convert(ann, [x], **{**options, "distillation_epochs": 0})
    with pytest.warns(UserWarning, match=f"calibrated, but not distilled: {why}"):
        snn = convert(ann, [x], **options)
    assert same(snn, plain)


@pytest.mark.parametrize("rate", [50.0, math.nan])
def test_what_leads_astray_leaves_no_trace(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "_RATE", rate)
    assert_not_distilled(network(), images(64), "gradient steps make the outputs worse")


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("no memory"), RuntimeError("DefaultCPUAllocator: no")])
def test_lack_of_memory_loses_nothing(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch.optim.Adam, "step", fail)
    assert_not_distilled(network(), images(64), str(error))


class OnlyWholeBatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(x.view(-1, 10, 8).mean(1))


def test_networks_that_take_whole_batches_only() -> None:
    ann, x = OnlyWholeBatches().eval(), torch.randn(80, 6)
    batches = list(x.split(40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn = convert(ann, batches, time_steps=2, fold=False, distillation_epochs=1)
    assert not same(snn, convert(ann, batches, time_steps=2, fold=False, distillation_epochs=0))


class Returning(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.body, self.what = network(), what

    def forward(self, x: Tensor) -> object:
        y = self.body(x)
        choices = {
            "classes": lambda: y.argmax(1),
            "unit vectors": lambda: y / y.norm(dim=1, keepdim=True),
            "an empty part": lambda: (y, y[:, :0]),
            "a root": lambda: (torch.relu(y) * torch.relu(-y.flip(1))).sqrt(),
        }
        return choices[self.what]()


def test_no_floating_output() -> None:
    assert_not_distilled(Returning("classes").eval(), images(64), "the ANN has no finite", distillation_epochs=2)


def test_an_infinite_gradient() -> None:
    assert_not_distilled(Returning("a root").eval(), images(64), "gradient steps", distillation_epochs=2)


def test_images_without_a_finite_output_are_left_out() -> None:
    ann, x = Returning("unit vectors").eval(), images(64)
    for m in ann.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            m.bias = None
    x[:6] = 0  # 0 / 0
    assert not same(convert(ann, [x], time_steps=2), convert(ann, [x], time_steps=2, distillation_epochs=0))


def test_empty_outputs() -> None:
    ann, x = Returning("an empty part").eval(), images(64)
    assert not same(convert(ann, [x], distillation_epochs=1), convert(ann, [x], distillation_epochs=0))


def test_what_is_no_classifier_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    outputs = distillation.outputs
    monkeypatch.setattr(distillation, "outputs", lambda model, x: seen.append(x.size) or outputs(model, x))
    convert(network(MAPS), [images(64)])
    assert seen == [16]


def test_an_interruption_leaves_the_ann(monkeypatch: pytest.MonkeyPatch) -> None:
    ann, x = network(), images(64)
    before, flags = copy.deepcopy(ann.state_dict()), [p.requires_grad for p in ann.parameters()]

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(ann, [x])
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert [p.requires_grad for p in ann.parameters()] == flags


def test_an_outlier_does_not_decide() -> None:
    ann, x = network(), images()
    spoilt = torch.cat([x, 1e4 * x[:1]])
    unseen = images(seed=3)
    plain, distilled = (convert(ann, [spoilt], time_steps=2, distillation_epochs=epochs) for epochs in (0, 10))
    assert not same(plain, distilled)
    assert error(distilled, ann, unseen) < 1.1 * error(plain, ann, unseen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_floats(dtype: torch.dtype) -> None:
    ann, x = network().to(dtype), images()
    plain, distilled = (convert(ann, [x], calibration="none", distillation_epochs=epochs) for epochs in (0, 10))
    assert {w.dtype for w in weights_of(distilled)} == {dtype}
    assert error(distilled, ann, x.to(dtype)) < error(plain, ann, x.to(dtype))


@pytest.mark.parametrize("batches", [[1], [3], [1, 2, 30]])
def test_few_images_and_batches_of_any_size(batches: list[int]) -> None:
    ann, x = network(), images(sum(batches))
    assert torch.isfinite(convert(ann, list(x.split(batches)), distillation_epochs=2).predict(x)).all()


def test_batches_of_different_image_sizes() -> None:
    ann = network()
    batches = [images(40), torch.randn(40, 3, 12, 12)]
    plain, distilled = (convert(ann, batches, calibration="none", distillation_epochs=epochs) for epochs in (0, 10))
    assert sum(error(distilled, ann, x) for x in batches) < sum(error(plain, ann, x) for x in batches)


def test_inference_tensors() -> None:
    with torch.inference_mode():
        x = images(64)
        snn = convert(network(), [x])
    assert same(snn, convert(network(), [images(64)]))


def test_a_trained_quantiser_is_not_touched() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), sjpc.QCFS(4, 0.7), nn.Linear(8, 8), sjpc.QCFS(4, 1.1), nn.Linear(8, 3)]
    ann, x = nn.Sequential(*layers).eval(), torch.randn(64, 6)
    snn = convert(ann, [x], time_steps=4)
    assert torch.equal(snn.predict(x), ann(x))


def test_nothing_to_train_behind_the_first_layer() -> None:
    ann, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU()).eval(), torch.randn(64, 6)
    assert_not_distilled(ann, x, "there is no convolution or linear layer", distillation_epochs=2)
    with warnings.catch_warnings():  # where it was not asked for, there is nothing to say
        warnings.simplefilter("error")
        convert(ann, [x])


def test_shared_weights_are_trained_once() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    ann = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(128, 6)
    plain, distilled = (convert(ann, [x], calibration="none", distillation_epochs=epochs) for epochs in (0, 10))
    assert error(distilled, ann, x) < error(plain, ann, x)
