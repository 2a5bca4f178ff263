"""With calibration data, convolutions that read images and currents have int8 weights as well."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from nets import IMAGES
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu.int8_layers import Int8Conv2d, Int8Layer

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")), reason="no oneDNN"
)


def network(**options: object) -> sjpc.SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5),
    ).eval()  # fmt: skip
    options = {"time_steps": 8, "calibration": "none", "show_progress": False} | options
    return sjpc.ParallelConverter([IMAGES], **options).convert(ann)


def reading_floats(snn: sjpc.SpikingNetwork) -> dict[str, tuple[float, int]]:
    layers = {name: module for name, module in snn.net.named_modules() if isinstance(module, Int8Layer)}
    return {name: tuple(layer.code) for name, layer in layers.items() if layer.reads is not None}


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@torch.no_grad()
def test_near_the_float_network(mode: str) -> None:
    snn = network(mode=mode)
    small = sjpc.to_int8(snn, [IMAGES])
    assert list(reading_floats(small)) == ["0", "3"] and not reading_floats(sjpc.to_int8(snn))
    expected = snn.predict(IMAGES)
    assert (small.predict(IMAGES) - expected).norm() < 0.1 * expected.norm()
    for size in (1, 3):
        torch.testing.assert_close(small.predict(IMAGES[:size]), small.predict(IMAGES)[:size])


@torch.no_grad()
def test_the_range_of_the_data() -> None:
    """255 steps from the smallest to the largest value, with 0 among them."""
    low, high = IMAGES.min().item(), IMAGES.max().item()
    scale, zero_point = reading_floats(sjpc.to_int8(network(), [IMAGES]))["0"]
    assert scale == pytest.approx((high - low) / 255) and zero_point == round(-low / scale)
    for images, byte in ((IMAGES.abs() + 1, 0), (-IMAGES.abs() - 1, 255)):
        scale, zero_point = reading_floats(sjpc.to_int8(network(), [images]))["0"]
        assert zero_point == byte and scale == pytest.approx(images.abs().max().item() / 255)
    for factor in (0.0, 1e-41):
        assert reading_floats(sjpc.to_int8(network(), [factor * IMAGES]))["0"] == (1.0, 0)
    parts = [(part, torch.zeros(1)) for part in IMAGES.split(1)]
    whole = [{"image": IMAGES, "label": torch.zeros(4)}]
    one, other = (reading_floats(sjpc.to_int8(network(), data)) for data in (parts, whole))
    assert all(one[name] == pytest.approx(other[name]) for name in ("0", "3"))


class TwoInputs(nn.Module):
    """Takes two images by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """:param left: an image. :param right: another. :return: ``[N, 2, H - 4, W - 4]``"""
        return self.last((self.one(left) - self.two(right)).relu())


@torch.no_grad()
def test_several_inputs_by_name() -> None:
    torch.manual_seed(0)
    batch = {"right": 2 * IMAGES, "left": IMAGES}
    snn = sjpc.ParallelConverter([batch], time_steps=8, show_progress=False).convert(TwoInputs().eval())
    codes = reading_floats(sjpc.to_int8(snn, [batch]))
    assert codes["two"][0] == pytest.approx(2 * codes["one"][0])


@torch.no_grad()
def test_the_network_is_left_as_it_was() -> None:
    snn, seen = network(), []
    snn.net.get_submodule("3").register_forward_hook(lambda module, args, y: seen.append(y))
    before = copy.deepcopy(snn.state_dict())
    small = sjpc.to_int8(snn, [IMAGES])
    assert snn.execution == "spikes" and not reading_floats(snn)
    assert all(torch.equal(value, before[key]) for key, value in snn.state_dict().items() if isinstance(value, Tensor))
    seen.clear()
    small.predict(IMAGES)
    assert len(seen) == 1, "hooks go on listening"


@torch.no_grad()
def test_copied_pickled_saved_loaded(tmp_path: Path) -> None:
    small = sjpc.to_int8(network(), [IMAGES])
    expected = small.predict(IMAGES)
    sjpc.save(small, tmp_path / "int8.sjpc")
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), sjpc.load(tmp_path / "int8.sjpc")):
        assert torch.equal(other.predict(IMAGES), expected) and reading_floats(other) == reading_floats(small)
    other = sjpc.to_int8(network(), [3 * IMAGES])
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.predict(IMAGES), expected)


@torch.no_grad()
def test_a_prepacked_network_may_be_given() -> None:
    given = [sjpc.to_int8(snn, [IMAGES]).predict(IMAGES) for snn in (network(), sjpc.prepack(network()))]
    torch.testing.assert_close(*given, rtol=0, atol=0.05)


def test_data_that_cannot_be_run_are_named() -> None:
    for data, message in (
        ([], "no batches|empty"), ([IMAGES, IMAGES[:, :2]], "batch 1"), ([IMAGES.log()], "NaN or infinite"),
        ([IMAGES.new_zeros(2, 3)], "batch 0"), (3, "iterable"),
    ):  # fmt: skip
        with pytest.raises(sjpc.DataError, match=message):
            sjpc.to_int8(network(), data)


@torch.no_grad()
def test_padding_that_is_no_number_stays_in_floats() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3),
    ).eval()  # fmt: skip
    small = sjpc.to_int8(sjpc.ParallelConverter([IMAGES], show_progress=False).convert(ann), [IMAGES])
    assert [name for name, module in small.net.named_modules() if isinstance(module, Int8Conv2d)] == ["2", "5"]
    assert list(reading_floats(small)) == ["5"], "a reflection is an operation of its own"


@torch.no_grad()
def test_outputs_of_padding_alone_are_made_in_floats() -> None:
    """The kernel would give other numbers there at each call."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=2), nn.Conv2d(4, 1, 3, padding=2), nn.Conv2d(1, 4, (2, 3), 2, padding=3),
        nn.Conv2d(4, 4, 2, padding=4, dilation=3), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 2, padding=4),
    ).eval()  # fmt: skip
    snn = sjpc.ParallelConverter([IMAGES], time_steps=8, calibration="none", show_progress=False).convert(ann)
    small = sjpc.to_int8(snn, [IMAGES])
    assert list(reading_floats(small)) == ["0", "1", "4"], "'3' is padded by four, and its kernel is as long"
    expected = snn.predict(IMAGES)
    assert (small.predict(IMAGES) - expected).norm() < 0.05 * expected.norm()
    for size in (1, 3):
        torch.testing.assert_close(small.predict(IMAGES[:size]), small.predict(IMAGES)[:size])
