"""Modules that ``keep`` names stay as in the ANN, and everything says so."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from in_parts import PARTS, detector
from in_parts import convert as convert_in_parts
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron import SpikingActivation

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual block, BatchNorms, and a head with an activation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.block(x) + x)
        return self.head(x.mean((2, 3)))


def ann() -> Net:
    torch.manual_seed(0)
    model = Net()
    model(IMAGES)  # running statistics that are not those of a new network
    for parameter in (model.norm.weight, model.block[1].weight):
        nn.init.uniform_(parameter, 0.5, 2)
    return model.eval()


def convert(keep: object, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 8, "show_progress": False, "keep": keep} | options
    return sjpc.ParallelConverter([IMAGES], **options).convert(ann())


def neurons(snn: sjpc.SpikingNetwork) -> list[str]:
    return [name for name, module in snn.net.named_modules() if isinstance(module, SpikingActivation)]


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@pytest.mark.parametrize("fold", [True, False])
@torch.no_grad()
def test_kept_layers_have_the_anns_weights(calibration: str, fold: bool) -> None:
    for keep in (["head"], ["block", "head.*"], ["stem", "norm", "head.2"]):
        snn = convert(keep, calibration=calibration, fold=fold, distillation_epochs=1)
        own, others = ann().state_dict(), dict(snn.net.state_dict())
        kept = [key for key in own if key.startswith(tuple(name.removesuffix("*") for name in keep))]
        kept = [key for key in kept if not key.endswith("num_batches_tracked")]
        assert len(kept) >= 4 and all(torch.equal(own[key], others[key]) for key in kept)
        assert ("head.1" in neurons(snn)) == (keep[-1] == "head.2") and "relu_1" in neurons(snn)


@pytest.mark.parametrize("keep", [["head"], ["block"], ["stem"], ["*.0"], ["norm", "head.0"], ["relu"]])
@pytest.mark.parametrize("options", [{}, {"mode": "css"}, {"shortcut": "membrane"}, {"spiking_inputs": True}])
@torch.no_grad()
def test_folding_around_kept_layers_changes_nothing(keep: list[str], options: dict) -> None:
    """What has become part of others' weights computes the same in float64."""
    results = []
    for fold in (True, False):
        options = options | {"fold": fold, "time_steps": 6, "keep": keep, "show_progress": False}
        snn = sjpc.ParallelConverter([IMAGES.double()], **options).convert(ann().double())
        results.append(snn.predict(IMAGES.double()))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_many_steps_approach_the_ann() -> None:
    expected = ann()(IMAGES)
    for keep in (["head"], ["block"]):
        error = convert(keep, time_steps=1024, threshold="max", calibration="none").predict(IMAGES) - expected
        assert error.norm() < 0.01 * expected.norm()


def test_inspect_strict_and_the_closing_line_agree(capsys: pytest.CaptureFixture) -> None:
    snn = convert(["head"], show_progress=True)
    line = capsys.readouterr().out
    assert "2 layers of neurons" in line and "Kept as in the ANN: head.0, head.1, head.2." in line
    assert "register_activation" not in line and "spiking_inputs" not in line
    table = sjpc.inspect(snn, show=False)
    assert [row.name for row in table.kept] == ["head.0", "head.1", "head.2"]
    assert table.analogue == table.graded == () and table.macs == sjpc.inspect(convert([]), show=False).macs
    assert table.accumulates == table.macs - table.input_macs - 4 * 8 - 8 * 5
    assert "operations that are kept as in the ANN: head.0, head.1, head.2" in str(table)
    strict = convert(["head"], strict=True)
    assert [row.name for row in sjpc.inspect(strict, show=False).kept] == ["head.0", "head.1", "head.2"]
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert sjpc.inspect(other, show=False) == table


class Sorting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1)[0]


def test_an_operation_that_would_stay_analogue_may_be_kept_in_a_strict_conversion() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), Sorting(), nn.Linear(8, 3)).eval()
    options = {"strict": True, "show_progress": False}
    with pytest.raises(sjpc.ConversionError, match="sort"):
        sjpc.ParallelConverter([torch.randn(4, 6)], **options).convert(model)
    snn = sjpc.ParallelConverter([torch.randn(4, 6)], keep=["3"], **options).convert(model)
    assert [row.name for row in sjpc.inspect(snn, show=False).kept] == ["3.sort"]


def test_a_layer_behind_kept_ones_gets_spikes_if_asked() -> None:
    table = sjpc.inspect(convert(["block"], spiking_inputs=True), show=False)
    received = {row.receives for row in table.rows if row.kind == "layer"}
    assert table.graded == () and received == {("input",), ("spikes",)}


@pytest.mark.parametrize("keep", [["haed"], ["head.*", "blok.*"], ["relu_9"]])
def test_a_pattern_that_matches_nothing(keep: list[str]) -> None:
    wrong = keep[-1]
    with pytest.raises(sjpc.ConfigError, match="matches no layer and no module") as error:
        convert(keep)
    assert repr(wrong) in str(error.value)
    assert any(near in str(error.value) for near in ("head", "block", "relu_1"))


@pytest.mark.parametrize("keep", ["head", 3, [3], None, {"head": 1}.values()])
def test_what_is_no_list_of_names(keep: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="keep must be a list of names"):
        sjpc.ConversionConfig(keep=keep)


def test_nothing_left_to_convert() -> None:
    with pytest.raises(sjpc.ConversionError, match=r"nothing to convert.*keep"):
        convert(["*"])


@pytest.mark.filterwarnings("ignore:only")
def test_parts_of_a_model() -> None:
    snn = convert_in_parts(detector(), PARTS, keep=["backbone.b"])
    assert [row.name for row in sjpc.inspect(snn, show=False).kept] == ["backbone.b.0", "backbone.b.1"]
    assert torch.equal(snn.parts["backbone"].net.b.get_submodule("0").weight, detector().backbone.b[0].weight)
    with pytest.raises(sjpc.ConfigError, match=r"keep: 'b.\*' matches no .*Near: backbone"):
        convert_in_parts(detector(), PARTS, keep=["backbone.b", "b.*"])


def test_a_state_dict_of_a_network_that_keeps_others() -> None:
    with pytest.raises(sjpc.StateDictError, match=r"keep=\['head.2'\].*keep=\[\]"):
        convert([]).load_state_dict(convert(["head.2"]).state_dict())
