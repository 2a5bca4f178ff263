"""suggest_time_steps: what it says of a setting is what the network does on images that it was not calibrated on."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.inputs import Batch
from sj_parallel_conversion.suggestion.held_out_images import spread_over
from sj_parallel_conversion.suggestion.search import Search

DATA = torch.randn(160, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x).relu()).relu().amax((2, 3)))


ANN = Classifier().eval()
with torch.no_grad():
    LABELS = ANN(DATA).argmax(1)
LABELS[::20] = (LABELS[::20] + 1) % 4  # the ANN is not always right


class Loader:
    """Batches, and how often they were read."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors, self.readings = tensors, 0

    def __iter__(self) -> Iterator[object]:
        self.readings += 1
        yield from zip(*(x.split(64) for x in self.tensors), strict=True)


def suggest(loader: object, **options: object) -> sjpc.Suggestion:
    options = {"tolerance": 0.1, "show_progress": False, "calibration": "none", **options}
    return sjpc.suggest_time_steps(ANN, loader, **options)


def held_out_of(found: sjpc.Suggestion, data: Tensor = DATA) -> Tensor:
    """Which images were not fitted, told by their pixels."""
    fitted = torch.cat([batch.tensors[0] for batch in found.prepared.data.batches("")])
    return torch.tensor([not (fitted == x).flatten(1).all(1).any() for x in data])


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader(DATA, LABELS)


@pytest.fixture(scope="module")
def found(loader: Loader) -> sjpc.Suggestion:
    return suggest(loader)


def test_it_says_what_the_network_does_on_held_out_images(found: sjpc.Suggestion) -> None:
    held = held_out_of(found)
    assert 20 < held.sum() == found.images < 60
    measured = sjpc.evaluate(found.network, [(DATA[held], LABELS[held])], ANN, show_progress=False)
    assert found.chosen.accuracy == pytest.approx(measured.accuracy)
    assert found.chosen.agreement == pytest.approx(measured.agreement)
    accuracy = (ANN(DATA[held]).argmax(1) == LABELS[held]).double().mean().item()
    assert found.ann_accuracy == pytest.approx(accuracy)
    assert found.chosen.loss == pytest.approx(accuracy - measured.accuracy) and found.chosen.loss <= 0.1
    assert found.chosen.images == 160 - found.images


def test_spikes_are_those_of_the_trains(found: sjpc.Suggestion) -> None:
    some = DATA[held_out_of(found)][:: found.images // 16]
    counted = sjpc.count_operations(found.network, [some], show_progress=False)
    assert found.chosen.spikes == pytest.approx(counted.total("spikes"))


def test_the_choice_is_the_cheapest_of_the_curve(found: sjpc.Suggestion, loader: Loader) -> None:
    within = [row for row in found.curve if row.loss <= 0.1]
    assert found.chosen in found.curve and found.chosen.spikes == min(row.spikes for row in within)
    assert {row.mode for row in within} == {"parallel", "spikepack", "css"}
    assert (found.mode, found.time_steps) == (found.config.mode, found.config.time_steps)
    quick = suggest(loader, cost="time")
    assert quick.time_steps == min(row.time_steps for row in quick.curve if row.loss <= 0.1)


def test_the_loader_is_read_once_and_the_ann_left_alone() -> None:
    loader, before = Loader(DATA, LABELS), copy.deepcopy(ANN.state_dict())
    suggest(loader, modes=["css"], time_steps=[4])
    assert loader.readings == 1
    assert all(torch.equal(value, before[name]) for name, value in ANN.state_dict().items())


def test_the_network_is_that_of_its_preparation(found: sjpc.Suggestion) -> None:
    again = found.prepared.convert(mode=found.mode, time_steps=found.time_steps)
    assert torch.equal(again.predict(DATA), found.network.predict(DATA))
    fitted = [batch.tensors[0] for batch in found.prepared.data.batches("")]
    options = {"mode": found.mode, "time_steps": found.time_steps, "calibration": "none", "show_progress": False}
    torch.testing.assert_close(
        sjpc.ParallelConverter(fitted, **options).convert(ANN).predict(DATA), found.network.predict(DATA)
    )


def test_modes_with_as_many_levels_compute_the_same(found: sjpc.Suggestion) -> None:
    settings = [("parallel", 7), ("spikepack", 3), ("css", 3)]
    one, *others = (found.prepared.convert(mode=m, time_steps=T).predict(DATA) for m, T in settings)
    for other in others:
        torch.testing.assert_close(other, one)
    rows = {(row.mode, row.time_steps): row.accuracy for row in found.curve}
    assert rows["parallel", 3] == rows["spikepack", 2] == rows["css", 2]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), count=st.integers(1, 20))
def test_images_are_spread_over_all_batches(sizes: list[int], count: int) -> None:
    images = torch.arange(sum(sizes)).view(-1, 1)
    batches = [Batch((x,), (True,)) for x in images.split(sizes)]
    found = torch.cat([batch.tensors[0] for batch in spread_over(batches, count, whole=False)])
    assert torch.equal(found, images[:: max(1, len(images) // count)])
    assert {id(batch) for batch in spread_over(batches, count, whole=True)} <= set(map(id, batches))


def test_a_loss_of_just_the_tolerance_is_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "ann_accuracy", 1.0)
    monkeypatch.setattr(Search, "_correct", lambda self, network: (0.99, 1.0))
    assert suggest([(DATA, LABELS)], tolerance=0.01, modes=["css"], time_steps=[2]).chosen.loss > 0.01


def test_without_targets_the_tolerance_is_of_the_agreement() -> None:
    found = suggest([DATA], modes=["css"])
    assert found.ann_accuracy is None and found.chosen.accuracy is None
    assert found.chosen.loss == pytest.approx(1 - found.chosen.agreement) and found.chosen.loss <= 0.1
    assert "loss of agreement with the ANN of at most 10.00%" in str(found)


def test_copies_of_an_image_are_on_the_same_side() -> None:
    found = suggest(Loader(DATA.repeat(2, 1, 1, 1), LABELS.repeat(2)), modes=["css"])
    assert 2 * int(held_out_of(found).sum()) == found.images


def test_a_network_that_is_worse_than_its_sketch_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next setting is tried. The fifth answer would be asked for if more than one network were calibrated twice."""
    answers = iter([(0.99, 1.0), (0.5, 0.5), (0.9, 1.0), (0.97, 1.0)])
    monkeypatch.setattr(Search, "ann_accuracy", 1.0)
    monkeypatch.setattr(Search, "_correct", lambda self, network: next(answers))
    found = suggest([(DATA, LABELS)], modes=["css", "spikepack"], time_steps=[2, 3])
    assert found.time_steps == 3 and found.chosen.loss == pytest.approx(0.03)
    assert {(row.time_steps, row.accuracy) for row in found.curve} == {(2, 0.5), (3, 0.97)}


def test_printed(found: sjpc.Suggestion) -> None:
    lines = str(found).splitlines()
    assert lines[0].split() == ["mode", "T", "accuracy", "agreement", "loss", "spikes", "calibrated", "on"]
    (line,) = [line for line in lines if line.endswith("  chosen")]
    assert line.split()[:2] == [found.mode, str(found.time_steps)]
    assert f"on {found.images} held-out images, the ANN's accuracy on them is" in lines[-1]


def test_if_nothing_is_within_the_tolerance_the_curve_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "_correct", lambda self, network: (None, 0.5))
    with pytest.raises(sjpc.ConversionError, match=r"within tolerance=0\.0 on .*\n.*mode .*\nparallel +1 ") as caught:
        suggest([DATA], tolerance=0.0, modes=["parallel"], time_steps=[1])
    assert "larger time_steps" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 1.5}, "tolerance must be a number from 0 to 1, such as 0.01"),
        ({"tolerance": "1%"}, "tolerance must be a number"),
        ({"cost": "energy"}, "cost='energy' is unknown. Choose one of: 'spikes', 'time'"),
        ({"modes": ["fast"]}, "modes='fast' is unknown"),
        ({"modes": "css"}, r"modes must be a list such as"),
        ({"mode": "css"}, r"give modes=\['css'\]"),
        ({"time_steps": 8}, r"time_steps must be a list such as"),
        ({"time_steps": []}, r"time_steps must be a list such as"),
        ({"time_steps": [0]}, "time_steps must be an integer >= 1"),
        ({"submodules": ["a"]}, "captured as a whole"),
        ({"level": 3}, "unknown option 'level'"),
    ],
)
def test_arguments_that_cannot_be_used(options: dict[str, object], message: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=message):
        suggest([DATA], **options)


def test_data_that_cannot_be_used() -> None:
    with pytest.raises(sjpc.DataError, match=r"20 images are too few. One in 4 is held out.*128 images or more"):
        suggest([DATA[:20]])
    with pytest.raises(sjpc.DataError, match=r"compares classes, and the ANN's output has shape \[\d+, 1\]"):
        ann = nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.ReLU(), nn.Linear(5, 1)).eval()
        sjpc.suggest_time_steps(ann, [DATA], show_progress=False)
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        suggest([])
