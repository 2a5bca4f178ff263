"""Small networks, one for each way in which real models are awkward. What each is for stands in its docstring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SharedReLU(nn.Module):
    """One ReLU module at three call sites, two of them in submodules."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), relu)
        self.b = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), relu)
        self.relu, self.head = relu, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.b(self.a(x)).mean((2, 3)) + 0.1))


class SharedConv(nn.Module):
    """A convolution and a BatchNorm that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(F.relu(self.bn(self.conv(x))))))


class ConvWithTwoNorms(nn.Module):
    """A convolution that feeds two BatchNorms: neither may be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.relu(self.bn1(x)) - torch.relu(self.bn2(x))


class ConvReadTwice(nn.Module):
    """A convolution whose result is read by its BatchNorm and by a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(self.bn(x) + x)


class NormOfTwoConvs(nn.Module):
    """One BatchNorm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv1(x)).relu() + self.bn(self.conv2(x)).relu()


class InplaceAdd(nn.Module):
    """``out += x`` where ``x`` and the old ``out`` go on being used under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        same = out
        out += x
        out *= 0.5
        return F.relu(out) + same


class InplaceReLUReadLater(nn.Module):
    """The input of an in-place ReLU is read after it, and has changed by then."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind, self.act = nn.Conv2d(3, 4, 3), kind, nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        before = x * 2
        spelling = {
            "module": lambda: self.act(x),
            "argument": lambda: F.relu(x, inplace=True),
            "F.relu_": lambda: F.relu_(x),
            "torch.relu_": lambda: torch.relu_(x),
            "method": lambda: x.relu_(),
            "clamp_": lambda: x.clamp_(min=0),
            "torch.clamp_": lambda: torch.clamp_(x, min=0),
        }
        return spelling[self.kind]() + x + before


class InplaceOfView(nn.Module):
    """In-place operations on a view change what the view is of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        flat = x.flatten(1)
        flat.relu_()
        return flat.sum(1) + x.sum((1, 2, 3))


class InplaceInBranches(nn.Module):
    """The result of one in-place operation is changed by another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.act(y)
        z.add_(1)
        y.mul_(2)
        return y + z


class SameModuleTwiceInplace(nn.Module):
    """One in-place ReLU, called at two places; both inputs are read later."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        self.act(a)
        b = self.conv2(a)
        self.act(b)
        return a + b


class Concatenated(nn.Module):
    """Concatenation of ReLUs of different size, max pooling and padding."""

    def __init__(self, functional: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 5, padding=2)
        self.bn, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)
        self.functional, self.pool = functional, nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.a(x)), self.b(x).clamp(min=0)], 1)
        x = F.pad(F.relu(self.bn(x)), (0, 1, 0, 1))
        x = F.max_pool2d(x, 3, stride=2, padding=1) if self.functional else self.pool(x)
        return self.head(x).mean((2, 3))


class Tokens(nn.Module):
    """Linear layers on ``[N, L, C]``, with BatchNorm1d over the channels or (as torch reads 3-D input) the tokens."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = norm, nn.Linear(6, 8), nn.Linear(8, 3)
        self.bn = nn.BatchNorm1d(5 if norm == "tokens" else 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.norm == "channels":
            x = self.bn(x.transpose(1, 2)).transpose(1, 2)
        elif self.norm == "tokens":
            x = self.bn(x)
        return self.fc2(F.relu(x)).mean(1)


class NegativeReLUs(nn.Module):
    """relu(-z) without a membrane shortcut around it, in the way of ``kind``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.wide = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        y = F.relu(-z)
        if self.kind == "concatenated":
            return self.wide(torch.cat([F.relu(z), y], 1))
        if self.kind == "read twice":
            return F.relu(self.b(y) + y)
        if self.kind == "magnitude":
            return self.b(F.relu(z) + y)
        if self.kind == "difference":
            return F.relu(self.b(F.relu(z) - y))
        if self.kind == "pooled":
            return self.b(y).mean((2, 3)) + y.mean((2, 3))
        return F.relu(self.b(y)) if self.kind == "alone" else self.b(z + y)


def conv_bn_relu(dim: int, transposed: bool = False, **arguments: object) -> nn.Sequential:
    """Conv-BN-ReLU-pool-head for 1, 2 or 3 spatial dimensions."""
    conv = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dim}d")
    norm, pool = getattr(nn, f"BatchNorm{dim}d"), getattr(nn, f"MaxPool{dim}d")
    return nn.Sequential(
        conv(4, 6, 3, padding=1, **arguments), norm(6), nn.ReLU(), pool(2), nn.Flatten(), nn.LazyLinear(5)
    )


def mlp(norm: bool = True) -> nn.Sequential:
    """Linear + BatchNorm1d."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Linear(8, 3))


def lively(model: nn.Module, x: Tensor | dict[str, Tensor], seed: int = 0) -> nn.Module:
    """
    ``model`` in evaluation mode with statistics and weights that make a wrong pass visible: nothing is 0 or 1.
    ``x`` is its input, or its inputs by name.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.eval()
        # gives lazy layers their shape
        model(**{name: value.clone() for name, value in x.items()}) if isinstance(x, dict) else model(x.clone())
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.3)
    return model


IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
NEGATIVE_KINDS = ["alone", "concatenated", "read twice", "magnitude", "difference", "pooled", "by hand"]
INPLACE_KINDS = ["module", "argument", "F.relu_", "torch.relu_", "method", "clamp_", "torch.clamp_"]


def volume(dim: int) -> Tensor:
    """An input for :func:`conv_bn_relu`."""
    return torch.randn(2, 4, *[6] * dim, generator=torch.Generator().manual_seed(dim))


# Everything above with an input: the network is built anew by each call.
NETS = {
    "shared relu": (SharedReLU, IMAGES),
    "shared conv": (SharedConv, IMAGES),
    "conv with two norms": (ConvWithTwoNorms, IMAGES),
    "conv read twice": (ConvReadTwice, IMAGES),
    "norm of two convs": (NormOfTwoConvs, IMAGES),
    "in-place in branches": (InplaceInBranches, IMAGES),
    "same module twice, in place": (SameModuleTwiceInplace, IMAGES),
    "concatenated": (Concatenated, IMAGES),
    "concatenated, functional pool": (lambda: Concatenated(True), IMAGES),
    "tokens": (lambda: Tokens("none"), TOKENS),
    "tokens, norm over channels": (lambda: Tokens("channels"), TOKENS),
    "tokens, norm over tokens": (lambda: Tokens("tokens"), TOKENS),
    "mlp": (mlp, TOKENS[:, 0]),
    "conv 1d": (lambda: conv_bn_relu(1), volume(1)),
    "conv 2d": (lambda: conv_bn_relu(2), volume(2)),
    "conv 3d": (lambda: conv_bn_relu(3), volume(3)),
    "conv 2d, groups, no bias": (lambda: conv_bn_relu(2, groups=2, bias=False), volume(2)),
    "transposed 1d": (lambda: conv_bn_relu(1, True), volume(1)),
    "transposed 2d, stride": (lambda: conv_bn_relu(2, True, stride=2), volume(2)),
    "transposed 3d": (lambda: conv_bn_relu(3, True), volume(3)),
    "transposed 2d, groups": (lambda: conv_bn_relu(2, True, groups=2), volume(2)),
    **{f"negative, {k}": (lambda k=k: NegativeReLUs(k), IMAGES) for k in NEGATIVE_KINDS},
    **{f"in place, {k}": (lambda k=k: InplaceReLUReadLater(k), IMAGES) for k in INPLACE_KINDS},
}


def net(name: str) -> tuple[nn.Module, Tensor]:
    """A fresh network of :data:`NETS` and an input for it."""
    make, x = NETS[name]
    torch.manual_seed(0)
    return lively(make(), x), x
