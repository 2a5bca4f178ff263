"""export_integers: what the reader in NumPy makes of the files is what the network gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import run_integers
import torch
from exported import IMAGES, converted, residual
from in_parts import PARTS, convert, detector
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

MODES = ["parallel", "spikepack", "css"]


def structure(folder: Path) -> dict:
    return json.loads((folder / "network.json").read_text())


@pytest.mark.parametrize("mode", MODES)
def test_every_sum_and_every_weight(mode: str, tmp_path: Path) -> None:
    """The weights are those of the network up to rounding; the reader's sums and levels are those of torch."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, (3, 1), (2, 1), (1, 0), groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 3 * 5, 16), nn.ReLU(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    snn = converted(ann, IMAGES, mode=mode, input_encoding="spikes", per_channel=mode != "css", free_sizes=False)
    sjpc.export_integers(snn, tmp_path)
    values, outputs = run_integers.run(tmp_path, input=IMAGES.numpy())
    found, arrays = structure(tmp_path), np.load(tmp_path / "network.npz")
    assert [s["op"] for s in found["steps"]] == [
        "encode", "conv", "neuron", "max_pool", "conv", "neuron", "flatten", "linear", "neuron", "linear"
    ]  # fmt: skip
    encoder = snn.net.input_encoder
    assert np.array_equal(values["input_encoder"], (encoder(IMAGES) / encoder(torch.full_like(IMAGES, 99.0)) * (
        encoder.node.code.max_level(4))).round().numpy())  # fmt: skip
    for step, neuron in zip(found["steps"], [*found["steps"][1:], None], strict=True):
        if step["op"] not in ("conv", "linear"):
            continue
        x, layer = torch.from_numpy(values[step["inputs"][0]]).double(), snn.net.get_submodule(step["name"])
        weight, bias = (torch.from_numpy(arrays[step["arrays"][name]]).double() for name in ("weight", "bias"))
        form = step["settings"].values()
        total = F.conv2d(x, weight, bias, *form) if step["op"] == "conv" else F.linear(x, weight, bias)
        assert np.array_equal(values[step["output"]], total.numpy()) and total.abs().max() > 100
        if neuron is None:
            theta = torch.tensor(1 / found["outputs"]["output"]["scale"])
        else:
            theta = torch.from_numpy(arrays[neuron["arrays"]["threshold"]]).double()
            level = (total / theta).floor().clamp(0, snn.neurons()[0].node.code.max_level(4))
            assert np.array_equal(values[neuron["output"]], level.numpy()) and len(level.unique()) > 3
        unit = encoder.node.unit if step["name"] == "0" else torch.ones(())
        theta = theta.flatten()
        wanted = layer.weight.double() * (unit.view(-1, 1, 1) if unit.dim() else unit)
        error = weight / theta.view(-1, *[1] * (weight.dim() - 1)) - wanted
        assert (error.flatten(1).abs().amax(1) <= 0.5001 / theta).all()
        assert ((bias / theta - layer.bias).abs() <= 0.5001 / theta).all()
        assert 63 < weight.abs().max() <= 127
    expected = snn.predict(IMAGES).numpy()
    assert np.abs(outputs["output"] - expected).mean() < 0.1 * np.abs(expected).mean()


class Pools(nn.Module):
    """Averages of every spelling, padding, slices, an addition of two currents and of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.pool, self.head, self.other = nn.AvgPool2d(2), nn.Linear(16, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = (self.b(x) + self.c(F.pad(x[:, :, 1:], (0, 0, 1, 0)))).relu()
        z = F.adaptive_avg_pool2d(self.c(self.pool(y)).relu(), 1).flatten(1)
        return self.head(torch.cat([z, z], 1)) + self.other(y.mean((2, 3)))


@pytest.mark.parametrize("make", [residual, Pools])
@pytest.mark.parametrize("encoding", ["analogue", "spikes"])
def test_networks(make: object, encoding: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    snn = converted(make().eval(), IMAGES, time_steps=8, input_encoding=encoding, free_sizes=False)
    snn.execution = "spikes"
    sjpc.export_integers(snn, tmp_path / "new" / "folder")
    values, outputs = run_integers.run(tmp_path / "new" / "folder", x=IMAGES.numpy())
    expected = snn.predict(IMAGES).numpy()
    assert np.abs(outputs["output"] - expected).mean() < 0.02 * np.abs(expected).mean()
    found = structure(tmp_path / "new" / "folder")
    for step in found["steps"]:
        read = values[step["inputs"][0]]
        if "accumulator_bits" in step:
            assert read.dtype == np.int32 and np.abs(values[step["output"]]).max() < 2 ** (step["accumulator_bits"] - 1)
    graded = [value for value in values.values() if value.dtype != np.int32]
    assert len(graded) == {"analogue": 2, "spikes": 1}[encoding]


@pytest.mark.parametrize("mode", MODES)
def test_code_words(mode: str, tmp_path: Path) -> None:
    snn = converted(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 3), mode=mode)
    sjpc.export_integers(snn, tmp_path)
    code, arrays = structure(tmp_path)["code"], np.load(tmp_path / "network.npz")
    words, weights = arrays[code["words"]], arrays[code["weights"]]
    assert words.dtype == np.int8 and words.shape == ({"parallel": 5}.get(mode, 16), 4)
    assert np.array_equal(words @ weights, np.arange(len(words)) + code["lowest"])
    assert set(np.unique(words)) == ({-1, 0, 1} if mode == "css" else {0, 1})


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    snn = converted(residual(), IMAGES, time_steps=8)
    sjpc.export_integers(snn, tmp_path)
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    run_integers.main([str(tmp_path), str(tmp_path / "images.npy")])
    assert capsys.readouterr().out.split() == [str(k) for k in snn.predict(IMAGES).argmax(1).tolist()]


LAYERS = {
    "a softmax": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Softmax(1)), {},
                  "layer .*softmax.* has no form"),
    "a transposed convolution": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)), {}, r"layer '2' .*ConvTranspose2d"),
    "no folding": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()), {"fold": False},
                   "layer '3' is a neuron whose threshold"),
    "currents of a layer": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)), {},
                            "layer '3' reads the currents of another layer"),
    "another activation": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), {}, "layer '1' is a neuron with an activation"),
    "reflection": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), {},
        "layer '2.pad' pads with"),
    "many levels": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)), {"time_steps": 17}, "levels"),
    "a mean over samples": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2, padding=1)), {},
                            "layer '2' is an average over borders"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_integers_cannot_express(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ann, options, message = LAYERS[name]
    snn = converted(ann.eval(), IMAGES, **options)
    with pytest.raises(sjpc.ConfigError, match=message):
        sjpc.export_integers(snn, tmp_path)
    assert not list(tmp_path.iterdir())


def test_networks_that_integers_cannot_express(tmp_path: Path) -> None:
    membrane = converted(residual(), IMAGES, mode="parallel", shortcut="membrane")
    cases = [(residual(), "got Residual"), (convert(detector(), PARTS), "in parts")]
    if any(isinstance(m, nn.Module) and "ToLevels" in type(m).__name__ for m in membrane.net.modules()):
        cases.append((membrane, "shortcut='spikes'"))
    for network, message in cases:
        with pytest.raises(sjpc.ConfigError, match=message):
            sjpc.export_integers(network, tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(sjpc.FileError, match="cannot be written"):
        sjpc.export_integers(converted(residual(), IMAGES), tmp_path / "file")
