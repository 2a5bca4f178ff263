"""Spellings of activations, and of what is none: functions of a module with two parameters, and of a value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INF = math.inf
RELUS = {
    "module": lambda m, x: m.relu(x),
    "module, in place": lambda m, x: m.relu_in_place(x),
    "F.relu": lambda m, x: F.relu(x),
    "F.relu(input=)": lambda m, x: F.relu(input=x),
    "F.relu(inplace)": lambda m, x: F.relu(x, inplace=True),
    "F.relu_": lambda m, x: F.relu_(x),
    "torch.relu": lambda m, x: torch.relu(x),
    "torch.relu_": lambda m, x: torch.relu_(x),
    "x.relu": lambda m, x: x.relu(),
    "x.relu_": lambda m, x: x.relu_(),
    "x.clamp(min=0)": lambda m, x: x.clamp(min=0),
    "x.clamp(0)": lambda m, x: x.clamp(0),
    "x.clamp(min=0.0)": lambda m, x: x.clamp(min=0.0),
    "x.clamp_(min=0)": lambda m, x: x.clamp_(min=0),
    "x.clamp(min=tensor)": lambda m, x: x.clamp(min=torch.tensor(0.0)),
    "x.clip(min=0)": lambda m, x: x.clip(min=0),
    "x.clamp_min(0)": lambda m, x: x.clamp_min(0),
    "x.clamp_min_(0)": lambda m, x: x.clamp_min_(0),
    "torch.clamp(x, min=0)": lambda m, x: torch.clamp(x, min=0),
    "torch.clip(x, min=0)": lambda m, x: torch.clip(x, min=0),
    "torch.clamp_min(x, 0)": lambda m, x: torch.clamp_min(x, 0),
    "F.threshold": lambda m, x: F.threshold(x, 0, 0),
    "maximum of zeros": lambda m, x: torch.maximum(x, torch.zeros_like(x)),
    "max of a number": lambda m, x: torch.max(x, torch.tensor(0.0)),
    "where": lambda m, x: torch.where(x > 0, x, 0.0),
    "where zeros": lambda m, x: torch.where(x > 0, x, torch.zeros_like(x)),
    "masked_fill": lambda m, x: x.masked_fill(x < 0, 0.0),
    "half of x + |x|": lambda m, x: (x + x.abs()) / 2,
    "twice": lambda m, x: F.relu(F.relu(x)),
}
# Spelling: the module of torch that it becomes.
KNOWN = {
    "F.relu6": (nn.ReLU6(), lambda m, x: F.relu6(x)),
    "x.clamp(0, 6)": (nn.ReLU6(), lambda m, x: x.clamp(0, 6)),
    "torch.clamp(x, 0, 6)": (nn.ReLU6(), lambda m, x: torch.clamp(x, 0, 6)),
    "F.hardtanh(x, 0, 4)": (nn.Hardtanh(0, 4), lambda m, x: F.hardtanh(x, 0, 4)),
    "a trained bound": (nn.Hardtanh(0.0, 0.75), lambda m, x: torch.clamp(x, torch.tensor(0.0), m.scalar)),
    "F.sigmoid": (nn.Sigmoid(), lambda m, x: F.sigmoid(x)),
    "x.sigmoid_": (nn.Sigmoid(), lambda m, x: x.sigmoid_()),
    "torch.special.expit": (nn.Sigmoid(), lambda m, x: torch.special.expit(x)),
    "F.hardsigmoid": (nn.Hardsigmoid(), lambda m, x: F.hardsigmoid(x, inplace=True)),
    "torch.tanh": (nn.Tanh(), lambda m, x: torch.tanh(x)),
    "x.tanh_": (nn.Tanh(), lambda m, x: x.tanh_()),
    "F.gelu": (nn.GELU(), lambda m, x: F.gelu(x)),
    "F.gelu(tanh)": (nn.GELU("tanh"), lambda m, x: F.gelu(x, approximate="tanh")),
    "F.silu": (nn.SiLU(), lambda m, x: F.silu(x, inplace=True)),
    "F.mish": (nn.Mish(), lambda m, x: F.mish(x)),
    "F.hardswish": (nn.Hardswish(), lambda m, x: F.hardswish(x)),
    "F.softplus": (nn.Softplus(), lambda m, x: F.softplus(x)),
    "F.softplus(2, 5)": (nn.Softplus(2, 5), lambda m, x: F.softplus(x, 2, threshold=5)),
    "F.elu(0.5)": (nn.ELU(0.5), lambda m, x: F.elu(x, alpha=0.5)),
    "F.elu_": (nn.ELU(), lambda m, x: F.elu_(x)),
    "F.celu": (nn.CELU(0.7), lambda m, x: F.celu(x, 0.7)),
    "torch.selu_": (nn.SELU(), lambda m, x: torch.selu_(x)),
    "F.leaky_relu": (nn.LeakyReLU(0.1), lambda m, x: F.leaky_relu(x, 0.1)),
    "F.leaky_relu_": (nn.LeakyReLU(0.3), lambda m, x: F.leaky_relu_(x, 0.3)),
    "F.rrelu": (nn.LeakyReLU(0.15), lambda m, x: F.rrelu(x, 0.1, 0.2, training=False)),
    "nn.RReLU": (nn.LeakyReLU((1 / 8 + 1 / 3) / 2), lambda m, x: m.rrelu(x)),
    "F.prelu": (nn.PReLU(4), lambda m, x: F.prelu(x, weight=m.slopes)),
    "x.prelu": (nn.PReLU(4), lambda m, x: x.prelu(m.slopes)),
    "F.logsigmoid": (nn.LogSigmoid(), lambda m, x: F.logsigmoid(x)),
    "x.hardshrink": (nn.Hardshrink(), lambda m, x: x.hardshrink()),
    "F.softshrink": (nn.Softshrink(0.2), lambda m, x: F.softshrink(x, lambd=0.2)),
    "F.threshold": (nn.Threshold(0.1, -0.2), lambda m, x: F.threshold(x, 0.1, -0.2)),
    "F.hardtanh_": (nn.Hardtanh(-2, 0.5), lambda m, x: F.hardtanh_(x, -2, 0.5)),
    "x.clamp(-1, 2)": (nn.Hardtanh(-1, 2), lambda m, x: x.clamp(-1, 2)),
    "x.clamp(max=1)": (nn.Hardtanh(-INF, 1), lambda m, x: x.clamp(max=1)),
    "torch.clamp_max": (nn.Hardtanh(-INF, 0.5), lambda m, x: torch.clamp_max(x, max=0.5)),
    "torch.clamp_min": (nn.Hardtanh(-0.5, INF), lambda m, x: torch.clamp_min(x, -0.5)),
}
# Spelling: the least and the greatest value.
COMPOSED = {
    "swish": ((-0.2785, INF), lambda m, x: x * x.sigmoid()),
    "swish by exp": ((-0.2785, INF), lambda m, x: x / (1 + torch.exp(-x))),
    "swish in place": ((-0.2785, INF), lambda m, x: torch.sigmoid(x).mul_(x)),
    "swish, trained": ((-0.3713, INF), lambda m, x: x * torch.sigmoid(m.scalar * x)),
    "quick gelu": ((-0.1636, INF), lambda m, x: x * torch.sigmoid(1.702 * x)),
    "hard swish": ((-0.375, INF), lambda m, x: x * F.relu6(x + 3) / 6),
    "mish": ((-0.3089, INF), lambda m, x: x * torch.tanh(F.softplus(x))),
    "mish by log": ((-0.3089, INF), lambda m, x: x * torch.tanh(torch.log(1 + torch.exp(x)))),
    "gelu by formula": ((-0.17, INF), lambda m, x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu by tanh": (
        (-0.1701, INF), lambda m, x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "sigmoid by exp": ((0.0, 1.0), lambda m, x: 1 / (1 + torch.exp(-x))),
    "tanh by exp": ((-1.0, 1.0), lambda m, x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
    "softplus by exp": ((0.0, INF), lambda m, x: torch.log(1 + torch.exp(x))),
    "softplus by log1p": ((0.0, INF), lambda m, x: x.exp().log1p()),
    "elu by exp": ((-1.0, INF), lambda m, x: torch.where(x > 0, x, torch.exp(x) - 1)),
    "leaky relu by maximum": ((-INF, INF), lambda m, x: torch.maximum(x, 0.1 * x)),
    "leaky relu by where": ((-INF, INF), lambda m, x: torch.where(x > 0, x, 0.1 * x)),
    "leaky relu by relus": ((-INF, INF), lambda m, x: F.relu(x) - 0.1 * F.relu(-x)),
    "prelu by hand": ((-INF, INF), lambda m, x: F.relu(x) + m.slopes.view(4, 1, 1) * (x - x.abs()) / 2),
    "squared relu": ((0.0, INF), lambda m, x: F.relu(x) ** 2),
    "squared relu by square": ((0.0, INF), lambda m, x: F.relu(x).square()),
    "relu times itself": ((0.0, INF), lambda m, x: (y := F.relu(x)) * y),
    "softsign": ((-INF, INF), lambda m, x: F.softsign(x)),
    "softsign by hand": ((-INF, INF), lambda m, x: x / (1 + x.abs())),
    "nn.Softsign": ((-INF, INF), lambda m, x: m.softsign(x)),
    "tanhshrink": ((-INF, INF), lambda m, x: F.tanhshrink(x)),
    "tanhshrink by hand": ((-INF, INF), lambda m, x: x - torch.tanh(x)),
    "log sigmoid by hand": ((-INF, 0.0), lambda m, x: x.sigmoid().log()),
    "erf": ((-1.0, 1.0), lambda m, x: torch.erf(x)),
    "atan": ((-INF, INF), lambda m, x: torch.arctan(x)),
    "snake": ((-INF, INF), lambda m, x: x + torch.sin(x) ** 2),
    "bell": ((0.0, 1.0), lambda m, x: torch.exp(-(x**2))),
    "square": ((0.0, INF), lambda m, x: x**2),
    "square by product": ((0.0, INF), lambda m, x: x * x),
    "squareplus": ((0.0, INF), lambda m, x: (x + (x * x + 1).sqrt()) / 2),
    "magnitude": ((0.0, INF), lambda m, x: x.abs()),
    "sign": ((-1.0, 1.0), lambda m, x: torch.sign(x)),
    "clip by min and max": ((0.0, 1.0), lambda m, x: torch.min(torch.max(x, torch.tensor(0.0)), torch.ones_like(x))),
    "PACT": ((0.0, 0.75), lambda m, x: 0.5 * (x.abs() - (x - m.scalar).abs() + m.scalar)),
    "in steps": ((-2.0, 2.0), lambda m, x: torch.round(x.clamp(-2, 2) * 2) / 2),
}  # fmt: skip
# What an affine operation at either end is: no part of the activation if the rest is a known one.
ENDS = {
    "scaled": (nn.ReLU, lambda m, x: 2 * F.relu(x)),
    "shifted": (nn.ReLU, lambda m, x: F.relu(x) + 1),
    "scaled by channel": (nn.ReLU, lambda m, x: m.slopes.view(4, 1, 1) * F.relu(x)),
    "of a scaled value": (nn.ReLU, lambda m, x: F.relu(2 * x)),
    "of a value that is shifted by channel": (nn.ReLU, lambda m, x: F.relu(x + m.slopes.view(4, 1, 1))),
    "hard sigmoid": (nn.ReLU6, lambda m, x: F.relu6(x + 3) / 6),
    "tanh by sigmoid": (nn.Sigmoid, lambda m, x: 2 * torch.sigmoid(2 * x) - 1),
}
NO_ACTIVATION = {
    "a normalisation by the root of mean squares": lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "the same with x * x": lambda m, x: x / (x * x).sum(1, keepdim=True).sqrt(),
    "squares of groups": lambda m, x: x / x.square().reshape(x.shape[0], -1).mean(1).sqrt().view(-1, 1, 1, 1),
    "a standardisation": lambda m, x: ((y := x - x.mean(1, keepdim=True)) / (y**2).mean(1, keepdim=True).sqrt()),
    "a norm": lambda m, x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-6),
    "F.normalize": lambda m, x: F.normalize(x),
    "local response": lambda m, x: F.local_response_norm(x, 2),
    "generalised mean": lambda m, x: F.avg_pool2d(x.clamp(min=1e-6).pow(3), 2).pow(1 / 3),
    "softmax by hand": lambda m, x: (y := (x - x.amax(1, keepdim=True)).exp()) / y.sum(1, keepdim=True),
    "softmax": lambda m, x: x.softmax(1),
    "log softmax by hand": lambda m, x: x - x.exp().sum(1, keepdim=True).log(),
    "a scale that is trained": lambda m, x: x / m.scalar.exp().clamp(max=100),
    "a guard against overflow": lambda m, x: x.clamp(-1e4, 1e4),
    "a guard against NaN": lambda m, x: x.nan_to_num(),
    "clamp above 0": lambda m, x: x.clamp(0.5, 2),
    "clamp below 0": lambda m, x: x.clamp(max=-0.5),
    "an empty range": lambda m, x: x.clamp(0, 0),
    "bounds that are computed": lambda m, x: x.clamp(x.mean() - x.mean(), x.amax()),
    "a slope that is computed": lambda m, x: torch.prelu(x, x.mean().view(1)),
    "a threshold without 0": lambda m, x: F.threshold(x, 0.5, 3.0),
    "a mask from elsewhere": lambda m, x: x.masked_fill((x.mean(1, keepdim=True) > 0), 0.0),
    "a mask that is added": lambda m, x: x + (1.0 - (x.mean(1, keepdim=True) > 0).float()) * -1e4,
    "a constant mask": lambda m, x: torch.where(m.slopes.view(4, 1, 1) > 0, x, 0.0),
    "glu": lambda m, x: F.glu(x, 1),
    "a value without gradients": lambda m, x: x.detach() * 2,
    "a product of two values": lambda m, x: x * x.flip(1),
    "coordinates": lambda m, x: x - x.floor(),
    "integers": lambda m, x: x.argmax(1, keepdim=True).clamp(min=0) + x,
    "what cannot be 0": lambda m, x: F.hardtanh(x, 0.5, 2),
    "a root that cannot be 0": lambda m, x: (x.tanh() + 2).sqrt(),
    "a dropout that is off": lambda m, x: F.dropout(x, 0.5, training=False),
}


class Spelt(nn.Module):
    """
    Activations of one convolution each.

    :param spellings: functions of this module and of the convolution's result
    """

    def __init__(self, spellings: dict[str, object]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3) for _ in spellings)
        self.spellings = spellings
        self.slopes = nn.Parameter(torch.tensor([0.1, -0.3, 0.5, 2]))
        self.scalar = nn.Parameter(torch.tensor(0.75))
        self.relu, self.relu_in_place, self.rrelu, self.softsign = nn.ReLU(), nn.ReLU(True), nn.RReLU(), nn.Softsign()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.spellings.items(), self.convs, strict=True)
        return {name: function(self, conv(x)) for (name, function), conv in pairs}
