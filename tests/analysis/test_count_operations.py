"""count_operations counts what a loop over the trains counts."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.analysis.energy import HOROWITZ_45NM
from sj_parallel_conversion.analysis.events import reached_synapses

X = torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Strides, groups, dilation, a residual addition, both poolings and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 12, 2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        x = F.relu(x + self.c(x))
        x = F.relu(self.d(F.max_pool2d(x, 2)))
        return self.fc(x.mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def convert(ann: nn.Module, **options: object) -> nn.Module:
    return sjpc.ParallelConverter([X], show_progress=False, **options).convert(ann)


def count(snn: nn.Module, loader: object = None, **options: object) -> sjpc.OperationCount:
    return sjpc.count_operations(snn, [X] if loader is None else loader, show_progress=False, **options)


def fan_out_by_hand(layer: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """For each position of a map, how many weights of all output channels an input there meets."""
    fan = torch.zeros(size, dtype=torch.long)
    (k1, k2), (s1, s2), (p1, p2), (d1, d2) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    rows = range(0, size[0] + 2 * p1 - d1 * (k1 - 1), s1)
    columns = range(0, size[1] + 2 * p2 - d2 * (k2 - 1), s2)
    for i, j, a, b in itertools.product(rows, columns, range(k1), range(k2)):
        y, x = i + a * d1 - p1, j + b * d2 - p2
        if 0 <= y < size[0] and 0 <= x < size[1]:
            fan[y, x] += layer.out_channels // layer.groups
    return fan


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
def test_layers_against_a_loop_over_the_trains(mode: str, fold: bool) -> None:
    ann = network()
    snn = convert(ann, mode=mode, time_steps=4, fold=fold, calibration="none")
    found = {row.name: row for row in count(snn).rows}
    trains: dict[str, Tensor] = {}
    hooks = [
        snn.net.get_submodule(name).node.register_forward_hook(lambda m, a, s, name=name: trains.update({name: s}))
        for name in ("relu", "relu_1", "relu_2", "relu_3")
    ]
    with torch.no_grad():
        snn.predict(X)
    for hook in hooks:
        hook.remove()
    for name, train in trains.items():
        assert found[name].neurons * 6 == train[0].numel() and found[name].spikes * 6 == train.count_nonzero()
    pooled = F.max_pool2d((trains["relu_2"] != 0).float().flatten(0, 1), 2) if mode == "parallel" else None
    for layer, source in (("b", "relu"), ("c", "relu_1")):
        nonzero = (trains[source] != 0).sum((0, 1, 2))
        by_hand = int((nonzero * fan_out_by_hand(getattr(ann, layer), tuple(nonzero.shape))).sum())
        assert round(found[layer].synops * 6) == by_hand and found[layer].macs == 0
    if pooled is not None:  # sorted trains are nested: the train of the largest unit fires whenever one does
        nonzero = pooled.sum((0, 1))
        by_hand = int((nonzero * fan_out_by_hand(ann.d, tuple(nonzero.shape))).sum())
        assert round(found["d"].synops * 6) == by_hand
    at_steps = (trains["relu_3"] != 0).any(-1).any(-1)  # positive amplitudes: no sum of spikes is 0
    if mode != "css":
        assert round(found["fc"].synops * 6) == int(at_steps.sum()) * 5
    assert found["a"].macs == found["a"].ann_macs > 0 and found["a"].synops == 0


LAYERS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), nn.Conv3d(2, 3, 2, padding=1), nn.Linear(5, 7),
    nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(2, 5, (1, 3), padding="same", dilation=2),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ConvTranspose1d(3, 2, 4),
    nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
]  # fmt: skip
SIZES = [(4, 9), (2, 4, 3, 3), (5,), (4, 6, 6), (2, 5, 7), (4, 5, 5), (3, 6), (3, 6, 6)]


@pytest.mark.parametrize(("layer", "size"), list(zip(LAYERS, SIZES, strict=True)), ids=lambda value: str(value))
@given(seed=st.integers(0, 10_000))
def test_reached_synapses_are_the_non_zero_products(layer: nn.Module, size: tuple[int, ...], seed: int) -> None:
    """A weight meets an input where the output's gradient with respect to it is not 0."""
    counts = torch.randint(0, 4, (2, *size), generator=torch.Generator().manual_seed(seed)).double()
    x = torch.zeros(1, *size, dtype=torch.double, requires_grad=True)
    ones = nn.Module.__new__(type(layer))
    ones.__dict__ = dict(layer.__dict__)
    ones._parameters = {"weight": torch.ones_like(layer.weight, dtype=torch.double), "bias": None}
    (fan,) = torch.autograd.grad(ones.forward(x).sum(), x)
    assert reached_synapses(layer, counts) == int((counts * fan).sum())


def test_batches_add_up_and_sizes_of_batches_do_not_matter() -> None:
    snn = convert(network(), time_steps=4)
    whole, split = count(snn), count(snn, [X[:2], (X[2:], torch.zeros(4))])
    assert [row.name for row in whole.rows] == [row.name for row in split.rows]
    for row, other in zip(whole.rows, split.rows, strict=True):
        assert row.synops == pytest.approx(other.synops) and row.spikes == pytest.approx(other.spikes)


def test_totals_agree_with_inspect() -> None:
    snn = convert(network(), time_steps=4)
    found, inspected = count(snn), sjpc.inspect(snn, show=False)
    assert found.total("ann_macs") == inspected.macs
    assert found.total("ann_macs") - found.total("macs") == inspected.accumulates


def test_layers_that_receive_graded_values_multiply() -> None:
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()).eval()
    rows = {row.name: row for row in count(convert(ann)).rows}
    assert rows["2"].synops > 0 and rows["2"].macs == 0
    assert rows["3"].synops == 0 and rows["3"].macs == rows["3"].ann_macs > 0


def test_models_in_parts() -> None:
    ann = nn.Sequential(OrderedDict(body=network(), head=nn.Linear(5, 3))).eval()
    snn = sjpc.ParallelConverter([X], show_progress=False, time_steps=4).convert(ann, submodules=["body"])
    alone = count(convert(network(), time_steps=4))
    found = count(snn)
    assert found.total("synops") == pytest.approx(alone.total("synops"))
    assert found.rows[-1].name == "head" and found.rows[-1].macs == 15


def test_energy_by_hand() -> None:
    found = count(convert(network(), time_steps=4), device={"accumulate": 2.0, "access": 1.0})
    synops, macs, ann = (found.total(name) for name in ("synops", "macs", "ann_macs"))
    assert found.energy["snn"] == pytest.approx(2 * synops + HOROWITZ_45NM["mac"] * macs)
    assert found.energy["ann_int8"] == pytest.approx(HOROWITZ_45NM["mac_int8"] * ann)
    assert found.energy["snn_memory"] == pytest.approx(3 * synops + 2 * macs)
    assert 0 < found.firing_rate < 1 and "firing rate" in str(found) and "nJ" in str(found)


def test_what_cannot_be_used_is_refused() -> None:
    snn = convert(network())
    with pytest.raises(sjpc.ConfigError, match=r"device: 'mul' is unknown. Give picojoules of 'mac'"):
        count(snn, device={"mul": 1.0})
    with pytest.raises(sjpc.ConfigError, match="'mac' must be picojoules >= 0, got -1"):
        count(snn, device={"mac": -1})
    with pytest.raises(sjpc.DataError, match="needs a converted network, got Net"):
        count(network())
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        count(snn, [])
