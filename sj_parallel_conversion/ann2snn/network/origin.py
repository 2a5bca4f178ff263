"""Where a converted network's weights come from, so that it can take those of a retrained ANN."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, fx, nn

from ...errors import ConversionError
from ...neuron import DAQCFS, QCFS, SpikingNode
from ...parameters import exact
from .. import graph
from ..config import ConversionConfig
from ..data.batches import CalibrationData
from ..data.inputs import Batch, placement
from ..folding.fold import fold
from ..graph.formula import Formula
from ..graph.plain import map_leaves, put
from ..graph.quantisers import RecognisedQCFS
from ..graph.shapes import record_shapes
from ..graph.signature import Signature

State = dict[str, Tensor]


@dataclass
class Origin:
    """
    What a network was before its neurons were folded.

    :param unfolded: the graph with neurons, on the device ``meta``, where tensors have no values
    :param operations: of the ANN's graph, in words
    :param folded: the neurons that were folded
    :param quantisers: the parameters of the trained quantisers, which neurons took over
    :param fuses: whether BatchNorms were fused
    :param prefix: what stands before the names of a part, for the option ``keep``
    :param correction: what the calibration has changed of the folded weights, on the CPU; it is added to new ones
    """

    unfolded: fx.GraphModule
    operations: list[str]
    folded: list[str]
    quantisers: dict[str, State]
    fuses: bool
    prefix: str = ""
    correction: State = field(default_factory=dict)

    def weights(self, ann: fx.GraphModule, net: fx.GraphModule, example: Batch) -> State:
        """
        :param ann: the ANN's graph
        :param net: the network, whose neurons are kept
        :param example: a batch, of which the shapes are taken
        :return: the tensors of the network with the weights of ``ann``, without the correction
        :raises ConversionError: if they do not fit
        """
        new, own, theirs = copy.deepcopy(self.unfolded), _tensors(net), _tensors(ann)
        neurons = {name for name, module in net.named_modules() if isinstance(module, SpikingNode)}
        for name, old in _tensors(new).items():
            value = _value(name, old, own, theirs, neurons)
            value = value.detach().to(example.tensors[0].device, old.dtype, copy=True)
            put(new, name, nn.Parameter(value, False) if isinstance(old, nn.Parameter) else value)
        if self.folded:
            fold(new, self.folded, example)
        return _tensors(new)

    def note_correction(self, ann: fx.GraphModule, net: fx.GraphModule, example: Batch) -> None:
        """Keep what distinguishes the weights of ``net`` from those of ``ann``."""
        weights = self.weights(ann, net, example)
        pairs = [(name, value.detach(), weights[name]) for name, value in _tensors(net).items()]
        changed = {name: exact(value) - exact(plain) for name, value, plain in pairs if not torch.equal(value, plain)}
        self.correction = {name: change.cpu() for name, change in changed.items()}  # float64, so that the sum is exact

    def corrected(self, weights: State) -> State:
        """New weights with the correction."""
        changes = {
            name: (exact(weights[name]).cpu() + change).to(weights[name]) for name, change in self.correction.items()
        }
        return weights | changes


def _value(name: str, old: Tensor, own: State, theirs: State, neurons: set[str]) -> Tensor:
    """The value of a tensor of the unfolded network: the ANN's, but a neuron's is its own."""
    node = next((neuron for neuron in neurons if name.startswith(f"{neuron}.")), None)
    if node is not None:
        inner = name.removeprefix(f"{node}.")
        of_activation = f"{node.removesuffix('.node')}.{inner.removeprefix('activation.')}"
        return theirs[of_activation] if inner.startswith("activation.") and of_activation in theirs else own[name]
    value = theirs.get(name)
    if value is None and name.endswith(".bias") and name.removesuffix("bias") + "weight" in theirs:
        return torch.zeros_like(old, device="cpu")  # the calibration has given one to a layer without
    if value is None or value.shape != old.shape:
        raise ConversionError(
            f"load_ann: {name!r} of the network has shape {list(old.shape)}, and "
            f"{'the ANN has no such tensor' if value is None else f'that of the ANN {list(value.shape)}'}"
        )
    return value


class HasOrigin(Protocol):
    """A converted network."""

    net: fx.GraphModule
    config: ConversionConfig
    signature: Signature
    origin: Origin | None

    def reset(self) -> None:
        """Begin a new window."""


def _tensors(model: nn.Module) -> State:
    """By all their names: one module may be called under two."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def origin_of(
    ann: fx.GraphModule, snn: fx.GraphModule, operations: list[str], folded: list[str], fuses: bool
) -> Origin:
    """
    :param ann: the ANN's graph, as it was calibrated on
    :param snn: the calibrated network, not folded yet
    :param operations: of the ANN's graph as it was captured, see :func:`described`
    :param folded: the neurons that will be folded
    :param fuses: whether BatchNorms were fused
    :return: the origin of the network that will come of ``snn``
    """
    memo = {id(t): _without_values(t) for t in _tensors(snn).values()}
    quantisers = {
        name: {key: value.clone() for key, value in _quantiser(module).items()}
        for name, module in ann.named_modules()
        if isinstance(module, (QCFS, DAQCFS))
    }
    return Origin(copy.deepcopy(snn, memo), operations, folded, quantisers, fuses)


def _without_values(t: Tensor) -> Tensor:
    empty = torch.empty_like(t, device="meta")
    return nn.Parameter(empty, False) if isinstance(t, nn.Parameter) else empty


def _quantiser(module: nn.Module) -> State:
    formula = getattr(module, "formula", None)
    return (formula if isinstance(formula, Formula) else module).state_dict()


def described(model: fx.GraphModule) -> list[str]:
    """The operations of a captured graph in words, by which two architectures are compared."""
    numbers = {node: i for i, node in enumerate(model.graph.nodes)}
    return [_words(model, node, numbers) for node in model.graph.nodes]


def _words(model: fx.GraphModule, node: fx.Node, numbers: dict[fx.Node, int]) -> str:
    arguments = map_leaves((node.args, node.kwargs), lambda x: f"%{numbers[x]}" if isinstance(x, fx.Node) else x)
    what = str(node.target)
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        # Which formulas are ReLUs and quantisers is found on the data.
        loose = isinstance(module, (Formula, RecognisedQCFS)) or type(module) is nn.ReLU
        what += " (activation)" if loose else f" ({type(module).__name__}({module.extra_repr()}))"
    return f"{node.op} {what} {arguments}"


def captured_again(
    ann: nn.Module, origin: Origin, signature: Signature, config: ConversionConfig
) -> tuple[fx.GraphModule, Batch]:
    """
    :param ann: a retrained ANN
    :param origin: of the network
    :param signature: of the network
    :param config: the options of its conversion
    :return: the ANN's graph as the conversion had it, and two samples
    :raises ConversionError: if it is another architecture, or its trained quantisers have changed
    """
    plain = graph.plain_copy(ann)
    device, dtype = placement(plain, None)
    batch = _random(signature, device, dtype)
    data = CalibrationData([signature.form.call(batch.tensors)], plain, device, dtype, False)
    with torch.autocast(device.type, enabled=False):
        model, _ = graph.graph_of(plain, data, device, config.free_sizes)
    _compare(origin.operations, described(model))
    _compare_quantisers(origin.quantisers, model)
    graph.mark_kept(model, config.keep, origin.prefix)
    record_shapes(model, data.example())
    if origin.fuses:
        graph.fuse_batchnorms(model)
    return model, data.example()


def _random(signature: Signature, device: torch.device, dtype: torch.dtype | None) -> Batch:
    """Values, of which activations can be told."""
    zeros, generator = signature.zeros(device, dtype), torch.Generator().manual_seed(0)
    random = (torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in zeros.tensors)
    return Batch(tuple(random), zeros.batched)


def _compare(operations: list[str], others: list[str]) -> None:
    for own, other in zip(operations, others, strict=False):
        if own != other:
            raise ConversionError(f"load_ann: this ANN has another architecture. It has {other!r} where {own!r} was")
    if len(operations) != len(others):
        raise ConversionError(f"load_ann: this ANN has {len(others)} operations, and not {len(operations)}")


def _compare_quantisers(quantisers: dict[str, State], model: fx.GraphModule) -> None:
    for name, old in quantisers.items():
        new = _quantiser(model.get_submodule(name))
        for key, value in old.items():
            if key not in new or not torch.equal(new[key].to(value), value):
                raise ConversionError(
                    f"load_ann: {key} of the trained quantiser {name!r} has changed, and the neurons keep theirs. "
                    "Convert this ANN"
                )


@torch.inference_mode(False)
@torch.no_grad()
def weights_of(snn: HasOrigin, ann: nn.Module) -> State:
    """
    :param snn: a converted network
    :param ann: a retrained ANN
    :return: the tensors that it would have with the weights of ``ann``
    :raises ConversionError: if they do not fit, or the network's origin is not known
    """
    if any(buffer.dtype == torch.int8 for buffer in snn.net.buffers()):
        raise ConversionError("load_ann: weights are int8 here. Load them into the network that to_int8 was given")
    if snn.origin is None:
        raise ConversionError(
            "load_ann: this network has loaded a state dict, and what a calibration has done to its weights is not "
            "known. Convert the ANN"
        )
    model, example = captured_again(ann, snn.origin, snn.signature, snn.config)
    weights, own = snn.origin.weights(model, snn.net, example), _tensors(snn.net)
    for name in own.keys() | weights.keys():
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise ConversionError(f"load_ann: {name!r} of the network and what this ANN makes of it differ in shape")
    return snn.origin.corrected(weights)


@torch.no_grad()
def set_weights(snn: HasOrigin, weights: State) -> None:
    """Copy ``weights`` into a network, and begin a new window."""
    for name, own in _tensors(snn.net).items():
        own.copy_(weights[name])
    snn.reset()
