"""Networks whose ReLUs are answered for, under torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch
from nets import NETS, net
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x)) - torch.relu(self.fc(-x))


class Outer(nn.Module):
    """A ReLU of its own, one module that is called twice, and an owner inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shared, self.relu = Inner(), Inner(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x) + 0.1) + self.shared(x)
        return self.shared(self.relu(x) - self.relu(-x))


@pytest.mark.parametrize("how", ["compiled", "in place", "a function"])
@pytest.mark.filterwarnings("ignore")
def test_compiled(how: str) -> None:
    ann = nn.Sequential(nn.Linear(6, 6), Outer(), nn.Linear(6, 6), nn.ReLU())
    model = sjpc.replace_activations(ann, sjpc.ClipReLU, [X], v_threshold=0.5)
    expected = model(X)
    torch._dynamo.reset()
    compiled = model
    if how == "in place":
        model.compile(backend="aot_eager")
    else:
        compiled = torch.compile(model if how == "compiled" else lambda x: model(x), backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(X), expected)
    compiled(X.clone().requires_grad_()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


CAPTURED = ["shared relu", "shared conv", "concatenated", "tokens", "mlp", "same module twice, in place"]
CAPTURED += ["in-place in branches", *(name for name in NETS if name.startswith("in place"))]


@pytest.mark.parametrize("name", CAPTURED)
@torch.no_grad()
def test_captured_by_torch_export(name: str) -> None:
    ann, x = net(name)
    model = sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=4, v_threshold=1.3).eval()
    with torch.enable_grad():
        program = torch.export.export(model, (x.clone(),), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    captured = program.run_decompositions({}).module()
    for batch in (x, torch.cat([x, x])[:-1]):
        assert torch.equal(captured(batch.clone()), model(batch.clone()))
    stacks = [n.meta["nn_module_stack"] for n in program.graph.nodes if "floor" in str(n.target)]
    names = {path for stack in stacks for path, _ in stack.values()}
    uncalled = {"act.0"} if "in place, " in name else set()
    assert {n for n, m in model.named_modules() if isinstance(m, sjpc.QCFS)} - uncalled <= names
