"""Random networks for the fuzzer: a plan of operations, drawn one by one while a batch runs through them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from nets import lively
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 3
Draw = Callable[[st.SearchStrategy], object]
Step = tuple[str, object, tuple[int, ...]]  # operation, its module's number or argument, the values that it reads

ACTIVATIONS: dict[str, Callable[[], nn.Module] | Callable[[Tensor], Tensor]] = {
    "relu": nn.ReLU, "relu, in place": lambda: nn.ReLU(inplace=True), "relu6": nn.ReLU6, "hardtanh": nn.Hardtanh,
    "hardtanh 0, 2": lambda: nn.Hardtanh(0, 2), "leaky": lambda: nn.LeakyReLU(0.2), "prelu": nn.PReLU, "elu": nn.ELU,
    "selu": nn.SELU, "celu": nn.CELU, "sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid, "tanh": nn.Tanh,
    "silu": nn.SiLU, "hardswish": nn.Hardswish, "mish": nn.Mish, "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"), "softplus": nn.Softplus, "softsign": nn.Softsign,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu, "x.relu": lambda x: x.relu(), "clamp 0": lambda x: x.clamp(min=0),
    "clamp -1, 3": lambda x: torch.clamp(x, -1, 3), "F.silu": F.silu, "F.gelu": F.gelu,
    "x.sigmoid": lambda x: x.sigmoid(), "F.leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "torch.tanh": torch.tanh, "F.hardswish": F.hardswish,
    "swish by hand": lambda x: x * torch.sigmoid(x), "dropout": lambda x: F.dropout(x, 0.3, training=False),
    "half": lambda x: x * 0.5 + 0.1, "softmax": lambda x: x.softmax(1), "1 - x": lambda x: 1 - x,
    "hard swish by hand": lambda x: x * F.relu6(x + 3) / 6, "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "leaky by maximum": lambda x: torch.maximum(x, 0.2 * x), "leaky by where": lambda x: torch.where(x > 0, x, x / 10),
    "squared relu": lambda x: F.relu(x) ** 2, "relu and back": lambda x: x - F.relu(x), "abs": torch.abs,
    "quantiser by hand": lambda x: torch.clamp((x * 2 + 0.5).floor() / 4, 0, 1),
    "norm by hand": lambda x: x / (x.pow(2).mean(1, keepdim=True) + 0.1).sqrt(),
    "F.layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], eps=0.1), "in place": lambda x: in_place(x),
    "methods in place": lambda x: x.clone().mul_(2).add_(0.1).clamp_(min=0),
    "view in place": lambda x: view_in_place(x),
    "F.relu in place": lambda x: F.relu(x * 2, inplace=True), "by size": lambda x: x.sum(1, keepdim=True) / x.shape[1],
    "F.linear": lambda x: F.linear(x, torch.ones(2, x.shape[-1]).to(x) / 4),
}  # fmt: skip


def in_place(x: Tensor) -> Tensor:
    """Writes to a value of its own by an operator."""
    y = x * 0.5
    y += x
    y *= 0.7
    return torch.relu_(y)


def view_in_place(x: Tensor) -> Tensor:
    """Writes to a part of a value, which is read as a whole."""
    y = x * 1.0
    y[:, :1] *= 2
    y.view(len(y), -1)[:, :2] = 0  # of each sample, so that no sample depends on its place in the batch
    return F.relu(y)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1), "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "view": lambda x: x.reshape(x.shape[0], -1), "swap": lambda x: x.transpose(1, 2).contiguous(),
    "mean of the rest": lambda x: x.mean(tuple(range(2, x.dim()))), "first half": lambda x: x.chunk(2, 1)[0],
    "upsample": lambda x: F.interpolate(x, scale_factor=2), "roll": lambda x: torch.roll(x, 1, 1),
    "shuffle": lambda x: x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "pad": lambda x: F.pad(x, (1, 0)), "average": lambda x: F.adaptive_avg_pool2d(x, 2),
    "token of the class": lambda x: torch.cat([torch.ones(1, 1, 1).to(x).expand(x.shape[0], 1, x.shape[2]), x], 1),
}  # fmt: skip


class RandomNet(nn.Module):
    """
    Runs a plan.

    :param modules: the layers
    :param plan: for each step its operation, module number or argument, and the numbers of the values that it reads
    :param outputs: how many of the last values are returned: 1 a tensor, 2 a tuple, 3 a dict
    :param inputs: 1, or 2, the second being ``other``, of the first's shape
    """

    def __init__(self, modules: list[nn.Module], plan: list[Step], outputs: int, inputs: int = 1) -> None:
        super().__init__()
        self.layers, self.plan, self.outputs, self.inputs = nn.ModuleList(modules), plan, outputs, inputs

    def forward(self, x: Tensor, other: Tensor | None = None) -> object:
        """:param x: ``[N, ...]``. :return: a tensor, or a tuple or dict of tensors"""
        values = [x] if other is None else [x, other]
        for step in self.plan:
            values.append(self.run(step, values))
        last = values[-min(self.outputs, len(self.plan)) :]
        if self.outputs == 3:
            return {f"value {i}": value for i, value in enumerate(last)}
        return last[0] if len(last) == 1 else tuple(last)

    def run(self, step: Step, values: list[Tensor]) -> Tensor:
        """One step of the plan."""
        operation, argument, sources = step
        inputs = [values[i] for i in sources]
        if operation == "layer":
            return self.layers[argument](*inputs)
        if operation == "attention":
            return self.layers[argument](inputs[0], inputs[0], inputs[0], need_weights=False)[0]
        if operation in ("function", "shape"):
            return {**FUNCTIONS, **SHAPES}[argument](*inputs)
        return {"add": torch.add, "mul": torch.mul, "cat": lambda a, b: torch.cat([a, b], 1)}[operation](*inputs)


Inputs = Tensor | dict[str, Tensor]


def run(network: Callable[..., object], x: Inputs) -> object:
    """``network`` called with an input, or with inputs by name."""
    return network(**x) if isinstance(x, dict) else network(x)


def each(x: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with each of them changed."""
    return {name: change(value) for name, value in x.items()} if isinstance(x, dict) else change(x)


@st.composite
def networks(draw: Draw) -> tuple[nn.Module, Inputs]:
    """A random network in evaluation mode, float32, and a batch for it: its input, or its inputs by name."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    dim = draw(st.integers(0, 3))
    x = torch.randn(BATCH, 2 * draw(st.integers(1, 3)), *draw(st.tuples(*[st.integers(3, 6)] * dim)))
    modules: list[nn.Module] = []
    plan: list[Step] = []
    inputs = draw(st.sampled_from([1, 1, 1, 2]))
    batch = {"x": x, "other": torch.randn_like(x)}
    values = list(batch.values())[:inputs]
    net = RandomNet(modules, plan, 1)
    for _ in range(draw(st.integers(2, 9))):
        step = _step(draw, modules, values)
        net.layers, net.plan = nn.ModuleList(modules).eval(), [*plan, step]
        try:
            with torch.no_grad():
                value = net.run(step, [v.clone() for v in values])
        except (RuntimeError, IndexError, ValueError):  # a kernel larger than the map, say
            continue
        if 0 < value.numel() < 5000 and value.dim() >= 2:
            plan.append(step)
            values.append(value)
    modules.append(ACTIVATIONS[draw(st.sampled_from(list(ACTIVATIONS)))]())
    plan.append(("layer", len(modules) - 1, (len(values) - 1,)))
    net = RandomNet(modules, plan, draw(st.sampled_from([1, 1, 1, 2, 3])), inputs)
    seed = draw(st.integers(0, 99))
    if inputs == 2:
        return lively(copy.deepcopy(net), batch, seed), batch
    if draw(st.booleans()):
        net = nn.Sequential(net) if net.outputs > 1 else nn.Sequential(net, nn.LazyLinear(4))
    return lively(copy.deepcopy(net), x, seed), x


def _step(draw: Draw, modules: list[nn.Module], values: list[Tensor]) -> Step:
    last = len(values) - 1
    kinds = ["layer"] * 4 + ["norm", "activation", "activation", "function", "shape", "pair", "again"]
    kind = draw(st.sampled_from(kinds))
    if kind == "again" and modules:  # a module that is shared by two places
        number = draw(st.integers(0, len(modules) - 1))
        return "attention" if isinstance(modules[number], nn.MultiheadAttention) else "layer", number, (last,)
    if kind == "pair":
        other = draw(st.integers(0, last))
        return draw(st.sampled_from(["add", "add", "cat", "mul"])), None, (last, other)
    if kind in ("function", "shape"):
        return kind, draw(st.sampled_from(list(FUNCTIONS if kind == "function" else SHAPES))), (last,)
    modules.append({"norm": _norm, "activation": _activation}.get(kind, _layer)(draw, values[-1]))
    return "attention" if isinstance(modules[-1], nn.MultiheadAttention) else "layer", len(modules) - 1, (last,)


def _activation(draw: Draw, x: Tensor) -> nn.Module:
    if draw(st.integers(0, 9)) == 0:
        return nn.PReLU(x.shape[1])
    return ACTIVATIONS[draw(st.sampled_from(list(ACTIVATIONS)))]()


def _norm(draw: Draw, x: Tensor) -> nn.Module:
    choices = [nn.LayerNorm(x.shape[-1], eps=0.1), getattr(nn, f"BatchNorm{max(1, min(3, x.dim() - 2))}d")(x.shape[1])]
    if x.dim() > 2 and x.shape[1] % 2 == 0:
        choices.append(nn.GroupNorm(2, x.shape[1], eps=0.1))
    return choices[draw(st.integers(0, len(choices) - 1))]


def _layer(draw: Draw, x: Tensor) -> nn.Module:
    dim, channels, out = x.dim() - 2, x.shape[1], 2 * draw(st.integers(1, 4))
    if dim == 0 or (dim == 1 and draw(st.booleans())):
        if dim == 1 and x.shape[2] % 2 == 0 and draw(st.integers(0, 3)) == 0:
            return nn.MultiheadAttention(x.shape[2], 2, batch_first=True)
        return nn.Linear(x.shape[-1], out, bias=draw(st.booleans()))
    kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    kind = draw(st.sampled_from(["conv"] * 4 + ["transposed", "max", "average", "adaptive"]))
    if kind == "max":
        return getattr(nn, f"MaxPool{dim}d")(kernel, stride, min(padding, kernel // 2))
    if kind == "average":
        return getattr(nn, f"AvgPool{dim}d")(kernel, stride, min(padding, kernel // 2))
    if kind == "adaptive":
        return getattr(nn, f"Adaptive{draw(st.sampled_from(['Avg', 'Max']))}Pool{dim}d")(draw(st.integers(1, 3)))
    groups = draw(st.sampled_from([1, 1, 2, channels])) if channels % 2 == 0 else 1
    name = f"Conv{'Transpose' if kind == 'transposed' else ''}{dim}d"
    arguments = {"groups": groups, "dilation": draw(st.integers(1, 2)), "bias": draw(st.booleans())}
    return getattr(nn, name)(channels, groups * max(1, out // groups), kernel, stride, padding, **arguments)
