"""Save and load: whole networks, and those in which some submodules spike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import nn

from ..ann2snn.config import ConversionConfig
from ..ann2snn.cpu.byte_flow import pass_bytes
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..atomic_file import as_path
from ..errors import ConfigError, FileError
from ..kernels import check_backend
from ..neuron import SerialNode, SpikingActivation
from ..user_warnings import warn
from . import container
from .modules import ModuleReader, encode_modules
from .rest import decode_rest, encode_rest
from .signature import decode_signature, encode_signature
from .structures import Classes
from .tensors import TensorReader, TensorWriter
from .values import Record, decode, encode, need


def save(snn: SpikingNetwork | PartlySpikingNetwork, path: str | os.PathLike[str]) -> None:
    """
    Save a network, so that it is loaded without the code of the model that it came from. What the file holds is in
    ``docs/howto/saving.md``. A running time window, hooks, and attributes of the model are not in it.

    :param snn: a converted network
    :param path: the file; an old one is replaced when the new one is whole
    :raises FileError: if it cannot be written, or there is something in the network that no file holds; the message
        names it
    """
    if not isinstance(snn, (SpikingNetwork, PartlySpikingNetwork)):
        raise ConfigError(f"save takes a converted network, got {type(snn).__name__}")
    path = as_path("path", path)
    with container.naming(path, "saved"):
        stored: dict[str, torch.Tensor] = {}
        if isinstance(snn, SpikingNetwork):
            structure: Record = {"network": _encode_network(snn, TensorWriter("", stored))}
        else:
            parts = {
                name: _encode_network(part, TensorWriter(f"parts.{i}.", stored))
                for i, (name, part) in enumerate(snn.parts.items())
            }
            structure = {"parts": parts, "rest": encode_rest(snn, TensorWriter("rest.", stored))}
        structure["device"] = str(next((t.device for t in [*snn.parameters(), *snn.buffers()]), "cpu"))
        needed = _registered(structure)
        container.write(path, structure, stored)
    if needed:
        warn(
            f"{path}: the network holds {', '.join(needed)}, whose code is not in the file. A reader has to import and "
            "register it (sj_parallel_conversion.register_leaf or register_activation) before loading"
        )


@torch.inference_mode(False)  # its tensors could not be trained later
def load(
    path: str | os.PathLike[str],
    device: torch.device | str | None = None,
    model: nn.Module | None = None,
    classes: Sequence[type] = (),
) -> SpikingNetwork | PartlySpikingNetwork:
    """
    Load a network that :func:`save` has saved. No code of its model is needed, and none in the file is run.

    :param path: the file
    :param device: where the network goes. ``None``: where it was, if there is such a device here; otherwise the CPU
    :param model: for a network that was converted in parts: a model as it was before the conversion, whose weights do
        not matter. It is left as it was. For others it may be left out; its attributes and methods are passed on
    :param classes: of the values that the model takes or returns, such as a dataclass. Without its class a value is an
        ``OrderedDict`` or a tuple, and a warning says so
    :return: the network; each execution gives what it gave, to the bit
    :raises ConfigError: if an argument cannot be used
    :raises FileError: if there is no such file, it is damaged, was altered, is of a newer version, or needs what is not
        here; the message says which
    """
    path = as_path("path", path)
    if model is not None and not isinstance(model, nn.Module):
        raise ConfigError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
    known = Classes(tuple(classes))
    snn: SpikingNetwork | PartlySpikingNetwork
    with container.naming(path, "loaded"), container.reading(path) as (structure, tensors):
        if "network" in structure:
            snn = _decode_network(structure["network"], tensors, known)
            if model is not None:
                snn.stand_for(model)
        else:
            parts = {name: _decode_network(part, tensors, known) for name, part in structure["parts"].items()}
            snn = decode_rest(structure["rest"], parts, tensors, model)
        snn.to(_device(structure["device"]) if device is None else device)
    known.warn()
    return snn


def _encode_network(snn: SpikingNetwork, tensors: TensorWriter) -> Record:
    own = [name for name, value in [*snn._parameters.items(), *snn._buffers.items()] if value is not None]
    others = set(snn._modules) - {"net"} | set(own)
    need(not others, f"the network has the parts {', '.join(sorted(others))}, which a conversion does not make")
    return {
        "config": {field.name: encode(getattr(snn.config, field.name)) for field in fields(ConversionConfig)},
        "signature": encode_signature(snn.signature),
        "graded_input": snn.graded_input,
        "execution": snn.execution,
        "step_mode": snn.step_mode,
        "training": snn.training,
        "modules": encode_modules(snn.net, tensors),
    }


def _decode_network(record: Record, tensors: TensorReader, classes: Classes) -> SpikingNetwork:
    record = _on_torch_without_cupy(record)
    config, net = _config(record["config"]), ModuleReader(record["modules"], tensors).root()
    signature = decode_signature(record["signature"], classes)
    inputs = sum(node.op == "placeholder" for node in net.graph.nodes)
    need(inputs == len(signature.sample.tensors), "its graph has other inputs than it says")
    (outputs,) = next(iter(reversed(net.graph.nodes))).args
    counted = isinstance(outputs, tuple) and len(outputs) == sum(signature.outputs.is_tensor)
    need(counted, "its graph has other outputs than it says")
    need(isinstance(record["graded_input"], bool) and isinstance(record["training"], bool), "it is damaged")
    states = _neuron_states(net)
    snn = SpikingNetwork(net, config, signature, record["graded_input"])
    need(all(site.node.T == config.time_steps for site in snn.neurons()), "its neurons have another number of steps")
    snn.execution, snn.step_mode, snn.training = record["execution"], record["step_mode"], record["training"]
    _set_neuron_states(snn, states)
    pass_bytes(snn.net)
    return snn


def _config(record: Record) -> ConversionConfig:
    known = [field.name for field in fields(ConversionConfig)]
    unknown = [name for name in record if name not in known]
    if unknown:
        raise FileError(
            f"it was converted with the option {unknown[0]!r}, which this version does not know: install a newer one"
        )
    return ConversionConfig(**{name: decode(value) for name, value in record.items()})


def _on_torch_without_cupy(record: Record) -> Record:
    """What ran on a CUDA kernel runs on torch where that kernel cannot, and a warning says so."""
    settings = [record["config"], *(module.get("attributes", {}) for module in record["modules"])]
    on_cupy = [each for each in settings if each.get("backend") == "cupy"]
    if on_cupy:
        try:
            check_backend("load", "cupy")
        except ConfigError as error:
            warn(f"the neurons of the network run on torch. {error}")
            for each in on_cupy:
                each["backend"] = "torch"
    return record


def _neuron_states(net: nn.Module) -> list[tuple[bool, bool, str]]:
    sites = [module for module in net.modules() if isinstance(module, SpikingActivation)]
    return [(site.packed, getattr(site.node, "serial", False), site.node.backend) for site in sites]


def _set_neuron_states(snn: SpikingNetwork, states: list[tuple[bool, bool, str]]) -> None:
    # the network's own setters have set all neurons alike
    for site, (packed, serial, backend) in zip(snn.neurons(), states, strict=True):
        site.packed, site.node.backend = packed, backend
        if isinstance(site.node, SerialNode):
            site.node.serial = serial


def _device(name: object) -> torch.device:
    device = decode({"device": name})
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        return torch.device("cpu")
    return device


def _registered(structure: Record) -> list[str]:
    networks = [structure["network"]] if "network" in structure else structure["parts"].values()
    records = [module for network in networks for module in network["modules"]]
    return sorted({record.get("own", record.get("function")) for record in records} - {None})
