"""Reconstruction: gradient steps on one block after the other, towards what the block computes in the ANN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from tqdm import tqdm

from ... import ranks
from ...hooks import has_hooks
from ...neuron.activations import DAQCFS, QCFS
from ...user_warnings import warn
from ..config import ConversionConfig
from ..data.cache import Spooled
from ..data.inputs import Batch
from ..data.selection import Data
from ..graph import ShortcutReLU, is_kept
from ..placement.sites import Site
from .block_fit import BlockFit
from .blocks import Block, find_blocks
from .judge import Judge
from .output_error import packed
from .patches import LAYERS
from .sensitivity import Sensitivity
from .side_by_side import Values

_IMAGES = 16  # a step


def reconstruct(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: Data,
    config: ConversionConfig,
    judge: Judge | None = None,
) -> None:
    """
    Block by block (:func:`~.blocks.find_blocks`), Adam on weights, biases, thresholds, shifts and amplitudes, with the
    straight-through gradient of the relative squared error of the block's output. The block's input is that of the
    spiking network, so that each block makes up for those before it. Where a neuron reads the output, the error is that
    of its activation, and errors that may change the class count for more (:class:`~.sensitivity.Sensitivity`). If
    the outputs for held-out images are not better then, the network stays as it was.

    :param ann: the reference
    :param snn: the calibrated network, not folded; its weights and neurons are set
    :param sites: the activations
    :param data: calibration data, read once
    :param config: the conversion's options
    :param judge: has images that are not among ``data``
    """
    state = {name: value.clone() for name, value in snn.state_dict().items()}
    judged = None if judge is None else judge.errors(snn)
    try:
        reason = _Reconstruction(ann, snn, sites, data, config).run()
    except RuntimeError as error:  # no gradient, or not enough memory for one: what is calibrated must not be lost
        reason = str(error).partition("\n")[0]
    # such an effort has to show on images that it has not seen; a draw is no success
    errors = None if reason or judge is None else judge.errors(snn)
    if errors is not None and judged is not None and not errors.mean() < judged.mean():
        reason = (
            f"it does not make the outputs better, with an error of {float(errors.mean()):.3g} on {len(errors)} "
            f"held-out images instead of {float(judged.mean()):.3g}"
        )
    if reason:
        snn.load_state_dict(state)
        warn(f"the network is that of calibration='weights', without reconstruction: {reason}")


class _Reconstruction:
    """Both networks, block by block over all data."""

    def __init__(
        self,
        ann: fx.GraphModule,
        snn: fx.GraphModule,
        sites: list[Site],
        data: Data,
        config: ConversionConfig,
    ) -> None:
        self.ann, self.snn, self.data, self.config = ann, snn, data, config
        self.sites = {site.name: site for site in sites}
        self.uses = Counter(id(w) for layer in _layers(snn, ann.graph.nodes) for w in layer.parameters())
        self.generator = config.generator()
        self.size = max(1, _IMAGES // ranks.count())  # a step has as many images, however many ranks there are

    def run(self) -> str:
        """:return: why nothing is done, or nothing"""
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in self.snn.parameters()):
            return "half precision cannot tell its steps apart. Convert in float32, and call .half() afterwards"
        blocks = find_blocks(self.ann, self.sites)
        if all(block.changed is None for block in blocks):
            return "it has several outputs, and no value on the way to all of them"
        readers = [self._reader(block) for block in blocks]
        read = [self.sites[name] for name in readers if name]
        sensitivity = Sensitivity(self.ann, read, self.data.parts, self.data.spool)
        batches = self.data.batches("read calibration data")
        batches = sensitivity.watch(batches) if read else batches
        parts = self.data.spool.keep(part for x in batches for part in self.data.parts(x, self.size))
        flags = [(p, p.requires_grad) for p in self.snn.parameters()]
        try:
            self.snn.requires_grad_(False)
            with packed(self.snn):
                self._run(blocks, readers, parts, sensitivity)
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
                parameter.grad = None
        return ""

    def _run(
        self, blocks: list[Block], readers: list[str | None], parts: Spooled[Batch], sensitivity: Sensitivity
    ) -> None:
        holders = [node for node in self.ann.graph.nodes if node.op == "placeholder"]
        values: Values = {}
        for i, node in enumerate(holders):
            # autograd takes no tensor made in inference mode
            inputs = self.data.spool.keep(part.tensors[i].clone() for part in parts)
            values[node] = (inputs, inputs)
        last_use = {node: i for i, block in enumerate(blocks) for node in block.inputs}
        hidden = not (self.config.show_progress and ranks.leads())
        progress = tqdm(blocks, desc="reconstruct", disable=hidden, leave=False)
        for i, (block, reader) in enumerate(zip(progress, readers, strict=True)):
            ann_outputs = self._outputs(block, values, 0)
            if i and block.changed is not None:
                target = ann_outputs[block.outputs.index(block.changed)]
                self._fit(block, reader, values, target, sensitivity)
            snn_outputs = self._outputs(block, values, 1)
            values |= dict(zip(block.outputs, zip(ann_outputs, snn_outputs, strict=True), strict=True))
            for node in [node for node in values if last_use.get(node, 0) <= i]:
                del values[node]

    def _fit(
        self, block: Block, reader: str | None, values: Values, targets: Spooled[Tensor], sensitivity: Sensitivity
    ) -> None:
        weights = None if reader is None else sensitivity.weights(reader)
        if weights is not None:
            weights = [part for x in weights for part in ([x] if self.data.fixed_batch else x.split(self.size))]
        see = nn.Identity() if reader is None else self.ann.get_submodule(reader)
        inputs = [values[node][1] for node in block.inputs]
        output = block.outputs.index(block.changed)
        fit = BlockFit(block.of(self.snn), output, inputs, targets, see, weights)
        fit.train(*self._trained(block), self.generator)

    def _outputs(self, block: Block, values: Values, stream: int) -> list[Spooled[Any]]:
        """What a block of the ANN (``stream`` 0) or of the spiking network (1) gives, part by part."""
        run = block.of((self.ann, self.snn)[stream])
        inputs = [values[node][stream] for node in block.inputs]
        found: list[Spooled[Any]] = [self.data.spool.keep([]) for _ in block.outputs]
        for arguments in zip(*inputs, strict=True):
            for kept, value in zip(found, run(*arguments), strict=True):
                kept.append(value)
        return found

    def _reader(self, block: Block) -> str | None:
        """The activation that reads the block's output, if nothing else does but the membrane shortcut around it."""
        found = [user.target for user in block.changed.users if user.target in self.sites] if block.changed else []
        found = [name for name in found if not isinstance(self.ann.get_submodule(name), ShortcutReLU)]
        return found[0] if len(found) == 1 else None

    def _trained(self, block: Block) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """The weights of a block, all else that is trained, and what of that has to stay positive."""
        layers = [layer for layer in _layers(self.snn, block.nodes) if not has_hooks(layer)]
        own = [p for layer in layers for p in layer.parameters() if self.uses[id(p)] == 1]
        names = [node.target for node in block.nodes if node.target in self.sites and not is_kept(node)]
        neurons = [self.snn.get_submodule(name).node for name in names if self._may_change(self.sites[name])]
        thresholds = [neuron.v_threshold for neuron in neurons]
        others = [p for neuron in neurons for p in (neuron.shift, neuron.amplitude) if p is not None]
        weights = [p for p in own if p.dim() > 1]
        return weights, [*(p for p in own if p.dim() == 1), *thresholds, *others], thresholds

    def _may_change(self, site: Site) -> bool:
        """Trained quantisers, and neurons whose levels span known bounds, stay what they are."""
        return not isinstance(site.activation, (QCFS, DAQCFS)) and site.known_range is None


def _layers(model: fx.GraphModule, nodes: Iterable[fx.Node]) -> list[nn.Module]:
    """The convolutions and linear layers that may be changed, one for each call."""
    modules = [model.get_submodule(n.target) for n in nodes if n.op == "call_module" and not is_kept(n)]
    return [module for module in modules if type(module) in LAYERS]
