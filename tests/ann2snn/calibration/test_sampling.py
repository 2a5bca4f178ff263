"""Places that samples come from."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration.samples import Samples
from sj_parallel_conversion.ann2snn.calibration.sampling import spread, spread_over
from sj_parallel_conversion.ann2snn.placement.sites import Site

# the package has a function of this name
least_squares = importlib.import_module("sj_parallel_conversion.ann2snn.calibration.least_squares")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("images", "size"), [(2048, 7), (16384, 7), (512, 14), (1024, 28), (1024, 8)])
def test_all_places_of_a_map_are_seen_equally_often(images: int, size: int) -> None:
    pixels = size * size
    places = spread_over([64 * pixels] * (images // 64), 16_384, generator())
    assert sum(map(len, places)) == 16_384
    counts = torch.bincount(torch.cat(places) % pixels, minlength=pixels).double()
    expected = 16_384 / pixels
    assert (counts - expected).abs().max() < 6 * expected**0.5


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 500))
def test_places_lie_within_their_batches_and_over_all_of_them(lengths: list[int], count: int) -> None:
    places = spread_over(lengths, count, generator())
    assert [len(p) and (int(p.min()) >= 0 and int(p.max()) < n) for p, n in zip(places, lengths, strict=True)]
    total = sum(lengths)
    assert sum(map(len, places)) == min(count, total)
    for p, n in zip(places, lengths, strict=True):
        assert all(p.diff() >= 0)
        assert abs(len(p) - n * min(count, total) / total) < 2
    if count >= total:
        assert all(p.tolist() == list(range(n)) for p, n in zip(places, lengths, strict=True))


def test_each_row_has_places_of_its_own() -> None:
    places = spread(49, 8, generator(), rows=100)
    assert places.shape == (100, 8)
    assert len(places.unique()) == 49


@pytest.mark.parametrize("channel_dim", [1, 2, -1, None])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_at_places_are_those_of_the_channels(channel_dim: int | None, layout: torch.memory_format) -> None:
    x = torch.randn(4, 3, 5, 6).to(memory_format=layout)
    site = Site("relu", torch.nn.ReLU(), channel_dim)
    places = torch.tensor([0, 3, 3, 11, site.count(x) - 1])
    assert torch.equal(site.at(x, places), site.by_channel(x)[:, places])
    assert torch.equal(site.at(x, torch.arange(site.count(x))), site.by_channel(x))


@pytest.mark.parametrize("calibration", ["least_squares", "weights"])
def test_samples_of_a_neuron_are_pairs(calibration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input's one channel says where a value comes from, and the layer passes it on."""
    seen = {}

    def fit(neuron: object, z1: torch.Tensor, z0: torch.Tensor, y: torch.Tensor, *rest: object) -> None:
        if not seen:  # cheaper calibrations are looked at afterwards
            seen.update(z1=z1, z0=z0, y=y)

    monkeypatch.setattr(least_squares, "fit_neuron", fit)
    monkeypatch.setattr(least_squares, "_SAMPLES", 500)
    head = torch.nn.Linear(98, 3)
    layer = torch.nn.Conv2d(1, 2, 1, bias=False)
    layer.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    ann = torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Flatten(), head).eval()
    places = torch.arange(1.0, 50).view(1, 1, 7, 7).expand(16, 1, 7, 7)
    images = torch.arange(96).view(6, 16, 1, 1, 1)
    loader = [places + 0.001 * i for i in images]
    options = {"calibration": calibration, "distillation_epochs": 0, "show_progress": False}
    sjpc.ParallelConverter(loader, **options).convert(ann)
    z1 = seen["z1"]
    assert z1.shape[1] > 500, "the largest value of each image comes after the samples"
    z1, seen["z0"], seen["y"] = z1[:, :500], seen["z0"][:, :500], seen["y"][:, :500]
    assert len(z1[0].floor().unique()) == 49, "all places"
    assert len(z1[0].frac().mul(1000).round().unique()) == 84, "all images but the twelve that judge"
    torch.testing.assert_close(z1[1], 2 * z1[0])
    torch.testing.assert_close(seen["z0"], z1)
    torch.testing.assert_close(seen["y"], z1.relu())


def test_weights_of_the_errors_are_of_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(least_squares, "fit_neuron", lambda *args: seen.append((args[1], args[8])))
    monkeypatch.setattr(least_squares, "_SAMPLES", 300)

    class Weights:
        def weights(self, name: str) -> list[torch.Tensor]:
            return [3 * x for x in batches]

    batches = [torch.randn(8, 1, 7, 7) for _ in range(4)]
    snn = torch.nn.Sequential(torch.nn.Identity())
    snn[0].node = sjpc.ParallelConversionNode(4)
    ann = torch.nn.Sequential(torch.nn.ReLU())
    site, node = Site("0", ann[0], 1), torch.fx.symbolic_trace(ann).graph.find_nodes(op="call_module", target="0")[0]
    visitor = least_squares.FitNeurons(ann, snn, [site], sjpc.ConversionConfig(), Weights())
    visitor.before(node, batches, batches)
    ((z1, weight),) = seen
    torch.testing.assert_close(weight[:, :300], 3 * z1[:, :300])


@pytest.mark.parametrize("channel_dim", [None, 1])
def test_a_batch_without_a_peak(channel_dim: int | None) -> None:
    """The largest value of the second batch was sampled, those of the first were not."""
    batches = [torch.ones(2, 3, 4) * torch.tensor([2.0, 3.0]).view(2, 1, 1), torch.ones(2, 3, 4)]
    site = Site("relu", torch.nn.ReLU(), channel_dim)
    places = [torch.tensor([], dtype=torch.long), torch.tensor([0])]
    samples = Samples(site, batches, batches, site.activation, places)
    assert samples.y.tolist() == [[1.0, 2.0, 3.0]] * (3 if channel_dim else 1)
    assert torch.equal(samples.of(batches), samples.y)
