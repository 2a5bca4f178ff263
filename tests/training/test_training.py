"""Training through packed nodes: no dependence on T, gradients of the clipped line, trains that agree."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nets import IMAGES
from spikingjelly.activation_based import functional
from train_spikepack import NODES, set_execution, spiking_cnn

import sj_parallel_conversion as sjpc

DIGITS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", NODES)
@pytest.mark.parametrize("T", [2, 8])
def test_packed_and_spikes_train_alike(mode: str, T: int) -> None:
    torch.manual_seed(0)
    packed = spiking_cnn(mode, T)
    spikes = copy.deepcopy(packed)
    set_execution(spikes, "spikes")
    outputs = [net(DIGITS) for net in (packed, spikes)]
    assert torch.equal(*outputs)
    for y in outputs:
        y.square().sum().backward()
    for p, q in zip(packed.parameters(), spikes.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("node_type", NODES.values())
def test_nothing_that_is_kept_for_backward_depends_on_T(node_type: type) -> None:
    def saved(T: int) -> list[torch.Size]:
        shapes = []
        activation = sjpc.SpikingActivation(node_type(T), packed=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: shapes.append(x.shape) or x, lambda x: x):
            activation(IMAGES.clone().requires_grad_())
        return shapes

    assert saved(2) == saved(8)


def test_step_modes_and_copies() -> None:
    net = spiking_cnn("spikepack", 3)
    functional.set_step_mode(net, "m")
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    net.eval()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(DIGITS), net(DIGITS))
