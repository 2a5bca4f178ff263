"""What is around the spiking parts of a model: its tensors are in the file, and its code is the reader's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..ann2snn.data.inputs import Call
from ..ann2snn.graph import plain_copy
from ..ann2snn.network.attention_calls import add_submodules
from ..ann2snn.network.parts import PartlySpikingNetwork, SpikingSubmodule, replace_everywhere
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..errors import FileError
from .structures import decode_sample, encode_sample
from .tensors import TensorReader, TensorWriter
from .values import Record, decode, encode, need, strings


def encode_rest(snn: PartlySpikingNetwork, tensors: TensorWriter) -> Record:
    """
    :param snn: a network that was converted in parts
    :param tensors: takes the parameters and buffers of what was not converted
    :return: the rest as JSON
    """
    call = _without_objects((snn.sample.args, snn.sample.kwargs))
    return {
        "tensors": {name: tensors.put(name, value) for name, value in _around(snn.model, set(snn.parts))},
        "training": [name for name, module in snn.model.named_modules() if module.training],
        "network_training": snn.training,
        "sample": encode(call, lambda x: {"sample": encode_sample(x)}),
    }


def _around(model: nn.Module, parts: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that are in none of the parts, under each of their names."""
    inside = {id(module) for module in model.modules() if isinstance(module, SpikingSubmodule)}
    inside |= {id(model.get_submodule(name)) for name in parts}
    places = [name for name, module in model.named_modules(remove_duplicate=False) if id(module) in inside]
    for name, value in [
        *model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False),
    ]:  # fmt: skip
        if not any(name.startswith(f"{place}.") for place in places):
            yield name, value


def _without_objects(value: Any) -> Any:
    """An example of a call in which ``None`` stands for what no file holds."""
    if type(value) in (tuple, list):
        return type(value)(map(_without_objects, value))
    if isinstance(value, dict):
        return {key: _without_objects(item) for key, item in value.items() if isinstance(key, str)}
    return value if isinstance(value, (Tensor, bool, int, float, str)) else None


def decode_rest(
    record: Record, parts: dict[str, SpikingNetwork], tensors: TensorReader, model: nn.Module | None
) -> PartlySpikingNetwork:
    """
    :param record: of :func:`encode_rest`, from a file that may be damaged
    :param parts: the spiking networks, by the names of the submodules that they stand for
    :param tensors: has the parameters and buffers of the rest
    :param model: a model as it was before the conversion; it is left as it was
    :return: the network
    :raises FileError: if there is no model, or it is another
    """
    if model is None:
        raise FileError(
            f"the network was converted in parts ({', '.join(parts)}), and the code around them is not in the file. "
            "Give a model as it was before the conversion: load(path, model=model)"
        )
    model = plain_copy(model).eval()
    add_submodules(model, list(parts))
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in parts:
        need(name in modules, f"the network has a part {name!r}, and {type(model).__name__} has no such submodule")
    entries, own = record["tensors"], dict(_around(model, set(parts)))
    for name in sorted(entries.keys() ^ own.keys()):
        where = "the file has a tensor" if name in entries else f"{type(model).__name__} has a tensor"
        raise FileError(f"{where} {name!r}, and the other has none: the network was converted from another model")
    _fill(model, own, entries, tensors)
    for name, snn in parts.items():
        replace_everywhere(model, modules[name], snn)
    args, kwargs = decode(record["sample"], _sample)
    network = PartlySpikingNetwork(model, Call(args, kwargs))
    need(isinstance(record["network_training"], bool), "it is damaged")
    _set_training(network, set(strings(record["training"])), record["network_training"])
    return network


def _sample(kind: str, content: Record) -> Tensor:
    need(kind == "sample", "its example of a call is damaged")
    return decode_sample(content)


def _fill(model: nn.Module, own: dict[str, Tensor], entries: dict[str, Record], tensors: TensorReader) -> None:
    shapes = tensors.shapes(entries)
    for name, value in own.items():
        if shapes[name].shape != value.shape:
            raise FileError(
                f"the tensor {name!r} has shape {list(shapes[name].shape)} in the file and {list(value.shape)} in "
                f"{type(model).__name__}: the network was converted from another model"
            )
    for name, value in own.items():
        saved = tensors.tensor(entries[name])
        value.data = saved.detach()  # one that has several names stays one
        if value.is_floating_point() and value.is_leaf:
            value.requires_grad_(saved.requires_grad)


def _set_training(network: PartlySpikingNetwork, names: set[str], training: bool) -> None:
    inside = {id(module) for part in network.parts.values() for module in part.modules()}
    for name, module in network.model.named_modules():
        if id(module) not in inside:
            module.training = name in names
    network.training = training
