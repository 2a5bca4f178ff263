"""Parameters, buffers, and what is computed of them alone: what the operations of a graph read beside their inputs."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from .capture import Capture
from .following import REFERENCE
from .naming import Names
from .plain import PlainGraph, put, value_of


class Constants:
    """
    Makes nodes of constants, one for each.

    :param captured: where they come from
    :param graph: the graph that is built
    :param net: holds the constants of that graph
    """

    def __init__(self, captured: Capture, graph: fx.Graph, net: nn.Module) -> None:
        self._graph, self._net = graph, net
        self._nodes: dict[int, tuple[fx.Node, Tensor, str]] = {}  # by the tensor's id
        self._alive: list[Tensor] = []  # so that ids stay their own
        self.original: dict[int, str] = {}  # names of parameters and buffers, by the tensor's id
        self.inputs = self._inputs_of(captured)
        floats = [t for t in captured.model.state_dict().values() if t.is_floating_point()]
        self._reference = max(floats, key=Tensor.numel) if floats else torch.empty(0)
        self._reference_node: fx.Node | None = None

    def _inputs_of(self, captured: Capture) -> dict[str, Tensor]:
        """The constants among the inputs of the program, by the names of their placeholders."""
        signature, model = captured.program.graph_signature, captured.model
        stored: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        stored |= dict(model.named_buffers(remove_duplicate=False))
        inputs: dict[str, Tensor] = {}
        for name, target in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items():
            own = target.removeprefix("model.")
            inputs[name] = stored[own]
            self.original.setdefault(id(stored[own]), own)
        for name, target in signature.inputs_to_lifted_tensor_constants.items():
            inputs[name] = captured.program.constants[target]
        self._alive += inputs.values()
        return inputs

    def keep(self, value: Tensor) -> None:
        """Keep a constant that was computed."""
        self._alive.append(value)

    def follows(self, dtype: torch.dtype) -> bool:
        """Whether what has this dtype has the network's, which may change."""
        return dtype.is_floating_point and dtype == self._reference.dtype

    def as_node(self, value: object, wanted: str) -> object:
        """The node that reads the constant ``value``; ``value`` itself, if it is no tensor."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = self.original.get(id(value), f"constant_{wanted}")
            node = self._first("get_attr", name.replace(".", "_"))
            node.meta["shape"], node.meta["is_floating_point"] = tuple(value.shape), value.is_floating_point()
            self._nodes[id(value)] = (node, value, name)
        return self._nodes[id(value)][0]

    def reference_node(self) -> fx.Node:
        """The node that says where the network is, see :mod:`.following`."""
        if self._reference_node is None:
            self._net.register_buffer(REFERENCE, self._reference.detach().flatten()[:0].clone(), persistent=False)
            self._reference_node = self._first("get_attr", REFERENCE)
            self._reference_node.meta.update(shape=(0,), is_floating_point=True)
        return self._reference_node

    def store(self) -> None:
        """Put the constants under names that no module can have; :func:`name_constants` gives them their own."""
        for i, (node, value, name) in enumerate(self._nodes.values()):
            node.target, node.meta["name"] = f"_constants.value_{i}", name
            is_parameter = isinstance(value, nn.Parameter)
            copy = value.detach().clone()
            put(self._net, node.target, nn.Parameter(copy, value.requires_grad) if is_parameter else copy)

    def _first(self, op: str, target: str) -> fx.Node:
        with self._graph.inserting_before(next(iter(self._graph.nodes), None)):
            return self._graph.create_node(op, target)


def name_constants(net: PlainGraph, names: Names) -> None:
    """
    Give the parameters and buffers that operations read the names that they have in the model, where these are free,
    in place.

    :param net: a network whose layers and activations have their names
    :param names: hands out the names
    """
    for node in net.graph.nodes:
        if node.op == "get_attr" and "name" in node.meta:
            value = value_of(net, node.target)
            node.target = names.of_constant(node.meta.pop("name"))
            put(net, node.target, value)
    net.delete_all_unused_submodules()
    net._modules.pop("_constants", None)
    net.recompile()
