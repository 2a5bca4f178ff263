"""Models that write to their own buffers in evaluation mode."""

from __future__ import annotations

from torch import fx

from ...errors import ConversionError
from .capture import Capture


def refuse_state(captured: Capture, written: list[fx.Node], wanted: list[object]) -> None:
    """
    :param captured: the model
    :param written: the nodes whose values become buffers of the model
    :param wanted: its outputs
    :raises ConversionError: if an output depends on a buffer that the model writes to
    """
    signature = captured.program.graph_signature
    names = {signature.buffers_to_mutate[node.name].removeprefix("model."): node for node in written}
    read = _ancestors([o for o in wanted if isinstance(o, fx.Node)])
    read_names = captured.read | {signature.inputs_to_buffers.get(n.name, "").removeprefix("model.") for n in read}
    for name, node in names.items():
        if node in read or name in read_names:
            raise ConversionError(
                f"{type(captured.model).__name__} changes its buffer {name!r} in evaluation mode, and its "
                "output depends on it. A converted network keeps no such state: make the buffer constant in "
                "evaluation mode"
            )


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    while nodes:
        node = nodes.pop()
        if node not in found:
            found.add(node)
            nodes += node.all_input_nodes
    return found
