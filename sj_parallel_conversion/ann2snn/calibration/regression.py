"""Ridge regression for layers: the change of weights and bias that brings their output nearer to a target."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from .outliers import is_usual

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to the mean variance of the inputs
_DEFAULT_RIDGE = 1e-2  # where no image can be held out
_ROWS = 131_072  # samples a layer; more change the solution less than the choice of images does
_ELEMENTS = 2**26  # of the regression's input, which is what limits its memory


class LayerSamples:
    """
    Samples of what goes into a layer and of what should come out of it.

    :param layer: a linear layer, or a convolution of any dimension, stride, padding, dilation and groups
    :param images: how many images will be added
    """

    def __init__(self, layer: nn.Module, images: int) -> None:
        self.layer = layer
        self.groups = getattr(layer, "groups", 1)
        rows = min(_ROWS, _ELEMENTS // (layer.weight[0].numel() * self.groups))
        self._per_image = max(1, rows // images)
        self._generator = torch.Generator().manual_seed(0)
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._image: list[Tensor] = []
        self._images = 0

    def add(self, u: Tensor, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """
        :param u: the layer's input, a batch
        :param output: what comes out, or that plus what is added to it
        :param target: what should come out, same shape
        :param weight: of the squared errors, the same for all channels, broadcastable to ``output``; ``None``: 1
        """
        to_rows = _linear_rows if isinstance(self.layer, nn.Linear) else _conv_rows
        places = output[0, ..., 0].numel() if isinstance(self.layer, nn.Linear) else output[0, 0].numel()
        kept = torch.randperm(places, generator=self._generator)[: self._per_image].to(u.device)
        self._inputs.append(F.pad(to_rows(self.layer, u, kept), (0, 1), value=1.0))
        self._outputs.append(self._pick(output, kept))
        self._targets.append(self._pick(target, kept))
        weight = torch.ones((), device=u.device) if weight is None else weight
        self._weights.append(self._pick(weight.expand_as(output), kept)[0, :, 0])
        self._image.append(torch.arange(len(u)).repeat_interleave(len(kept)) + self._images)
        self._images += len(u)

    def joined(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        :return: inputs ``[groups, rows, features + 1]``, outputs and targets ``[groups, rows, channels]``, image
            numbers. Each row is multiplied by the root of its weight, and with it all errors and predictions
        """
        x, z, target = (torch.cat(parts, 1) for parts in (self._inputs, self._outputs, self._targets))
        root, image = torch.cat(self._weights).sqrt().unsqueeze(1), torch.cat(self._image).to(x.device)
        usual = is_usual((target.square().sum(2) + z.square().sum(2)).sum(0).sqrt())
        if not usual.all():  # copies of the rows are a tenth of the time of a conversion
            x, z, target = (rows[:, usual] for rows in (x, z, target))
            root, image = root[usual], image[usual]
        return x.mul_(root), z.mul_(root), target.mul_(root), image

    def _pick(self, y: Tensor, kept: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return y.float().flatten(1, -2)[:, kept].flatten(0, 1).unsqueeze(0) if y.dim() > 2 else y.float()[None]
        y = y.float().flatten(2)[:, :, kept].transpose(0, 1).flatten(1)
        return y.view(self.groups, -1, y.shape[1]).transpose(1, 2)


def fit_change(samples: LayerSamples, rectified: bool, held_out: int) -> Tensor | None:
    r"""
    The change of ``[weight, bias]`` that minimises the squared error of the output, with a ridge penalty that held-out
    images choose. If a rectifier follows, only what passes it counts:

    .. math:: [z^* > 0]\,(z - z^*)^2 + [z^* \le 0]\,\max(z, 0)^2,

    of which the least-squares problem with ``min(z, 0)`` as the target, where z* is negative, is a majorant at the
    present z. One such step is taken: more of them fit the layer ever better and the network ever worse.

    :param samples: inputs, outputs and targets
    :param rectified: whether a rectifier follows
    :param held_out: every how-manieth image is held out
    :return: ``[groups, features + 1, channels]``, or ``None`` if no change helps the held-out images
    """
    x, z, target, image = samples.joined()
    error = (torch.where(target > 0, target, z.clamp(max=0)) if rectified else target) - z
    held = image % held_out == held_out - 1
    sums = _sums(x[:, ~held], error[:, ~held])
    if not held.any() or held.all():
        return _solve(*_sums(x, error), _DEFAULT_RIDGE)
    x, z, target, error = x[:, held], z[:, held], target[:, held], error[:, held]
    best, lowest = None, _loss(z, target, rectified)
    for ridge in _RIDGES:
        loss = _loss(z + x @ _solve(*sums, ridge), target, rectified)
        if loss < lowest:
            best, lowest = ridge, loss
    if best is None:
        return None
    return _solve(*(a + b for a, b in zip(sums, _sums(x, error), strict=True)), best)


def apply_change(layer: nn.Module, change: Tensor) -> None:
    """Add ``change`` ``[groups, features + 1, channels]`` to the weight and bias of ``layer``."""
    flat = change.transpose(1, 2).flatten(0, 1).to(layer.weight.dtype)
    layer.weight.data += flat[:, :-1].reshape_as(layer.weight)
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(flat[:, -1]))
    layer.bias.data += flat[:, -1]


def _sums(x: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """What least squares needs to know of the rows: their covariance, and that with what they shall explain."""
    transposed = x.transpose(1, 2)
    return (transposed @ x).double(), (transposed @ error).double()


def _solve(covariance: Tensor, explained: Tensor, ridge: float) -> Tensor:
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    scale = diagonal[:, :-1].mean(1, keepdim=True)
    penalty = (ridge * scale).expand_as(diagonal).clone()
    penalty[:, -1] = 1e-6 * diagonal[:, -1]  # the bias is free
    factor = torch.linalg.cholesky(covariance + torch.diag_embed(penalty + 1e-9 * scale + 1e-12))
    return torch.cholesky_solve(explained, factor).float()


def _loss(z: Tensor, target: Tensor, rectified: bool) -> float:
    error = torch.where(target > 0, z - target, z.clamp(min=0)) if rectified else z - target
    return float(error.double().square().sum())


def _linear_rows(layer: nn.Linear, u: Tensor, kept: Tensor) -> Tensor:
    u = u.float()
    return (u.flatten(1, -2)[:, kept].flatten(0, 1) if u.dim() > 2 else u).unsqueeze(0)


def _conv_rows(layer: _ConvNd, u: Tensor, kept: Tensor) -> Tensor:
    """Patches at the ``kept`` output places, ``[groups, rows, features]`` in the order of ``weight[0].flatten()``."""
    u = _pad(layer, u.float())
    index = _patch_index(layer, u.shape[2:], kept)
    n, groups, (places, taps) = len(u), layer.groups, index.shape
    patches = u.flatten(2)[:, :, index.flatten()].view(n, groups, -1, places, taps)
    return patches.permute(1, 0, 3, 2, 4).reshape(groups, n * places, -1)


def _pad(layer: _ConvNd, u: Tensor) -> Tensor:
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(0, 0) if layer.padding == "valid" else (p, p) for p in (layer.padding or layer.kernel_size)]
    flat = [amount for pair in reversed(pairs) for amount in pair]
    return F.pad(u, flat, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def _patch_index(layer: _ConvNd, size: torch.Size, kept: Tensor) -> Tensor:
    """Where in the flattened map the taps of each kept output place lie, ``[places, taps]``."""
    axes = list(zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True))
    counts = [(s - d * (k - 1) - 1) // step + 1 for s, k, step, d in axes]
    strides = [1]
    for s in reversed(size[1:]):
        strides.insert(0, strides[0] * s)
    starts = torch.zeros(1, dtype=torch.long)
    for count, (_, _, step, _), stride in zip(counts, axes, strides, strict=True):
        starts = (starts.unsqueeze(1) + torch.arange(count) * (step * stride)).flatten()
    taps = [
        sum(t * d * stride for t, (_, _, _, d), stride in zip(tap, axes, strides, strict=True))
        for tap in itertools.product(*(range(k) for k in layer.kernel_size))
    ]
    return starts.to(kept.device)[kept].unsqueeze(1) + torch.tensor(taps, device=kept.device)
