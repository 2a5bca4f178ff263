"""What real networks do between their activations: nothing of it may mix up time and batch, or change the outputs."""

from __future__ import annotations

import pytest
import torch
from nets import lively
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

import sj_parallel_conversion as sjpc


class ClassToken(nn.Module):
    """ViT: a parameter that is expanded to the batch, position embedding, attention, assertion on the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.position, self.norm = nn.Parameter(torch.randn(1, 10, 8)), nn.LayerNorm(8)
        self.attention, self.mlp = nn.MultiheadAttention(8, 2, batch_first=True), nn.Sequential(
            nn.Linear(8, 16), nn.GELU(), nn.Dropout(inplace=True), nn.Linear(16, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        torch._assert(h == 12, "wrong height")
        torch._assert(w == 12, "wrong width")
        x = self.conv(x).reshape(n, 8, 9).permute(0, 2, 1)
        x = torch.cat([self.token.expand(n, -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return (x + self.mlp(self.norm(x)))[:, 0]


class Shuffle(nn.Module):
    """ShuffleNet: chunk, view, transpose, contiguous, cat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.stem(x)).chunk(2, dim=1)
        x = torch.cat((a, self.branch(b)), dim=1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


class SqueezeExcite(nn.Module):
    """EfficientNet and MobileNet: a gate from the mean, a product of two activations, functional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return F.max_pool2d(gate * x, 2).flatten(1)


class Segmentation(nn.Module):
    """A dict of outputs, an auxiliary head, interpolation to the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Hardswish(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
        self.head, self.aux = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size, x = x.shape[-2:], self.body(x)
        deep = self.deep(x)
        return {
            "out": F.interpolate(self.head(deep), size=size, mode="bilinear", align_corners=False),
            "aux": F.interpolate(self.aux(x), size=size, mode="nearest"),
        }


class ManyOutputs(nn.Module):
    """A nested tuple of outputs: trains, values after a softmax, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple:
        features = F.elu(self.conv(x))
        logits = self.head(features.mean((2, 3)))
        return features, (logits, logits.softmax(1)), logits.shape[1]


class BatchInside(nn.Module):
    """Batch and windows in one axis, as in Swin; batch last, as in older transformers; a table made for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mlp = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = self.conv(x).permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, 4).transpose(2, 3).reshape(-1, 4, 4)
        x = self.mlp(x).reshape(n, -1, 4).transpose(0, 1)
        x = F.leaky_relu(x + torch.zeros(1, 4).repeat(n, 1)).transpose(0, 1)
        return x.sum(1) - x.mean(1)


class Randomised(nn.Module):
    """Dropouts of every kind, none of which may act."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.drop(F.mish(self.conv(x))), 0.9, training=self.training, inplace=True)
        return F.dropout2d(F.alpha_dropout(x, 0.9, self.training), 0.9, training=self.training).mean((2, 3))


class TimeMajor(nn.Module):
    """A clip [N, C, D, H, W] whose frames go through a 2-D network: the user's own time axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.temporal = nn.Conv2d(3, 4, 3), nn.Conv1d(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, d, h, w = x.shape
        x = F.softplus(self.conv(x.transpose(1, 2).reshape(n * d, c, h, w))).mean((2, 3))
        return F.selu(self.temporal(x.view(n, d, -1).transpose(1, 2)))


NETS = [ClassToken, Shuffle, SqueezeExcite, Segmentation, ManyOutputs, BatchInside, Randomised, TimeMajor]


def ann_and_images(kind: type[nn.Module], n: int) -> tuple[nn.Module, Tensor]:
    """In float64, where the batch size does not move values across a step of the quantiser."""
    torch.manual_seed(0)
    ann, x = kind(), torch.randn(n, 3, *([3] if kind is TimeMajor else []), 12, 12)
    return lively(ann, x).double(), x.double()


def convert(ann: nn.Module, x: Tensor, T: int, mode: str = "css") -> sjpc.SpikingNetwork:
    options = {"threshold": "max", "calibration": "none", "show_progress": False}
    return sjpc.ParallelConverter([x], mode, T, **options).convert(ann)


def select(outputs: object, which: slice) -> list[Tensor]:
    return [y[which] for y in tree_leaves(outputs) if isinstance(y, Tensor)]


def assert_close(outputs: object, others: object) -> None:
    torch.testing.assert_close(select(outputs, slice(None)), select(others, slice(None)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["css", "spikepack", "parallel"])
@pytest.mark.parametrize("kind", NETS)
@torch.no_grad()
def test_approaches_the_ann(kind: type[nn.Module], mode: str) -> None:
    ann, x = ann_and_images(kind, 3)
    expected = ann(x)
    for T, limit in ((8, 0.01), (16, 1e-6)) if mode != "parallel" else ((64, 0.05), (4096, 1e-4)):
        outputs = convert(ann, x, T, mode).predict(x)
        assert type(outputs) is type(expected)
        for y, z in zip(select(outputs, slice(None)), select(expected, slice(None)), strict=True):
            assert (y - z).square().sum() <= limit * z.square().sum()


@pytest.mark.parametrize("traced_with", [1, 4])
@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("kind", NETS)
@torch.no_grad()
def test_time_and_batch(kind: type[nn.Module], T: int, traced_with: int) -> None:
    """Batches of 1, of T and others, whatever the calibration's were."""
    ann, x = ann_and_images(kind, 4)
    snn = convert(ann, x[:traced_with], T)
    together = snn.predict(x)
    for n in {1, T, 3}:
        assert_close(select(together, slice(0, n)), snn.predict(x[:n]))
        snn.step_mode = "m"
        x_seq = x[:n].expand(T, *x[:n].shape)
        y_seq = snn(x_seq)
        assert all(y.shape[:2] == (T, n) for y in tree_leaves(y_seq) if isinstance(y, Tensor) and y.dim() > 1)
        assert_close(snn.decode(y_seq), snn.predict(x[:n]))
        snn.execution = "packed"
        assert_close(snn.decode(snn(x_seq)), snn.predict(x[:n]))
        snn.execution, snn.step_mode = "spikes", "s"


@pytest.mark.parametrize("kind", NETS)
@torch.no_grad()
def test_steps_of_the_output_have_the_right_mean(kind: type[nn.Module]) -> None:
    """An input that changes over time acts through its mean, in order of the batch and not of time."""
    ann, x = ann_and_images(kind, 4)
    snn = convert(ann, x, 4)
    snn.step_mode = "m"
    change = torch.randint(-8, 9, (4, *x.shape), generator=torch.Generator().manual_seed(0)).to(x) / 4
    change[-1] = -change[:-1].sum(0)
    assert_close(snn.decode(snn(x + change)), snn.predict(x))
    single = tree_map(lambda y: y[2:3] if isinstance(y, Tensor) else y, snn.predict(x))
    assert_close(snn.decode(snn((x + change)[:, 2:3])), single)


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
@pytest.mark.parametrize("mode", ["css", "spikepack", "parallel"])
@pytest.mark.parametrize(
    "activation", [nn.GELU(), nn.SiLU(), nn.PReLU(6, 0.2), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.3), nn.Hardtanh()]
)
@torch.no_grad()
def test_every_calibration_serves_every_activation(activation: nn.Module, mode: str, calibration: str) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 6, 3), activation, nn.Conv2d(6, 6, 3), activation, nn.Flatten(), nn.Linear(96, 5)
    ).eval()
    x = torch.randn(64, 3, 8, 8)
    options = {"threshold": "mse", "show_progress": False, "calibration": calibration}
    snn = sjpc.ParallelConverter([x], mode, 6 if mode != "parallel" else 16, **options).convert(ann)
    error = (snn.predict(x) - ann(x)).square().mean() / ann(x).var()
    assert error < (0.05 if mode == "parallel" else 0.02)


@torch.fx.wrap
def _shrink(x: Tensor, sizes: list[int]) -> Tensor:
    sizes[0] = min(sizes[0], x.shape[-1])
    return x[..., : sizes[0]]


class ChangesItsArgument(nn.Module):
    """A function that writes to a list of the graph, as torchvision's 3-D Swin has."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(_shrink(x, [100]))


@torch.no_grad()
@pytest.mark.parametrize("calibration", ["none", "least_squares"])
def test_functions_may_change_their_lists(calibration: str) -> None:
    x = torch.rand(2, 3, 5)
    options = {"threshold": "max", "calibration": calibration, "show_progress": False}
    snn = sjpc.ParallelConverter([x], "css", 10, **options).convert(ChangesItsArgument())
    torch.testing.assert_close(snn.predict(x), x, rtol=0.01, atol=0.01)
