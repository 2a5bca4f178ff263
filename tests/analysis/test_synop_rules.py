"""SpikingJelly's own counter, run on a converted network, counts what count_operations counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_count_operations import X, convert, count, network
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.network.time_axis import Symbols, TimeAxisRunner

op_counter = pytest.importorskip(
    "spikingjelly.activation_based.op_counter", reason="SpikingJelly 0.0.0.0.14 has no counter of synaptic operations"
)
MODES = ["parallel", "spikepack", "css"]


def counted(snn: nn.Module, x: torch.Tensor, rules: dict[object, Callable] | None = None) -> dict[str, int]:
    """What SpikingJelly's counter finds, by operator."""
    counter = op_counter.SynOpCounter(extra_rules=rules)
    with op_counter.DispatchCounterMode([counter]), torch.no_grad():
        snn.predict(x)
    return {str(op.overloadpacket): n for op, n in counter.get_counts()["Global"].items() if n}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_the_same_synaptic_operations(mode: str, fold: bool) -> None:
    """All layers, the one behind an average pool among them."""
    snn = convert(network(), mode=mode, time_steps=4, fold=fold, calibration="none")
    snn.execution = "stepwise"
    found = counted(snn, X, sjpc.synop_rules(snn))
    assert sum(found.values()) == round(count(snn).total("synops") * len(X)) > 10_000


@pytest.mark.parametrize("mode", ["parallel", "spikepack"])
def test_bare_symbols_need_no_rules(mode: str) -> None:
    """SpikingJelly's own rules, which know 0 and 1 alone, find the spikes of all convolutions."""
    snn = convert(network(), mode=mode, time_steps=4, calibration="none")
    snn.execution = "stepwise"
    rows = {row.name: row.synops for row in count(snn).rows}
    assert counted(snn, X) == {"aten.convolution": round(sum(rows[name] for name in "bcd") * len(X))}
    assert rows["fc"] > 0  # it receives averages


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("execution", ["stepwise", "serial"])
def test_layers_meet_bare_symbols(mode: str, execution: str) -> None:
    if mode == "parallel" and execution == "serial":
        pytest.skip("neurons of this mode have no serial form")
    snn, seen = convert(network(), mode=mode, time_steps=4, calibration="none"), set()
    snn.execution = execution

    class Watching(TimeAxisRunner):
        def _cross(self, layer: nn.Module, x: Symbols) -> object:
            seen.update(*(s.unique().tolist() for s in x.symbols))
            return super()._cross(layer, x)

    Watching(snn.net, 4, execution).run_sequence((X,))
    assert seen == ({-1, 0, 1} if mode == "css" else {0, 1})


def test_serial_neurons_are_counted_as_they_fire() -> None:
    snn = convert(network(), mode="css", time_steps=4, calibration="none")
    snn.execution = "serial"
    assert sum(counted(snn, X, sjpc.synop_rules(snn)).values()) == round(count(snn).total("synops") * len(X))


class Twice(nn.Module):
    """Layers that share weights of 1, and one that receives what no neuron has quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.graded = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
        nn.init.ones_(self.shared.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.graded(self.shared(self.shared(self.first(x).relu()).relu()))


def test_layers_of_graded_values_are_left_out_and_weights_of_one_count() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    snn = sjpc.ParallelConverter([x], time_steps=4, mode="css", fold=False, show_progress=False).convert(Twice().eval())
    snn.execution = "stepwise"
    found = counted(snn, x, sjpc.synop_rules(snn))
    assert set(found) == {"aten.mm"} and found["aten.mm"] == round(count(snn, [x]).total("synops") * 5)


def test_models_in_parts() -> None:
    ann = nn.Sequential(network(), nn.Linear(5, 3)).eval()
    snn = sjpc.ParallelConverter([X], show_progress=False, time_steps=4).convert(ann, submodules=["0"])
    snn.execution = "stepwise"
    counter = op_counter.SynOpCounter(extra_rules=sjpc.synop_rules(snn))
    with op_counter.DispatchCounterMode([counter]), torch.no_grad():
        snn(X)
    assert counter.get_total() == round(count(snn).total("synops") * len(X)) > 0


def test_what_cannot_be_counted_is_refused() -> None:
    snn = convert(network())
    with pytest.raises(sjpc.ConfigError, match=r"execution='spikes' does not run the layers.*'stepwise'"):
        counted(snn, X, sjpc.synop_rules(snn))
    with pytest.raises(sjpc.DataError, match="needs a converted network, got Net"):
        sjpc.synop_rules(network())
    with pytest.raises(sjpc.DataError, match="do not see prepacked kernels"):
        sjpc.synop_rules(sjpc.prepack(snn))
