"""What a conversion says when it is done: how much became spiking, what did not, and what can be done about it."""

from __future__ import annotations

from torch import nn

from ..ann2snn.graph.activations import is_site
from ..ann2snn.graph.outputs import output_values
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..errors import SJPCError
from ..user_warnings import warn
from .inspect import Inspection, inspect

_FEW = 3  # a line names so many
_PRODUCTS = {"matmul", "bmm", "mul", "einsum", "scaled_dot_product_attention"}
_MOST = 0.5  # of the multiply-accumulates behind the first layers


def report(snn: SpikingNetwork | PartlySpikingNetwork, show: bool) -> None:
    """
    Print one line about a converted network, and warn where most of its multiply-accumulates are still such.

    :param snn: the network, just converted
    :param show: whether the line is printed; the warning is given all the same
    """
    try:
        found = inspect(snn, show=False)
    except (SJPCError, RuntimeError):  # an input of zeros may be none that the network takes
        found = None
    if show:
        parts = [_neurons(snn), _share(found), _analogue(snn, found), _kept(found), _fixed_sizes(snn)]
        print(" ".join(filter(None, parts)))
    if found is not None and _share_of_others(found) < _MOST:
        share = f"{found.share_after_input:.0%} of the multiply-accumulates behind the first layers"
        warn(f"only {share} became accumulates. {_analogue(snn, found)}")


def _neurons(snn: SpikingNetwork | PartlySpikingNetwork) -> str:
    count, where = len(snn.neurons()), ""
    if isinstance(snn, PartlySpikingNetwork):
        where = f" in {len(snn.parts)} part{'s' * (len(snn.parts) > 1)}"
    return f"Converted: {count} layer{'s' * (count > 1)} of neurons{where}, T = {snn.time_steps}."


def _share(found: Inspection | None) -> str:
    if found is None or not found.macs:
        return ""
    return (
        f"{found.share:.1%} of the multiply-accumulates became accumulates ({found.share_after_input:.1%} behind the "
        "first layers)."
    )


def _analogue(snn: SpikingNetwork | PartlySpikingNetwork, found: Inspection | None) -> str:
    if found is None:
        return ""
    outputs = _outputs_left(snn)
    chosen = [f"{row.name} ({row.operation})" for row in found.analogue if row.name in outputs]
    analogue = [f"{row.name} ({row.operation})" for row in found.analogue if row.name not in outputs]
    graded = [row.name for row in found.graded]
    texts = []
    if chosen:
        texts.append(f"{_some(chosen)} stay{'s' * (len(chosen) == 1)} analogue, as output_neurons=False asks.")
    if analogue:
        kinds = {row.operation for row in found.analogue if row.name not in outputs}
        texts.append(
            f"{_some(analogue)} stay{'s' * (len(analogue) == 1)} analogue: sj_parallel_conversion.inspect(snn) lists "
            f"them{_remedies(kinds)}."
        )
    groups = [f"{row.name} ({row.operation})" for row in found.normalisations]
    if groups:
        texts.append(f"Normalisations, which see decoded values: {_some(groups)}.")
    if graded:
        texts.append(f"{_some(graded)} receive{'s' * (len(graded) == 1)} no spikes: spiking_inputs=True changes that.")
    return " ".join(texts)


def _remedies(operations: set[str]) -> str:
    """What can be done about operations that stay analogue; nothing can be done about a recurrent layer."""
    texts = []
    if operations & _PRODUCTS:
        texts.append("spiking_inputs=True puts neurons on the factors of a product")
    if any(not hasattr(nn, name) for name in operations - _PRODUCTS):
        texts.append("register_activation makes a function of one value known")
    return "".join(f", {text}" for text in texts)


def _kept(found: Inspection | None) -> str:
    if found is None or not found.kept:
        return ""
    return f"Kept as in the ANN: {_some([row.name for row in found.kept])}."


def _share_of_others(found: Inspection) -> float:
    """As ``share_after_input``, without what is kept: that is the user's wish, and no reason for a warning."""
    after = found.macs - found.input_macs - sum(row.macs for row in found.kept)
    return found.accumulates / after if after else 1.0


def _outputs_left(snn: SpikingNetwork | PartlySpikingNetwork) -> set[str]:
    """The names of activations without a neuron, because they are outputs."""
    parts = {"": snn}
    if isinstance(snn, PartlySpikingNetwork):
        parts = {f"{name}.": part for name, part in snn.parts.items()}
    names: set[str] = set()
    for prefix, part in parts.items():
        if not part.config.output_neurons:
            outputs = output_values(part.net)[1]
            nodes = zip(part.net.graph.nodes, part.operation_names, strict=True)
            names |= {prefix + name for node, name in nodes if node in outputs and is_site(part.net, node)}
    return names


def _some(names: list[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")


def _fixed_sizes(snn: SpikingNetwork | PartlySpikingNetwork) -> str:
    if isinstance(snn, PartlySpikingNetwork):
        return ""
    sizes = snn.signature.sizes
    batch = [f"batches of {snn.signature.sample.size} alone"] if sizes.fixed_batch else []
    fixed = [*batch, *sizes.fixed]
    return f"Fixed sizes: {', '.join(fixed)}." if fixed else ""
