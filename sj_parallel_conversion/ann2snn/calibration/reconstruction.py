"""Reconstruction: gradient steps on each block of the network, towards what the block computes in the ANN."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn

from ...neuron.spiking_activation import SpikingActivation
from ..config import ConversionConfig
from ..data.batches import CalibrationData
from ..graph import ShortcutReLU, is_kept
from ..placement.sites import Site
from .blocks import Block, find_blocks
from .descent import Descent
from .output_error import packed
from .patches import LAYERS
from .weights import weights

_IMAGES = 16
S = dict(epochs=8, rate=0.01, neuron_rate=0.003, drop=0.0, metric="relu", average=0.0, proj=4, iso=0.1, train_neurons=True, bias=True)


def reconstruction(ann, snn, sites, data, config):
    weights(ann, snn, sites, data, config)
    reconstruct(ann, snn, sites, data, config)


def reconstruct(ann, snn, sites, data, config, log=None):
    parts = [part for x in data.batches("read calibration data") for part in data.parts(x, _IMAGES)]
    names = {site.name for site in sites}
    blocks = find_blocks(ann, names)
    values = [{}, {}]
    holders = [n for n in ann.graph.nodes if n.op == "placeholder"]
    for k, n in enumerate(holders):
        values[0][n] = values[1][n] = [p.tensors[k] for p in parts]
    gen = config.generator()
    cuts = [b.outputs[0] for b in blocks[1:]]
    grads = gn_gradients(ann, cuts, parts, S["proj"], gen) if S["metric"] == "gn" else None
    params = [(p, p.requires_grad) for p in snn.parameters()]
    for p, _ in params: p.requires_grad_(False)
    try:
        with packed(snn):
            for i, block in enumerate(blocks):
                fa, fs = block.of(ann), block.of(snn)
                ia, is_ = [[values[k][n] for n in block.inputs] for k in (0, 1)]
                with torch.no_grad():
                    ta = [fa(*[v[p] for v in ia]) for p in range(len(parts))]
                if i:
                    Rec(ann, snn, block, fs, is_, [t[0] for t in ta], config, gen, None if grads is None else grads[i - 1], len(blocks) - 1 == i).run(log)
                with torch.no_grad():
                    ts = [fs(*[v[p] for v in is_]) for p in range(len(parts))]
                for k, n in enumerate(block.outputs):
                    values[0][n] = [t[k] for t in ta]
                    values[1][n] = [t[k] for t in ts]
    finally:
        for p, f in params:
            p.requires_grad_(f); p.grad = None


def gn_gradients(ann, cuts, parts, proj, gen):
    found = [[] for _ in cuts]
    class I(fx.Interpreter):
        def run_node(self, n):
            y = super().run_node(n)
            if n in self.cuts:
                y = y.detach().requires_grad_() if not y.requires_grad else y
                self.got[n] = y
            return y
    it = I(ann); it.cuts = set(cuts)
    logits = []
    with torch.no_grad():
        for p in parts: logits.append(ann(*p.tensors)[0])
    std = torch.cat(logits).std()
    for p in parts:
        it.got = {}
        with torch.enable_grad():
            out = it.run(*p.clone().tensors)[0] / std
        r = []
        for _ in range(proj):
            s = torch.randn(out.shape, generator=gen)
            r.append(torch.autograd.grad((out * s).sum(), [it.got[c] for c in cuts], retain_graph=True, allow_unused=True))
        for k in range(len(cuts)):
            found[k].append(torch.stack([g[k] for g in r]).half())
    return found


class Rec:
    def __init__(self, ann, snn, block, fs, inputs, targets, config, gen, grads, last):
        self.fs, self.inputs, self.targets, self.gen, self.last = fs, inputs, targets, gen, last
        self.grads = grads
        self.block = block
        out = block.outputs[0]
        mods = [ann.get_submodule(u.target) for u in out.users if u.op == "call_module" and u.target in
                {n for n, m in snn.named_modules() if isinstance(m, SpikingActivation)}]
        mods = [m for m in mods if not isinstance(m, ShortcutReLU)]
        self.act = mods[0] if len(mods) == 1 and not last else None
        self.ws, self.ns = [], []
        for n in block.nodes:
            m = snn.get_submodule(n.target) if n.op == "call_module" else None
            if type(m) in LAYERS and not is_kept(n):
                self.ws.append(m.weight)
                if m.bias is not None and S["bias"]: self.ns.append(m.bias)
            if isinstance(m, SpikingActivation) and S["train_neurons"]:
                self.ns += [p for p in (m.node.v_threshold, m.node.amplitude, m.node.shift) if p is not None]
        if self.act is not None:
            self.see = lambda v: self.act(v)
        else:
            self.see = lambda v: v
        ys = [self.see(t) for t in targets]
        self.var = sum(float((y - y.mean((0, 2, 3) if y.dim() == 4 else 0, keepdim=True)).square().sum()) for y in ys) / sum(y.numel() for y in ys)

    def loss(self, p):
        out = self.fs(*[v[p] for v in self.inputs])[0]
        t = self.targets[p]
        if S["metric"] == "mse":
            return (out - t).square().mean() / self.var
        e = self.see(out) - self.see(t)
        plain = e.square().mean() / self.var
        if S["metric"] == "relu" or self.grads is None or self.last:
            return plain
        e = out - t if self.act is None else e
        g = self.grads[p].float()
        if self.act is not None: pass
        pr = (g * e).flatten(2).sum(2).square().mean()
        return pr * self.scale + S["iso"] * plain

    def run(self, log):
        allp = self.ws + self.ns
        for p in allp: p.requires_grad_(True)
        n = len(self.targets)
        self.scale = 1.0
        with torch.no_grad():
            before = sum(float(self.loss(p)) for p in range(0, n, 4)) / len(range(0, n, 4))
            if self.grads is not None and not self.last:
                self.scale = 1.0
        dw, dn = Descent(self.ws, S["rate"] * before ** 0.5), Descent(self.ns, S["neuron_rate"] * before ** 0.5) if self.ns else None
        E = S["epochs"]
        order = torch.cat([torch.randperm(n, generator=self.gen) for _ in range(E)]).tolist() if E else []
        with torch.enable_grad():
            for k, p in enumerate(order):
                share = (1 + math.cos(math.pi * k / len(order))) / 2
                loss = self.loss(p)
                if dn is not None: dn._optimiser.zero_grad()
                loss2 = loss
                step2(dw, dn, loss2, share)
        with torch.no_grad():
            after = sum(float(self.loss(p)) for p in range(0, n, 4)) / len(range(0, n, 4))
        for p in allp: p.requires_grad_(False)
        if log: log(self.block.outputs[0].name, before, after, self.act)


def step2(dw, dn, loss, share):
    ds = [d for d in (dw, dn) if d is not None]
    for d in ds: d._optimiser.zero_grad()
    loss.backward()
    for d in ds:
        for p, kept, size in zip(d.parameters, d._kept, d._sizes):
            if p.grad is not None: p.grad.mul_(size if kept is None else kept * size)
        for g, size in zip(d._optimiser.param_groups, d._sizes): g["lr"] = d.rate * size * share
        d._optimiser.step()
