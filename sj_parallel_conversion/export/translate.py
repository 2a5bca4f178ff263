"""A converted graph on torch's own operations and modules alone."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ann2snn.cpu.byte_pool import ByteMaxPool2d
from ..ann2snn.cpu.int8_layers import Int8Layer
from ..ann2snn.cpu.prepack import PrepackedConv2d
from ..ann2snn.graph.folded import Rescale, ResidualAdd, ToLevels
from ..ann2snn.graph.following import cast, construct
from ..ann2snn.graph.formula import Formula
from ..ann2snn.graph.leaves import tensor_leaf
from ..ann2snn.graph.normalisation import Normalisation
from ..ann2snn.graph.plain import put, value_of
from ..ann2snn.graph.quantisers import RecognisedQCFS
from ..ann2snn.graph.registry import FunctionActivation
from ..errors import ConfigError
from ..neuron import SpikingActivation
from ..neuron.activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity
from .bodies import activation_body, neuron_body

_OWN = ("sj_parallel_conversion", "spikingjelly")
# What prepack() and to_int8() make of layers of torch. Their classes alone differ.
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {PrepackedConv2d: nn.Conv2d, ByteMaxPool2d: nn.MaxPool2d}


class Observed(fx.Interpreter):
    """
    Runs a network once, to learn what its graph does not say.

    ``inputs`` has for each call of a module a tensor with the form of its first input, ``shapes`` the shape of each
    tensor, ``paths`` where in other values the tensors lie.
    """

    def __init__(self, net: fx.GraphModule) -> None:
        super().__init__(net)
        self.extra_traceback = False
        self.inputs: dict[fx.Node, Tensor] = {}
        self.paths: dict[fx.Node, list[list[object]]] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}

    def of(self, net: fx.GraphModule) -> Observed:
        """:param net: of which the network that was run is a copy. :return: what was learnt, by the nodes of ``net``"""
        nodes = dict(zip(self.module.graph.nodes, net.graph.nodes, strict=True))
        for name in ("inputs", "paths", "shapes"):
            setattr(self, name, {nodes[node]: value for node, value in getattr(self, name).items()})
        return self

    def run_node(self, node: fx.Node) -> object:
        """As in the base class."""
        if node.op == "call_module" and node.args:
            args, _ = self.fetch_args_kwargs_from_env(node)
            if isinstance(args[0], Tensor):
                self.inputs[node] = args[0].new_empty(()).expand(args[0].shape)
        value = super().run_node(node)
        if isinstance(value, Tensor):
            self.shapes[node] = value.shape
        if node.op == "call_module" and not isinstance(value, Tensor):
            self.paths[node] = list(_tensor_paths(value))
        return value


def _tensor_paths(value: object) -> Iterator[list[object]]:
    if isinstance(value, Tensor):
        yield []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (tuple, list)) else ()
    for key, inner in pairs:
        yield from ([key, *path] for path in _tensor_paths(inner))


class Translation:
    """
    The operations of a graph, one by one, on torch alone.

    :param net: a graph of this package; it is left as it was
    :param observed: of a run of it; ``None`` for the graph of an activation
    """

    def __init__(self, net: fx.GraphModule, observed: Observed | None = None) -> None:
        self.net, self.observed = net, observed
        self.root, self.graph = nn.Module(), fx.Graph()
        self.known: dict[fx.Node, object] = {}

    def run(self, inputs: Sequence[fx.Node]) -> Any:
        """
        :param inputs: of the new graph
        :return: what the source returns, with nodes of the new graph
        """
        rest = iter(inputs)
        for node in self.net.graph.nodes:
            if node.op == "output":
                return fx.node.map_arg(node.args[0], self.value)
            self.known[node] = next(rest) if node.op == "placeholder" else self.translated(node)
        raise AssertionError("a graph without an output")

    def module(self, results: object, name: str) -> fx.GraphModule:
        """:param results: what it returns. :param name: of its class. :return: the new graph as a module"""
        self.graph.output(results)
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph, name).eval()

    def value(self, node: fx.Node, reader: fx.Node | None = None) -> object:
        """
        :param node: a node of the source
        :param reader: the node that reads it; ``None`` for the output
        :return: its value in the new graph
        """
        return self.known[node]

    def translated(self, node: fx.Node) -> object:
        """:param node: an operation of the source. :return: its value in the new graph"""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda read: self.value(read, node))
        if node.op == "get_attr":
            if not _has(self.root, node.target):
                value = value_of(self.net, node.target).detach().clone()
                put(self.root, node.target, value)
            return self.graph.get_attr(node.target)
        if node.op == "call_module":
            return self._module(node, args, kwargs)
        return self._function(node, node.target, args, kwargs)

    def _function(
        self, node: fx.Node, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, object]
    ) -> object:
        if target is cast:
            return self.graph.call_method("type_as", (args[1], args[0]))
        if target is construct:
            reference, name, floating, *rest = args
            packet, _, overload = name.partition(".")
            where = {"device": self.graph.call_function(getattr, (reference, "device"))}
            where |= {"dtype": self.graph.call_function(getattr, (reference, "dtype"))} if floating else {}
            function = getattr(getattr(torch.ops.aten, packet), overload or "default")
            return self.graph.call_function(function, tuple(rest), {**kwargs, **where})
        if target is tensor_leaf:
            value = args[0]
            for key in self._path(node.args[0], node.args[1]):
                value = self.graph.call_function(operator.getitem, (value, key))
            return value
        return self.graph.call_function(target, args, kwargs)

    def _path(self, node: fx.Node, index: int) -> list[object]:
        paths = self.observed.paths.get(node, [[]]) if self.observed else [[]]
        if index >= len(paths):
            raise ConfigError(
                f"layer {node.target!r} returns its tensors in a type of its own, which a graph of torch cannot open. "
                "Return a tuple or a dict"
            )
        return paths[index]

    def _module(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        module = self.net.get_submodule(node.target)
        if isinstance(module, SpikingIdentity):
            return args[0]
        if isinstance(module, Rescale):
            return self.graph.call_function(torch.mul, (args[0], self._constant(node, "factor", module.factor)))
        if isinstance(module, ToLevels):
            offset, gain = (self._constant(node, name, getattr(module, name)) for name in ("offset", "gain"))
            return self.graph.call_function(torch.addcmul, (offset, args[0], gain))
        if isinstance(module, ResidualAdd):
            if module.factor is None:
                return self.graph.call_function(torch.add, args[:2])
            factor = self._constant(node, "factor", module.factor)
            return self.graph.call_function(torch.addcmul, (*args[:2], factor))
        if isinstance(module, FunctionActivation):
            return self.graph.call_function(module.function, (*args, *module.arguments), module.named)
        if not _has(self.root, node.target):
            like = self.observed.inputs.get(node) if self.observed else None
            put(self.root, node.target, torch_module(module, node.target, like))
        return self.graph.call_module(node.target, args, kwargs)

    def _constant(self, node: fx.Node, name: str, value: Tensor) -> fx.Node:
        path = f"{node.target}.{name}"
        if not _has(self.root, path):
            put(self.root, path, value.detach().clone())
        return self.graph.get_attr(path)


def torch_module(module: nn.Module, name: str, like: Tensor | None) -> nn.Module:
    """
    :param module: a module of a converted network; it is left as it was
    :param name: its name, for errors
    :param like: an example of its input
    :return: a module that computes the same, of classes of torch or of the user's own
    :raises ConfigError: if there is none
    """

    def inner(activation: nn.Module) -> nn.Module:
        return torch_module(activation, name, like)

    if isinstance(module, SpikingActivation):
        assert like is not None  # the graph of an activation, which is not run, has no neuron in it
        return neuron_body(module.node, like, inner)
    if isinstance(module, (Formula, Normalisation)):
        return _formula(module.body, type(module).__name__)
    if isinstance(module, RecognisedQCFS):
        return _formula(module.formula.body, "Formula")
    if isinstance(module, (QCFS, DAQCFS, ClipReLU)):
        assert like is not None  # nor one of these
        return activation_body(module, like)
    if isinstance(module, SpikingIdentity):
        return nn.Identity()
    if isinstance(module, FunctionActivation):
        graph = fx.Graph()
        x = graph.placeholder("x")
        graph.output(graph.call_function(module.function, (x, *module.arguments), module.named))
        return fx.GraphModule(nn.Module(), graph)
    refuse_int8(module, name)
    return _copied(module, name)


def refuse_int8(module: nn.Module, name: str) -> None:
    """:raises ConfigError: if a module is a layer of :func:`~sj_parallel_conversion.to_int8`"""
    if isinstance(module, Int8Layer):
        raise ConfigError(
            f"layer {name!r} has the int8 weights of to_int8, which no other runtime reads. Export the network that "
            "to_int8 was given: export_onnx(..., integers=True) and export_integers make int8 weights of it"
        )


def _formula(body: fx.GraphModule, name: str) -> fx.GraphModule:
    translation = Translation(body)
    inputs = [translation.graph.placeholder(node.target) for node in body.graph.nodes if node.op == "placeholder"]
    return translation.module(translation.run(inputs), name)


def plain(module: nn.Module) -> nn.Module:
    """A layer of torch in the place of one for CPUs that computes the same; others as they are."""
    cls = _PLAIN.get(type(module))
    if cls is None:
        return module
    layer = cls.__new__(cls)
    layer.__dict__.update({key: value for key, value in vars(module).items() if key != "_packed"})
    return layer


def _copied(module: nn.Module, name: str) -> nn.Module:
    copied = without_hooks(plain(module)).requires_grad_(False)
    for path, part in copied.named_modules():
        if type(part).__module__.partition(".")[0] in _OWN:
            raise ConfigError(
                f"layer {f'{name}.{path}'.rstrip('.')!r} is a {type(part).__name__} of {type(part).__module__}, which "
                "has no form in torch alone"
            )
    return copied.eval()


def without_hooks(module: nn.Module, shares_tensors: bool = False) -> nn.Module:
    """
    :param module: any module; it is left as it was
    :param shares_tensors: whether parameters and buffers are those of ``module``, and not copied
    :return: a copy to which nobody listens
    """
    each = [part for inner in module.modules() for part in vars(inner).items()]
    memo: dict[int, Any] = {
        id(value): OrderedDict() for name, value in each if name.endswith("_hooks") and value is not None
    }
    if shares_tensors:
        memo |= {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)


def _has(root: nn.Module, path: str) -> bool:
    for part in path.split("."):
        own: dict[str, Any] = {**root._modules, **root._buffers, **root._parameters}
        if part not in own:
            return False
        root = own[part]
    return True
