"""layer_errors finds the layer to blame, and its figures are those of a computation by hand."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron import SpikingActivation

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        return self.fc(x.mean((2, 3)))


class Bottleneck(Residual):
    """A layer that receives another layer's output."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.b(self.a(x)))
        return self.fc(F.relu(x - 0.1).mean((2, 3)))


def chain() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            a=nn.Conv2d(3, 8, 3, padding=1), relu=nn.ReLU(), b=nn.Conv2d(8, 8, 3, padding=1), act=nn.SiLU(),
            c=nn.Conv2d(8, 8, 3, padding=1), relu6=nn.ReLU6(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
            fc=nn.Linear(8, 5),
        )
    )  # fmt: skip


def network(make: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make().eval()


def convert(ann: nn.Module, **options: object) -> nn.Module:
    return sjpc.ParallelConverter([X], show_progress=False, **options).convert(ann)


def errors(snn: nn.Module, ann: nn.Module) -> sjpc.LayerErrors:
    return sjpc.layer_errors(snn, ann, [X], show_progress=False)


def relative(y: Tensor, target: Tensor) -> float:
    y, target = y.detach(), target.detach()
    return float((y.double() - target.double()).square().sum() / target.double().square().sum())


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
def test_figures_by_hand(mode: str, fold: bool) -> None:
    ann = network(chain)
    snn = convert(ann, mode=mode, time_steps=3, fold=fold)
    values: dict[str, Tensor] = {}
    hooks = [m.register_forward_hook(lambda m, a, y, n=n: values.update({n: y})) for n, m in ann.named_children()]
    with torch.no_grad():
        expected = ann(X)
        outputs = snn.predict(X)
        found = {row.name: row for row in errors(snn, ann).rows}
        relu = values["relu"]
        for hook in hooks:
            hook.remove()
        # one neuron from the ANN's values: the first, before which nothing has an error
        site = snn.net.get_submodule("relu").node
        z = ann.a(X) + site.shift.view(-1, 1, 1)
        step, unit = site.step.view(-1, 1, 1), site.unit.view(-1, 1, 1)
        highest = site.code.max_level(3)
        level = (z / step + 0.5).floor().clamp(0, highest)
        in_range = z.clamp_min(0).minimum(step * highest)
    row = found["relu"]
    assert row.before == pytest.approx(relative(z, ann.a(X)), rel=1e-3, abs=1e-9) and row.inherited == 0
    assert row.after == pytest.approx(relative(level * unit, relu), rel=1e-3)
    energy = float(relu.square().sum())
    assert row.clipping == pytest.approx(float((z.clamp_min(0) - in_range).square().sum()) / energy, rel=1e-3, abs=1e-9)
    assert row.rounding == pytest.approx(float((level * unit - in_range).square().sum()) / energy, rel=1e-3)
    assert row.silent == pytest.approx(float((level == 0).double().mean()), abs=2e-3)
    assert row.clipped == pytest.approx(float((z > step * (highest + 0.5)).double().mean()), abs=2e-3)
    with torch.no_grad():
        train = site.spikes(site.constant((z - site.shift.view(-1, 1, 1)) if not fold else z / step + 0.5))
    assert row.rate == pytest.approx(float(train.count_nonzero() / train.numel()), abs=2e-3)
    assert found["(output)"].after == pytest.approx(relative(outputs, expected), rel=1e-3)
    assert list(found) == ["relu", "act", "relu6", "(output)"]


@pytest.mark.parametrize("make", [chain, Residual])
@pytest.mark.parametrize("seed", range(10))
def test_the_layer_that_was_sabotaged_comes_first(make: type[nn.Module], seed: int) -> None:
    ann = network(make, seed)
    snn = convert(ann, time_steps=8, calibration=random.Random(seed).choice(["none", "least_squares"]))
    sites = [name for name, module in snn.net.named_modules() if isinstance(module, SpikingActivation)]
    victim = random.Random(seed).choice(sites)
    with torch.no_grad():
        if seed % 2:  # the neuron
            snn.net.get_submodule(victim).register_forward_hook(lambda module, args, y: y * 2)
        else:  # the layer before it
            source = next(n for n in snn.net.graph.nodes if n.target == victim).args[0]
            while source.op != "call_module" or not hasattr(snn.net.get_submodule(source.target), "weight"):
                source = source.args[0]
            snn.net.get_submodule(source.target).weight.mul_(-1)
    worst = errors(snn, ann).worst[0].name
    assert worst == victim, errors(snn, ann)


def test_corrections_count_as_negative() -> None:
    ann = network(Residual)
    rows = {
        c: errors(convert(ann, time_steps=2, calibration=c, shortcut="spikes"), ann).rows for c in ("none", "weights")
    }
    assert sum(row.added for row in rows["weights"]) < sum(row.added for row in rows["none"])
    assert rows["weights"][-1].after < rows["none"][-1].after


@pytest.mark.parametrize(
    "options",
    [{"spiking_inputs": True}, {"calibration": "weights", "shortcut": "membrane"}, {"input_encoding": "spikes"}],
)
def test_neurons_that_the_ann_has_no_activation_for(options: dict[str, object]) -> None:
    ann = network(Bottleneck if "spiking_inputs" in options else Residual)
    snn = convert(ann, time_steps=8, **options)
    rows = errors(snn, ann).rows
    assert len(rows) == len(snn.neurons()) + 1 >= 4
    assert all(0 <= row.after < 0.3 and row.rate < 1 for row in rows)


def test_models_in_parts() -> None:
    ann = nn.Sequential(
        OrderedDict(body=network(chain)[:6], head=nn.Sequential(nn.Flatten(), nn.Linear(512, 3)))
    ).eval()
    snn = sjpc.ParallelConverter([X], show_progress=False).convert(ann, submodules=["body"])
    assert [row.name for row in errors(snn, ann).rows] == ["body.relu", "body.act", "body.relu6", "body.(output)"]


def test_the_network_and_the_ann_stay_as_they_were() -> None:
    ann = network(Residual).train()
    snn = convert(ann)
    with torch.no_grad():
        before = snn.predict(X)
        errors(snn, ann)
        assert torch.equal(snn.predict(X), before)
    assert ann.training and not any(m._forward_hooks or m._forward_pre_hooks for m in [*snn.modules(), *ann.modules()])


def test_the_table_names_the_worst_first() -> None:
    ann = network(chain)
    found = errors(convert(ann, time_steps=2), ann)
    lines = str(found).splitlines()
    assert lines[0].split()[:3] == ["name", "before", "after"]
    assert [line.split()[0] for line in lines[1:]] == [row.name for row in found.worst]


def test_verify() -> None:
    ann = network(Residual)
    sjpc.verify(convert(ann, mode="css", time_steps=12, threshold="max", calibration="none"), ann, X)
    with pytest.raises(sjpc.ConversionError, match=r"(?s)output 0 is further .* at .* of 200 values.*relu"):
        sjpc.verify(convert(ann, time_steps=1), ann, (X, torch.zeros(40)), rtol=0.01)


def test_what_cannot_be_used_is_refused() -> None:
    ann = network(chain)
    snn = convert(ann)
    with pytest.raises(sjpc.DataError, match="needs a converted network, got Sequential"):
        errors(ann, ann)
    with pytest.raises(sjpc.ConversionError, match="give the ANN that it was converted from"):
        errors(snn, nn.Sequential(OrderedDict(other=nn.Conv2d(3, 8, 3), f=nn.ReLU())))
