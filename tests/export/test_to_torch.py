"""to_torch: the network on torch alone, which gives what predict gives."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from exported import IMAGES, converted, residual, small
from in_parts import PARTS, convert, detector
from nets import net
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.export.bodies import neuron_body

MODES = ["parallel", "spikepack", "css"]


@pytest.mark.parametrize(
    "name",
    ["shared relu", "conv read twice", "norm of two convs", "concatenated", "tokens, norm over channels", "mlp",
     "conv 1d", "conv 3d", "transposed 2d, groups", "negative, difference", "in place, method"],
)  # fmt: skip
def test_it_gives_what_predict_gives(name: str) -> None:
    ann, x = net(name)
    for i, mode in enumerate(MODES):
        snn = converted(ann, x, mode=mode, time_steps=3, fold=i != len(name) % 3)
        expected = snn.predict(x)
        module = sjpc.to_torch(snn)
        assert not module.training and not any(p.requires_grad for p in module.parameters())
        for each in (module, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            torch.testing.assert_close(each(x), expected, rtol=1e-6, atol=1e-6)
        own = b"sj_parallel_conversion", b"spikingjelly"
        assert not any(word in pickle.dumps(module) for word in own)


@pytest.mark.parametrize(
    "options",
    [{"input_encoding": "spikes"}, {"shortcut": "membrane", "mode": "parallel"}, {"spiking_inputs": True},
     {"keep": ["conv1"]}, {"output_neurons": False}, {"calibration": "da_qcfs"}],
)  # fmt: skip
def test_options(options: dict[str, object]) -> None:
    snn = converted(residual(), IMAGES, **options)
    torch.testing.assert_close(sjpc.to_torch(snn)(IMAGES), snn.predict(IMAGES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Sigmoid(), sjpc.QCFS(15, 2.0), nn.Softplus()])
@pytest.mark.parametrize("fold", [True, False])
def test_activations(activation: nn.Module, fold: bool) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6)
    for keep in ((), ["1"]):
        snn = converted(ann, x, fold=fold, keep=keep)
        torch.testing.assert_close(sjpc.to_torch(snn)(x), snn.predict(x), rtol=1e-5, atol=1e-6)


def test_a_hand_written_quantiser() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b((self.a(x) * 4 + 0.5).floor().clamp(0, 15) / 4)

    torch.manual_seed(0)
    x = torch.randn(64, 6)
    snn = converted(Quantised().eval(), x)
    assert snn.neurons()[0].node.formula is not None
    torch.testing.assert_close(sjpc.to_torch(snn)(x), snn.predict(x))


CHANNELS = torch.tensor([0.5, 1.0, 1.5])
NODES = {
    "sorted": lambda: sjpc.ParallelConversionNode(4, 1.0),
    "sorted, corrected": lambda: sjpc.ParallelConversionNode(4, CHANNELS, 0.3 * CHANNELS, -CHANNELS, CHANNELS + 1),
    "sorted, signed": lambda: sjpc.ParallelConversionNode(4, CHANNELS, signed=True),
    "binary": lambda: sjpc.SpikePackNode(3, 0.25),
    "binary, another base": lambda: sjpc.SpikePackNode(3, CHANNELS, tau=3.0),
    "signed digits, activation": lambda: sjpc.TSANode(3, 0.25, signed=True, activation=nn.Tanh()),
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_neuron_to_the_bit(name: str, dtype: torch.dtype) -> None:
    """On inputs of which many are ties between two levels."""
    node = NODES[name]().to(dtype)
    ties = torch.arange(-64, 65, dtype=dtype) / 16
    x = torch.cat([ties, torch.randn(63, dtype=torch.float64).to(dtype) * 3]).repeat_interleave(3).view(-1, 3)
    body = neuron_body(node, x, copy.deepcopy)
    assert torch.equal(body(x), node.decoded(x).detach())
    assert body(x).dtype == dtype and len(node.decoded(x).unique()) > 4


class Embedded(nn.Module):
    """Token ids, a mask, positions that are made on the way, and a recurrent layer that returns several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(20, 8)
        self.first, self.lstm, self.head = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, scale: float = 2.0, pair: list | None = None) -> dict:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        x = F.relu(self.first(x)) * attention_mask.unsqueeze(-1).to(x.dtype) * scale
        x, (h, _) = self.lstm(x)
        return {"logits": self.head(x).relu(), "states": [h, None, (x + pair[0] - pair[1]["shift"],)]}


def tokens() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 11, (5, 7), generator=generator)
    shift = torch.randn(5, 7, 8, generator=generator)
    return {"input_ids": ids, "attention_mask": (ids > 2).long(), "pair": [shift, {"shift": shift * 0.5}]}


def test_arguments_and_outputs_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    snn = converted(Embedded().eval(), tokens())
    expected, module = snn.predict(**tokens()), sjpc.to_torch(snn)
    for each in (module, pickle.loads(pickle.dumps(module))):
        found = each(**tokens())
        assert found.keys() == expected.keys() and found["states"][1] is None
        for one, other in ((found["logits"], expected["logits"]), (found["states"][0], expected["states"][0]),
                           (found["states"][2][0], expected["states"][2][0])):  # fmt: skip
            torch.testing.assert_close(one, other)


@dataclass
class Answer:
    score: Tensor
    missing: None = None


Pair = namedtuple("Pair", "first second")


class Returns(nn.Module):
    def __init__(self, build: object) -> None:
        super().__init__()
        self.layer, self.build = nn.Linear(4, 3), build

    def forward(self, x: Tensor) -> object:
        return self.build(self.layer(x).relu())


def test_own_types_become_plain() -> None:
    x = torch.randn(6, 4)
    found = sjpc.to_torch(converted(Returns(Answer), x))(x)
    assert type(found) is dict and list(found) == ["score", "missing"] and found["missing"] is None
    found = sjpc.to_torch(converted(Returns(lambda y: Pair(y, [y * 2])), x))(x)
    assert type(found) is tuple and torch.equal(found[1][0], 2 * found[0])


def test_sizes_that_the_network_refuses() -> None:
    class Mean(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer, self.width = nn.Conv2d(3, 4, 3, padding=1), width

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x).relu()
            return x.sum((2, 3)) / self.width + x.view(len(x), 4, 2, -1).amax((2, 3))

    snn = converted(Mean(12).eval(), IMAGES)
    module = sjpc.to_torch(snn)
    for shape in ([2, 3, 12, 12], [1, 3, 9, 10], [2, 3, 9, 9], [2, 4, 12, 12]):
        x = torch.randn(shape)
        try:
            expected = snn.predict(x)
        except sjpc.DataError:
            for each in (module, pickle.loads(pickle.dumps(module))):
                with pytest.raises((AssertionError, RuntimeError)):
                    each(x)
            continue
        torch.testing.assert_close(module(x), expected)
    fixed = sjpc.to_torch(converted(residual(), IMAGES, free_sizes=False))
    with pytest.raises(AssertionError, match=r"x\.shape\[2\] has to be 12"):
        fixed(torch.randn(2, 3, 13, 12))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    snn = small().to(dtype)
    x = IMAGES.to(dtype)
    found = sjpc.to_torch(snn)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, snn.predict(x), rtol=1e-6, atol=1e-6)


def test_the_network_stays_as_it_was_and_nobody_listens_to_the_copy() -> None:
    snn = small()
    calls: list[object] = []
    for module in snn.net.modules():
        module.register_forward_hook(lambda *call: calls.append(call))
    snn.execution = "spikes"
    snn.neurons()[0].packed = True
    module = sjpc.to_torch(snn)
    assert [site.packed for site in snn.neurons()] == [True] + [False] * 4 and snn.execution == "spikes"
    module(IMAGES)
    assert not calls
    module.conv1.weight.add_(1)
    assert not torch.equal(snn.net.conv1.weight, module.conv1.weight)


def test_packed_weights_become_plain() -> None:
    snn = small()
    prepacked = sjpc.prepack(snn)
    module = sjpc.to_torch(prepacked)
    assert type(module.conv1) is nn.Conv2d
    assert torch.equal(module(IMAGES), sjpc.to_torch(snn)(IMAGES))


ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sj_parallel_conversion", "spikingjelly"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import torch
folder = sys.argv[1]
x, expected = torch.load(f"{folder}/values.pt")
module = torch.load(f"{folder}/module.pt", weights_only=False)
program = torch.export.load(f"{folder}/program.pt2").module()
for run in (module, program):
    torch.testing.assert_close(run(x), expected)
assert not any(name.startswith(("sj_parallel", "spikingjelly")) for name in sys.modules)
"""


def test_a_process_without_this_package(tmp_path: Path) -> None:
    snn = converted(residual(), IMAGES, mode="css", input_encoding="spikes", free_sizes=False)
    module = sjpc.to_torch(snn)
    torch.save((IMAGES[:3], snn.predict(IMAGES[:3])), tmp_path / "values.pt")
    torch.save(module, tmp_path / "module.pt")
    program = torch.export.export(module, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "program.pt2")
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_exported() -> None:
    with pytest.raises(sjpc.ConfigError, match="takes a converted network, got Residual"):
        sjpc.to_torch(residual())
    parts = convert(detector(), PARTS)
    with pytest.raises(sjpc.ConfigError, match=r"in parts.*'backbone'"):
        sjpc.to_torch(parts)
    sjpc.to_torch(parts.parts["backbone"])


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no int8 kernels")
def test_int8_weights_are_refused() -> None:
    int8 = sjpc.to_int8(small())
    with pytest.raises(sjpc.ConfigError, match="layer 'conv1' has the int8 weights"):
        sjpc.to_torch(int8)
