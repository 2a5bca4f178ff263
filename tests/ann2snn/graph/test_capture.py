"""Models in the forms in which people write them: the network computes what they compute."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captured import captured
from nets import IMAGES
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph.capture import Capture

QUICK = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}


class Straight(torch.autograd.Function):
    """A gradient of the user's own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Form(nn.Module):
    """Layers and constants, and a forward that is given."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.relu, self.layers = nn.ReLU(), nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.factor = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))
        self.register_buffer("sizes", torch.tensor([2, 4]))
        self.strides, self.seen = [torch.tensor(2.0), torch.tensor([4.0])], 0

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)

    def pair(self, a: Tensor, b: object = None) -> Tensor:
        return torch.cat([a, b[:, :4]], 1) if isinstance(b, Tensor) else a

    def deep(self, x: Tensor, depth: int) -> Tensor:
        return x if depth == 0 else self.deep(F.relu(self.layers[depth - 1](x)), depth - 1)


def checks_size(m: Form, x: Tensor) -> Tensor:
    if x.shape[-1] % 2 or x.dim() != 4:
        raise ValueError(f"size {tuple(x.shape)}")
    assert x.shape[1] == 3 and len(x) == x.size(0) and x.numel() > 1
    return m.b(F.relu(m.a(x)))


def chunks_in_a_list(m: Form, x: Tensor) -> Tensor:
    y = list(F.relu(m.a(x)).chunk(2, 1))
    y.append(y[-1])
    y.extend(part * 0.5 for part in y[:0])
    return m.c(torch.cat(y, 1))


def sizes_as_numbers(m: Form, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = F.relu(m.a(F.pad(x, (0, int(w) % 5))))
    return m.b(y).reshape(n, 2, -1, y.shape[2], y.size(3)).sum(2) / float(c * h)


def sums_over_a_loop(m: Form, x: Tensor) -> Tensor:
    x, k = m.a(x), 0
    while k < len(m.layers):
        x = m.layers[k](m.relu(x)) + sum(x[:, i : i + 1] for i in range(3))
        k += 1
    return x


def unpacks(m: Form, x: Tensor) -> Tensor:
    first, *rest = F.relu(m.a(x)).split([2, 2, 4], 1)
    return m.b(torch.cat([rest[1], *rest[:1], first], 1))


def sets_a_stride(m: Form, x: Tensor) -> Tensor:
    x = m.a(x)
    for t in range(2):
        m.b.stride = (2, 2) if t == 0 else (1, 1)
        x = F.relu(m.b(x) + (x[..., ::2, ::2] if t == 0 else x))
    return x


def remembers(m: Form, x: Tensor) -> Tensor:
    m.seen, m.latest = m.seen + 1, F.relu(m.a(x))
    return m.b(m.latest)


def keeps_in_a_dict(m: Form, x: Tensor) -> Tensor:
    kept = {"x": m.a(x)}
    kept.update(y=F.relu(kept.pop("x")))
    return m.b(kept["y"] if "y" in kept and kept.get("z") is None else x)


def writes_to_a_view(m: Form, x: Tensor) -> Tensor:
    h = m.a(x)
    v = h.view(len(h), 2, 4, *h.shape[2:])
    r = torch.relu(h)
    v.mul_(3)
    return m.b(torch.relu(h) + r)


def writes_to_a_part(m: Form, x: Tensor) -> Tensor:
    y = torch.zeros_like(m.a(x))
    y[:, ::2] = m.a(x)[:, ::2]
    y[:, 1] += 1
    return m.b(F.relu_(y))


def makes_tensors(m: Form, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    place = torch.arange(y.shape[-1], device=x.device, dtype=x.dtype) / y.shape[-1]
    return m.b(y + place) + y.new_ones(len(y), 8, 1, 1) * torch.tensor([0.5]) + torch.zeros(y.shape[0], 1, 1, 1)


def views_of_weights(m: Form, x: Tensor) -> Tensor:
    w = m.layers[0].weight.permute(2, 1, 3, 0).contiguous().view(8, -1)
    y = F.relu(m.a(x).permute(0, 2, 3, 1).contiguous().view(-1, 8) + w.t().contiguous().view(4, 16)[:, ::2].mean(0))
    return (y @ w).view(len(x), -1)


FORMS: dict[str, tuple[Callable, int]] = {  # with the number of activations
    "checks of sizes": (checks_size, 1),
    "chunks in a list": (chunks_in_a_list, 1),
    "sizes as numbers": (sizes_as_numbers, 1),
    "loops": (sums_over_a_loop, 3),
    "recursion": (lambda m, x: m.deep(m.a(x), 3), 3),
    "unpacking": (unpacks, 1),
    "numpy": (lambda m, x: m.b(F.relu(np.sqrt(2.0) * m.a(x) + np.float32(0.1))), 1),
    "buffer as a list": (lambda m, x: m.b(F.interpolate(F.relu(m.a(x)), scale_factor=m.scales[2:].tolist())), 1),
    "buffer as numbers": (lambda m, x: m.b(F.relu(m.a(x)))[:, : int(m.sizes[0]) * 2] * m.scales.max().item(), 1),
    "buffer in a loop": (lambda m, x: sum(m.b(F.relu(m.a(x))) * float(s) for s in m.scales), 4),
    "buffer in a condition": (lambda m, x: m.b(F.relu(m.a(x))) if m.scales.sum() > 3 else x, 1),
    "tensors among attributes": (lambda m, x: m.b(F.relu(m.a(x))) * [float(s) for s in m.strides][1], 1),
    "parameter as a number": (lambda m, x: m.b(F.relu(m.a(x))) * float(m.factor), 1),
    "parameter in numpy": (lambda m, x: m.b(F.relu(m.a(x))) * m.factor.detach().numpy().item(), 1),
    "buffers compared": (lambda m, x: x if torch.equal(m.scales, m.sizes) else m.b(F.relu(m.a(x))), 1),
    "isinstance": (lambda m, x: m.c(m.pair(F.relu(m.b(m.a(x))), F.relu(m.a(x)))), 2),
    "torch.jit.isinstance": (lambda m, x: m.b(F.relu(m.a(x))) if torch.jit.isinstance(x, Tensor) else x, 1),
    "attributes that change": (sets_a_stride, 2),
    "attributes that are kept": (remembers, 1),
    "dict": (keeps_in_a_dict, 1),
    "forward by name": (lambda m, x: m.b.forward(m.relu.forward(nn.Module.__call__(m.a, x))), 1),
    "own gradient": (lambda m, x: m.b(Straight.apply(m.a(x))), 1),
    "no_grad": (lambda m, x: m.b(torch.no_grad()(lambda y: F.relu(m.a(y)))(x.detach())), 1),
    "data": (lambda m, x: m.b(F.relu(m.a(x).data) * m.factor.data), 1),
    "in place": (lambda m, x: m.b(torch.relu(m.a(x).add_(1)).mul_(2)), 1),
    "written view": (writes_to_a_view, 2),
    "written part": (writes_to_a_part, 1),
    "views of weights": (views_of_weights, 1),
    "bits": (lambda m, x: m.b(F.relu(m.a(x)) * (m.scales.view(torch.int32) > 0).float().mean()), 1),
    "new tensors": (makes_tensors, 1),
}


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_forms(form: str) -> None:
    function, sites = FORMS[form]
    ann = Form(function).eval()
    expected = [ann(x) for x in (IMAGES, IMAGES[:3], IMAGES[:1])]
    model, signature = captured(ann, IMAGES)
    assert len(graph.activation_sites(model)) == sites
    for y in expected:
        x = signature.batch((IMAGES[: len(y)],), {})
        torch.testing.assert_close(signature.build(model(*x.tensors)), y, rtol=1e-5, atol=1e-5)


def test_what_a_model_keeps_is_as_it_was() -> None:
    ann = Form(remembers).eval()
    ann(IMAGES)
    latest = ann.latest
    sjpc.ParallelConverter([IMAGES], **QUICK).convert(ann)
    assert ann.seen == 1 and ann.latest is latest


@torch.no_grad()
def test_an_exported_model_converts_again() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    exported = torch.export.export(ann, (IMAGES,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    one, other = (sjpc.ParallelConverter([IMAGES], **QUICK).convert(model) for model in (ann, exported))
    torch.testing.assert_close(other.predict(IMAGES[:3]), one.predict(IMAGES[:3]))


@pytest.mark.parametrize("activation", ["swish", "hard swish", "mish", "maximum"])
@torch.no_grad()
def test_activations_written_by_hand_are_neurons(activation: str) -> None:
    function = {
        "swish": lambda x: x * torch.sigmoid(x),
        "hard swish": lambda x: x * F.relu6(x + 3) / 6,
        "mish": lambda x: x * torch.tanh(F.softplus(x)),
        "maximum": lambda x: torch.maximum(x, 0.1 * x),
    }[activation]
    ann = Form(lambda m, x: m.b(function(m.layers[0](function(m.a(x)))))).eval()
    snn = sjpc.ParallelConverter([IMAGES], **QUICK | {"time_steps": 10, "mode": "css"}).convert(ann)
    inspection = sjpc.inspect(snn, show=False)
    assert len(snn.neurons()) == 2 and not inspection.analogue and inspection.share_after_input == 1
    torch.testing.assert_close(snn.predict(IMAGES), ann(IMAGES), rtol=0, atol=0.01)


REFUSED = {
    "condition on values": (lambda m, x: m.b(F.relu(m.a(x))) if x.sum() > 0 else x, r"capture it: .*data-dependent"),
    "values as numbers": (lambda m, x: m.b(F.relu(m.a(x)))[:, : 1 + int(x.max()) % 2], "capture it|on the values"),
    "chosen samples": (lambda m, x: F.relu(m.a(x))[x.mean((1, 2, 3)) > 0], "index in Form makes a tensor.*the values"),
    "sizes as text": (lambda m, x: (m.b(F.relu(m.a(x))), f"{x.shape[0]} samples"), "something else than the model"),
    "random numbers": (lambda m, x: F.relu(m.a(x)) + torch.rand_like(m.a(x)), "something else than the model"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_forms_that_are_refused(form: str) -> None:
    function, says = REFUSED[form]
    with pytest.raises(sjpc.ConversionError, match=says):
        captured(Form(function).eval(), IMAGES)


@pytest.mark.parametrize("value", [0.0, float("-inf"), float("nan")])
def test_masked_outputs_are_compared_as_well(value: float) -> None:
    mask = torch.tensor([0.0, 0.0, 0.0, value]).view(4, 1, 1)

    def masked(m: Form, x: Tensor) -> Tensor:
        return torch.relu(m.a(x))[:, :4] + mask

    model, _ = captured(Form(masked).eval(), IMAGES)
    torch.testing.assert_close(model(IMAGES)[0], Form(masked)(IMAGES), equal_nan=True)
    with pytest.raises(sjpc.ConversionError, match="something else than the model"):
        captured(Form(lambda m, x: masked(m, x) * torch.rand(1)).eval(), IMAGES)


@pytest.mark.parametrize(("form", "tries"), [("condition on values", 2), ("wrong sizes", 3)])
def test_a_model_that_fails_with_fixed_sizes_is_not_tried_again(
    form: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def symbols_alone(m: Form, x: Tensor) -> Tensor:
        if type(x) is not Tensor:  # torch 2.6 has no function that tells
            raise ValueError("not while it is captured")
        return m.b(F.relu(m.a(x)))

    runs: list[object] = []
    export = sys.modules[Capture.__module__].export
    monkeypatch.setattr(f"{Capture.__module__}.export", lambda *args: runs.append(args) or export(*args))
    function = REFUSED[form][0] if form in REFUSED else symbols_alone
    with pytest.raises(sjpc.ConversionError, match=r"data-dependent|not while it is captured"):
        captured(Form(function).eval(), IMAGES)
    assert len(runs) == tries


@torch.no_grad()
def test_values_that_fixed_sizes_give_are_read() -> None:
    def of_some_batches(m: Form, x: Tensor) -> Tensor:
        y = m.b(F.relu(m.a(x)))
        return y * 2 if (torch.ones(x.shape[0]).sum() > 3).item() else y

    ann = Form(of_some_batches).eval()
    model, signature = captured(ann, IMAGES)
    torch.testing.assert_close(model(IMAGES)[0], ann(IMAGES))
    assert signature.sizes.fixed_batch
