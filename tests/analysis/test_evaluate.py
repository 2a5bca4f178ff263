"""evaluate gives the figures of a loop by hand, for converted networks, ANNs and networks of SpikingJelly."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

G = torch.Generator().manual_seed(0)
X = torch.randn(30, 6, generator=G)
Y = torch.randint(0, 4, (30,), generator=G)
LOADER = [(x, y) for x, y in zip(X.split(8), Y.split(8), strict=True)]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def convert(ann: nn.Module, loader: object = LOADER, **options: object) -> nn.Module:
    return sjpc.ParallelConverter(loader, show_progress=False, **{"time_steps": 2, **options}).convert(ann)


def evaluate(network: nn.Module, loader: object = LOADER, **options: object) -> sjpc.Evaluation:
    return sjpc.evaluate(network, loader, show_progress=False, **options)


def share(hits: Tensor) -> float:
    return hits.double().mean().item()


def test_figures_of_a_converted_network_and_of_its_ann() -> None:
    ann = classifier()
    snn = convert(ann)
    with torch.no_grad():
        expected, spiking = ann(X).argmax(1), snn.predict(X).argmax(1)
    assert not torch.equal(expected, spiking)
    found = evaluate(snn, ann=ann)
    assert (found.images, found.accuracy) == (30, pytest.approx(share(spiking == Y)))
    assert found.agreement == pytest.approx(share(spiking == expected))
    assert found.images_per_second > 0
    of_ann = evaluate(ann)
    assert of_ann.accuracy == pytest.approx(share(expected == Y)) and of_ann.agreement is None
    assert "accuracy" in str(found) and "agreement" in str(found) and "agreement" not in str(of_ann)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (Y.float(), r"no accuracy: the targets are torch.float32 \[30\]"),
        (F.one_hot(Y, 4), r"no accuracy: the targets are torch.int64 \[30, 4\]"),
        (Y[:7], r"no accuracy: the targets are torch.int64 \[7\]"),
        (Y + 1, "targets go from 1 to 4, and the network has the classes 0 to 3"),
        (Y - 1, "targets go from -1 to 2, and the network has the classes 0 to 3"),
    ],
)
def test_targets_of_no_use_are_spoken_of(targets: Tensor, words: str) -> None:
    with pytest.warns(UserWarning, match=words) as caught:
        found = evaluate(classifier(), [(X, targets), (X, targets)])
    assert len(caught) == 1 and caught[0].filename == __file__
    assert (found.accuracy is None) == ("no accuracy" in words)


def test_an_ann_with_other_classes_is_refused() -> None:
    with pytest.raises(sjpc.DataError, match=r"cannot be compared: they are \[8, 4\] and \[8, 5\]"):
        evaluate(classifier(), ann=nn.Linear(6, 5))


def test_a_dict_of_inputs_with_labels_and_an_output_of_the_anns_own_type() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, values: Tensor, scale: Tensor | None = None, labels: Tensor | None = None) -> dict:
            h = F.relu(self.a(values))
            return {"hidden": h, "logits": self.b(h) if scale is None else self.b(h) * scale}

    torch.manual_seed(1)
    ann = Model().eval()
    loader = [{"labels": y, "values": x} for x, y in LOADER]
    snn = convert(ann, loader)
    for network in (ann, snn):
        with torch.no_grad():
            logits = (network(X) if network is ann else network.predict(X))["logits"]
        assert evaluate(network, loader).accuracy == pytest.approx(share(logits.argmax(1) == Y))


def test_a_model_that_is_converted_in_parts() -> None:
    ann = nn.Sequential(OrderedDict(body=classifier()[:2], head=nn.Linear(16, 4))).eval()
    snn = sjpc.ParallelConverter(LOADER, show_progress=False, time_steps=2).convert(ann, submodules=["body"])
    with torch.no_grad():
        classes = snn(X).argmax(1)
    assert evaluate(snn, ann=ann).accuracy == pytest.approx(share(classes == Y))


def test_maps_of_classes_are_compared_place_by_place() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    x, y = torch.randn(4, 3, 6, 6), torch.randint(0, 5, (4, 6, 6))
    with torch.no_grad():
        assert evaluate(ann, [(x, y)]).accuracy == pytest.approx(share(ann(x).argmax(1) == y))


def test_a_single_logit_is_no_choice_of_a_class() -> None:
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    found = evaluate(ann, [(X, torch.zeros(30, dtype=torch.long))], ann=ann)
    assert (found.images, found.accuracy, found.agreement) == (30, None, None)


def test_objects_found_in_images_are_no_scores() -> None:
    class Detector(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{"boxes": torch.zeros(n, 4), "labels": torch.zeros(n, dtype=torch.long)} for n in (0, 3)]

    loader = [([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], [{"boxes": torch.zeros(1, 4)}] * 2)]
    found = evaluate(Detector(), loader, ann=Detector(), metrics=lambda answer, target: len(answer) + len(target))
    assert (found.images, found.accuracy, found.agreement) == (2, None, None)
    assert found.metrics == {"<lambda>": 4.0}


def test_targets_that_are_no_classes_give_no_accuracy() -> None:
    assert evaluate(classifier(), [(X, torch.randn(30, 4))]).accuracy is None
    assert evaluate(classifier(), [X]).accuracy is None


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_networks_of_spikingjelly(step_mode: str) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(layer.Linear(6, 16), neuron.IFNode(), layer.Linear(16, 4), neuron.LIFNode(tau=1.5)).eval()
    functional.set_step_mode(net, step_mode)
    with torch.no_grad():
        if step_mode == "m":
            y = net(X.expand(5, *X.shape)).mean(0)
        else:
            y = sum(net(X) for _ in range(5)) / 5
    functional.reset_net(net)
    found = evaluate(net, [(X, Y)], time_steps=5)
    assert found.accuracy == pytest.approx(share(y.argmax(1) == Y))
    # batches of another size after it find a network that was reset
    assert evaluate(net, time_steps=5).images == 30
    for steps in (None, torch.tensor(2.5)):
        with pytest.raises(sjpc.ConfigError, match="give time_steps"):
            evaluate(net, time_steps=steps)


class Metric:
    """As those of torchmetrics."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, output: Tensor, target: Tensor) -> None:
        self.total += float(F.cross_entropy(output, target, reduction="sum"))
        self.count += len(target)

    def compute(self) -> Tensor:
        return torch.tensor(self.total / self.count)


def test_metrics_of_both_kinds() -> None:
    ann = classifier()
    with torch.no_grad():
        loss = float(F.cross_entropy(ann(X), Y))
    metric = Metric()
    metric.update(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))  # of an earlier use
    found = evaluate(ann, metrics={"loss": metric, "mean loss": F.cross_entropy}).metrics
    assert float(found["loss"]) == pytest.approx(loss) and found["mean loss"] == pytest.approx(loss)
    assert list(evaluate(ann, metrics=F.cross_entropy).metrics) == ["cross_entropy"]
    with pytest.raises(sjpc.ConfigError, match="metrics: 'm' is 3"):
        evaluate(ann, metrics={"m": 3})


def test_networks_stay_in_the_mode_they_are_in() -> None:
    ann = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4)).train()
    ann[2].eval()
    modes = [module.training for module in ann.modules()]
    accuracies = {evaluate(ann).accuracy for _ in range(3)}
    assert [module.training for module in ann.modules()] == modes and len(accuracies) == 1


def test_inputs_are_cast_to_the_networks_dtype() -> None:
    assert evaluate(classifier().double()).accuracy == pytest.approx(evaluate(classifier()).accuracy)


def test_an_iterator_is_not_kept() -> None:
    alive: list[weakref.ref] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(20):
            x = X.clone()
            alive.append(weakref.ref(x))
            yield x, Y
            del x
            assert sum(ref() is not None for ref in alive) <= 2

    assert evaluate(classifier(), batches()).images == 20 * len(X)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        evaluate(classifier(), [])
    with pytest.raises(sjpc.DataError, match="batch 1 cannot be run by the network"):
        evaluate(classifier(), [X, torch.randn(2, 7)])
    with pytest.raises(sjpc.DataError, match="the input of ConvertedNetwork is not clear"):
        evaluate(convert(classifier()), [{"a": X, "b": X}])
    with pytest.raises(sjpc.ConfigError, match="must be a torch"):
        evaluate(lambda x: x)
    with pytest.raises(sjpc.ConfigError, match="converted with T = 2"):
        evaluate(convert(classifier()), time_steps=4)
    with pytest.raises(sjpc.ConfigError, match="has no spiking neurons, so it has no time"):
        evaluate(classifier(), time_steps=4)
