"""State dicts of converted networks: those of other options are refused by name, all else goes on working."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import pytest
import torch
from in_parts import PARTS, detector, same
from in_parts import convert as convert_in_parts
from nets import IMAGES
from torch import nn

import sj_parallel_conversion as sjpc

KEY = "_extra_state"
MATCHED = "<All keys matched successfully>"


class Residual(nn.Module):
    """A shortcut around a block, and a linear bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.neck = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x) + 0.3)
        x = torch.relu(self.block(x) + x)
        return self.head(torch.relu(self.block(self.neck(x))).mean((2, 3)))


@cache
def _converted(**options: object) -> sjpc.SpikingNetwork:
    torch.manual_seed(0)
    options = {"time_steps": 4, "threshold": "max", "calibration": "da_qcfs", "show_progress": False} | options
    return sjpc.ParallelConverter([IMAGES], **options).convert(Residual().eval())


def converted(**options: object) -> sjpc.SpikingNetwork:
    return copy.deepcopy(_converted(**options))


OTHER = [
    ({"time_steps": 8}, "time_steps=8", "time_steps=4"),
    ({"mode": "spikepack"}, "mode='spikepack'", "mode='parallel'"),
    ({"fold": False}, "fold=False", "fold=True"),
    ({"shortcut": "membrane"}, "shortcut='membrane'", "shortcut='spikes'"),
    ({"input_encoding": "spikes"}, "input_encoding='spikes'", "input_encoding='analogue'"),
    ({"spiking_inputs": True}, "spiking_inputs=True", "spiking_inputs=False"),
    ({"frame_tau": 2.0}, "frame_tau=2.0", "frame_tau=1.0"),
]


@pytest.mark.parametrize(("options", "saved", "own"), OTHER)
@torch.no_grad()
def test_another_networks_state_dict_is_refused_by_name(options: dict, saved: str, own: str) -> None:
    one, snn = converted(**options), converted()
    for source, target, words in ((one, snn, (saved, own)), (snn, one, (own, saved))):
        before = copy.deepcopy(target.state_dict())
        for strict in (True, False):
            with pytest.raises(sjpc.StateDictError, match=f".*saved with {words[0]}.* has {words[1]}"):
                target.load_state_dict(source.state_dict(), strict=strict)
        assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items()), "nothing was loaded"


def test_what_leaves_no_trace_may_differ() -> None:
    """Layers in half precision are not folded, whatever ``fold`` says; a strict network has neurons as others have."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16().eval()
    x = torch.randn(4, 6).bfloat16()
    one, other = (
        sjpc.ParallelConverter([x], show_progress=False, fold=fold, strict=fold, shortcut=shortcut).convert(ann)
        for fold, shortcut in ((True, "membrane"), (False, "auto"))
    )
    assert str(other.load_state_dict(one.state_dict())) == MATCHED


@pytest.mark.parametrize(
    "options",
    [{"threshold": "mse"}, {"calibration": "none"}, {"max_memory": 0}, {"distillation_epochs": 1}],
)
@torch.no_grad()
def test_options_that_change_values_alone_may_differ(options: dict) -> None:
    one, snn = converted(**options), converted()
    one.execution = "packed"
    assert str(snn.load_state_dict(one.state_dict())) == MATCHED
    assert torch.equal(snn.predict(IMAGES), one.predict(IMAGES))


@torch.no_grad()
def test_inside_other_modules_and_behind_prefixes() -> None:
    one, other = converted(time_steps=8), converted(time_steps=8)
    outer = nn.Sequential(nn.Identity(), nn.ModuleDict({"backbone": other}))
    state = {f"1.backbone.{key}": value / 1 if value.is_floating_point() else value
             for key, value in one.state_dict().items()}  # fmt: skip
    assert str(outer.load_state_dict(state)) == MATCHED
    assert str(nn.DataParallel(other).load_state_dict(nn.DataParallel(one).state_dict())) == MATCHED
    outer[1]["backbone"] = converted()
    with pytest.raises(sjpc.StateDictError, match=r"^1.backbone: .*time_steps=8.*time_steps=4"):
        outer.load_state_dict(state)
    with pytest.raises(sjpc.StateDictError, match=r"^module: .*time_steps=8.*time_steps=4"):
        nn.DataParallel(converted()).load_state_dict(nn.DataParallel(one).state_dict())


@torch.no_grad()
def test_files_copies_and_averages(tmp_path) -> None:
    snn = converted()
    torch.save(snn.state_dict(), tmp_path / "snn.pt")
    loaded = torch.load(tmp_path / "snn.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) and value.is_contiguous() for value in loaded.values())
    averaged = torch.optim.swa_utils.AveragedModel(snn)
    averaged.update_parameters(snn)
    average = {key.removeprefix("module."): v for key, v in averaged.state_dict().items() if key != "n_averaged"}
    for state in (loaded, average, pickle.loads(pickle.dumps(snn)).state_dict(), copy.deepcopy(snn).state_dict()):
        other = converted(calibration="none")
        assert str(other.load_state_dict(state)) == MATCHED
        assert torch.equal(other.predict(IMAGES), snn.predict(IMAGES))
    assert str(other.load_state_dict(loaded, assign=True)) == MATCHED


def test_an_old_state_dict_says_what_to_do() -> None:
    snn = converted()
    old = {key: value for key, value in snn.state_dict().items() if not key.endswith(KEY)}
    says = pytest.warns(UserWarning, match="does not say with which options .* earlier versions.*strict=False")
    with says, pytest.raises(RuntimeError, match=r"Missing key.*_extra_state"):
        snn.load_state_dict(old)
    with says:
        missing = snn.load_state_dict(old, strict=False).missing_keys
    assert set(missing) == {key for key in snn.state_dict() if key.endswith(KEY)}


def test_a_part_of_a_state_dict_loads_unless_strict() -> None:
    snn, one = converted(), converted(calibration="none")
    part = {key: value for key, value in one.state_dict().items() if key.startswith(("net.stem", KEY))}
    snn.load_state_dict(part, strict=False)
    assert torch.equal(snn.net.stem.weight, one.net.stem.weight)
    other = converted(time_steps=8)
    part = {key: value for key, value in one.state_dict().items() if ".node." in key}
    with pytest.raises(sjpc.StateDictError, match=r"^net.relu.node: .*T=4.*T=8"):
        other.load_state_dict(part, strict=False)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
@torch.no_grad()
def test_prepacked_and_int8_networks() -> None:
    snn, eight = converted(), converted(time_steps=8)
    packed = sjpc.prepack(snn)
    assert str(snn.load_state_dict(packed.state_dict())) == str(packed.load_state_dict(snn.state_dict())) == MATCHED
    with pytest.raises(sjpc.StateDictError, match=r"time_steps=8.*time_steps=4"):
        packed.load_state_dict(eight.state_dict())
    int8 = sjpc.to_int8(snn)
    assert str(sjpc.to_int8(snn).load_state_dict(int8.state_dict())) == MATCHED
    with pytest.raises(sjpc.StateDictError, match=r"time_steps=8.*time_steps=4"):
        int8.load_state_dict(sjpc.to_int8(eight).state_dict())
    for source, target, words in ((int8, snn, ("int8", "float")), (snn, int8, ("float", "int8"))):
        for strict in (True, False):
            with pytest.raises(sjpc.StateDictError, match="weights='{}'.*weights='{}'".format(*words)):
                target.load_state_dict(source.state_dict(), strict=strict)


@torch.no_grad()
def test_models_in_parts() -> None:
    one, other, eight = (convert_in_parts(detector(), PARTS, time_steps=steps) for steps in (4, 4, 8))
    other.model.backbone.snn.net.a.get_submodule("0").weight.data.zero_()
    assert str(other.load_state_dict(one.state_dict())) == MATCHED and same(other(IMAGES), one(IMAGES))
    with pytest.raises(sjpc.StateDictError, match=r"^model.backbone.snn: .*time_steps=8.*time_steps=4"):
        other.load_state_dict(eight.state_dict())
