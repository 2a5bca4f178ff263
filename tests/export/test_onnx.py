"""export_onnx: what ONNX Runtime makes of the file is what predict gives."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import IMAGES, converted, names, needs_torch_2_8, onnx_run, residual, session, small
from given_levels import FileWithLevels, NetworkWithLevels
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

pytestmark = needs_torch_2_8


def close(found: np.ndarray, expected: Tensor, rtol: float = 1e-5) -> None:
    """Up to ``rtol`` of the largest value."""
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=rtol * expected.abs().max().item())


def test_a_small_network(tmp_path: Path) -> None:
    snn = converted(residual(), IMAGES, mode="parallel")
    snn.execution = "spikes"
    sjpc.export_onnx(snn, tmp_path / "n.onnx")
    onnx.checker.check_model(tmp_path / "n.onnx", full_check=True)
    assert onnx.load(tmp_path / "n.onnx").opset_import[0].version >= 18
    assert names(tmp_path / "n.onnx") == (["x"], ["output"]) and snn.execution == "spikes"
    for x in (IMAGES, IMAGES[:1], IMAGES[:3]):
        close(onnx_run(tmp_path / "n.onnx", x)[0], snn.predict(x))


def test_all_currents_agree_where_the_levels_do(tmp_path: Path) -> None:
    snn = small()
    sjpc.export_onnx(snn, tmp_path / "n.onnx")
    (found,), levels = FileWithLevels(tmp_path / "n.onnx", tmp_path).run(IMAGES)
    output, errors = NetworkWithLevels(snn).given(levels, IMAGES)
    close(found, output)
    assert len(errors) == len(snn.neurons()) == 5 and max(errors) < 1e-5


@pytest.mark.parametrize("options", [{"mode": "parallel"}, {"calibration": "da_qcfs"}, {"mode": "css"}])
def test_levels_of_ties(options: dict[str, object], tmp_path: Path) -> None:
    """A neuron alone makes the same levels of the same values, ties between two levels among them."""
    x = torch.cat([torch.arange(-40, 41) / 16, torch.randn(47)]).view(-1, 2)
    snn = converted(nn.ReLU(), x, fold=False, **options)
    sjpc.export_onnx(snn, tmp_path / "n.onnx")
    found = onnx_run(tmp_path / "n.onnx", x)[0]
    assert session(tmp_path / "n.onnx").get_inputs()[0].shape == ["batch", 2]
    assert np.array_equal(found, snn.predict(x).numpy()) and len(np.unique(found)) > 4


class Model(nn.Module):
    """Several inputs, one of integers; a dict with a list in it; free lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, features: list[Tensor], scale: float = 2.0) -> OrderedDict:
        x = F.relu(self.first(self.words(input_ids) + features[0])) * scale
        return OrderedDict(logits=self.head(x + features[1]), none=None, states=[x, (x.mean(1), input_ids)])


def test_names_and_free_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def batch(n: int, length: int) -> dict[str, object]:
        return {"input_ids": torch.randint(0, 11, (n, length)), "features": list(torch.randn(2, n, length, 8))}

    snn = converted(Model().eval(), batch(4, 7))
    path = tmp_path / "n.onnx"
    sjpc.export_onnx(snn, path)
    assert names(path) == (
        ["input_ids", "features.0", "features.1"], ["logits", "states.0", "states.1.0", "states.1.1"]
    )  # fmt: skip
    assert session(path).get_inputs()[1].shape == ["batch", "input_ids_1", 8]
    for shape in ((4, 7), (1, 5), (6, 2)):
        inputs = batch(*shape)
        expected = snn.predict(**inputs)
        wanted = [expected["logits"], expected["states"][0], *expected["states"][1]]
        for found, value in zip(onnx_run(path, inputs["input_ids"], *inputs["features"]), wanted, strict=True):
            close(found, value)


def test_a_transformer(tmp_path: Path) -> None:
    vision = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    ann = vision.VisionTransformer(16, 8, 1, 2, 32, 64, num_classes=10).eval()
    nn.init.normal_(ann.heads.head.weight)
    x = torch.randn(8, 3, 16, 16)
    snn = converted(ann, x, mode="css", time_steps=8, spiking_inputs=True)
    sjpc.export_onnx(snn, tmp_path / "vit.onnx")
    assert session(tmp_path / "vit.onnx").get_inputs()[0].shape == ["batch", 3, 16, 16]
    expected = snn.predict(x)
    agree = np.abs(onnx_run(tmp_path / "vit.onnx", x)[0] - expected.numpy()).max(1) < 1e-5 * expected.abs().max().item()
    assert agree.mean() >= 0.75  # a value that lies on a tie up to rounding may have another level


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, path = small(), tmp_path / "net.onnx"
    path.write_text("old")

    def fails(program: object, destination: str) -> None:
        Path(destination).write_text("half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx.ONNXProgram, "save", fails)
        with pytest.raises(sjpc.FileError, match="no space left"):
            sjpc.export_onnx(snn, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    sjpc.export_onnx(snn, path)
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(path)


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, path = small(), tmp_path / "n.onnx"
    with pytest.raises(sjpc.ConfigError, match=r"float32, and 'stem.weight' is in torch.float64: call snn.float"):
        sjpc.export_onnx(small().double(), path)
    with pytest.raises(sjpc.ConfigError, match="takes a converted network, got Residual"):
        sjpc.export_onnx(residual(), path)
    with pytest.raises(sjpc.FileError, match=r"n\.onnx cannot be written: there is no folder .*absent$"):
        sjpc.export_onnx(snn, tmp_path / "absent" / "n.onnx")
    with pytest.raises(sjpc.FileError, match="cannot be written: it is a folder"):
        sjpc.export_onnx(snn, tmp_path)
    monkeypatch.setattr("sj_parallel_conversion.export.onnx_file.find_spec", lambda name: None)
    with pytest.raises(sjpc.MissingExtraError, match=r"needs onnx and onnxscript: pip install .*\[onnx\]"):
        sjpc.export_onnx(snn, path)
    assert not path.exists()


class Chunks(nn.Module):
    """Two halves of a free size, which onnxscript exports and cannot optimise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.layer(x).relu().chunk(2, 1)
        return x.sum(1) - y.sum(1)


def test_parts_of_a_free_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    snn = converted(Chunks().eval(), torch.randn(4, 8, 6))
    with pytest.warns(UserWarning, match="without onnxscript's optimisation"):
        sjpc.export_onnx(snn, tmp_path / "n.onnx")
    x = torch.randn(3, 6, 6)
    close(onnx_run(tmp_path / "n.onnx", x)[0], snn.predict(x))


class Bessel(nn.Module):
    """An operation that the exporter does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i1(x).sum(1, keepdim=True) + x


def test_an_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    ann = nn.Sequential(OrderedDict(a=nn.Linear(6, 6), inner=Bessel(), b=nn.Linear(6, 6), c=nn.ReLU())).eval()
    snn = converted(ann, torch.randn(8, 6))
    with pytest.raises(sjpc.ConfigError, match=r"because of layer 'inner'.*bessel_i1"):
        sjpc.export_onnx(snn, tmp_path / "n.onnx")
