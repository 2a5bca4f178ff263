"""A converted network as an ONNX file."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ann2snn.data.seeded import global_generator
from ..ann2snn.graph.signature import Signature
from ..ann2snn.network import SpikingNetwork
from ..atomic_file import as_path, check_place, replacing
from ..errors import ConfigError, FileError, MissingExtraError
from ..torch_compat import axes_that_stay_free
from ..user_warnings import warn
from .integer_graph import IntegerTranslation
from .names import input_names, output_names
from .onnx_errors import failing_layer
from .torch_module import check_network, observe, observe_network
from .translate import Translation


def export_onnx(snn: SpikingNetwork, path: str | os.PathLike[str], integers: bool = False) -> None:
    """
    Write the network in packed execution as an ONNX file, by torch's own exporter. The file needs neither this package
    nor torch. Sizes that are free in ``snn`` are free in the file. What it gives, and how exactly, is in
    ``docs/export.md``.

    Inputs have the names of the arguments of the ANN's forward, outputs those of the dict that it returns. What is
    nested is named with dots, as ``features.0``. A single tensor is ``output``, a tuple ``output.0``, ``output.1``, ...

    :param snn: a network in float32 that was converted whole, in any execution; it is left as it was
    :param path: the file; an old one is replaced when the new one is whole
    :param integers: whether layers between neurons get int8 weights, and levels are bytes, so that runtimes take their
        int8 kernels
    :raises MissingExtraError: if onnx or onnxscript is not installed
    :raises ConfigError: if torch is older than 2.8, or the network cannot be exported; the message names the layer
    :raises FileError: if the file cannot be written
    """
    check_network(snn, "export_onnx")
    path = as_path("path", path)
    with _writing(path):
        check_place(path)  # better before the export, which takes minutes, than after it
    _check_installed()
    _check_dtype(snn)
    observed = observe_network(snn)
    translation = IntegerTranslation(snn.net, observed) if integers else Translation(snn.net, observed)
    inputs = [node for node in snn.net.graph.nodes if node.op == "placeholder"]
    placeholders = [translation.graph.placeholder(f"input_{i}") for i in range(len(inputs))]
    module = translation.module(tuple(translation.run(placeholders)), "OnnxNetwork").cpu()
    program = _exported(module, snn.signature, lambda: _culprit(snn))
    with _writing(path):
        _save(program, path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error}") from error


def _save(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Whole or not at all. Weights of more than 1.5 GB are a second file, which the first one names."""
    with TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        program.save(os.path.join(folder, path.name))
        for name in sorted(os.listdir(folder), key=lambda name: name == path.name):
            with replacing(path.with_name(name)) as new:
                os.replace(os.path.join(folder, name), new)


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"export_onnx needs {' and '.join(missing)}: pip install 'sj-parallel-conversion[onnx]' installs all of it"
        )
    if not hasattr(torch.onnx, "ops"):
        raise ConfigError(f"export_onnx needs torch 2.8 or newer, this is {torch.__version__}")


def _check_dtype(snn: SpikingNetwork) -> None:
    for name, value in [*snn.net.named_parameters(), *snn.net.named_buffers()]:
        if value.is_floating_point() and value.dtype != torch.float32:
            raise ConfigError(
                f"export_onnx takes a network in float32, and {name!r} is in {value.dtype}: call snn.float() first"
            )


def _exported(module: fx.GraphModule, signature: Signature, culprit: Callable[[], str]) -> torch.onnx.ONNXProgram:
    example = signature.zeros(torch.device("cpu"), torch.float32)
    if not signature.sizes.fixed_batch and example.size < 2:  # a size of 1 is taken for a constant
        example = example.extended(2 - example.size)
    names = {"input_names": input_names(signature), "output_names": output_names(signature)}
    try:
        free = _free_sizes(signature)
        # a neuron with a threshold for each channel fixes their number
        with global_generator:
            stay = axes_that_stay_free(module, example.tensors, free)
        free = tuple({axis: sizes[axis] for axis in axes} for sizes, axes in zip(free, stay, strict=True))
        try:
            return _export(module, example.tensors, dynamic_shapes=free, **names)
        except Exception as error:  # what is exported cannot always be optimised: parts of a free size, for one
            program = _export(module, example.tensors, dynamic_shapes=free, optimize=False, **names)
            warn(
                f"the ONNX file is written without onnxscript's optimisation, which fails: {_reason(error)}. It gives "
                "the same values, and a runtime optimises it when it loads it"
            )
            return program
    except Exception as error:
        raise ConfigError(f"torch cannot export the network to ONNX{culprit()}: {_reason(error)}") from error


def _export(module: nn.Module, tensors: tuple[Tensor, ...], **options: Any) -> torch.onnx.ONNXProgram:
    with global_generator, torch.no_grad(), warnings.catch_warnings():  # two exports at once disturb each other
        warnings.simplefilter("ignore")  # of the exporter, about what it does
        program = torch.onnx.export(module, tensors, dynamo=True, verbose=False, **options)
    assert program is not None  # which is what dynamo=True returns
    return program


def _culprit(snn: SpikingNetwork) -> str:
    """The layer that fails, for a message; it is looked for one by one."""
    net = copy.deepcopy(snn.net).cpu()
    inputs = snn.signature.zeros(torch.device("cpu"), torch.float32).tensors
    name = failing_layer(net, observe(net, inputs), inputs, _export)
    return "" if name is None else f", because of layer {name!r}"


def _free_sizes(signature: Signature) -> tuple[dict[int, str], ...]:
    """For each input the names of its free sizes: ``batch``, and for others that of the first axis with this size."""
    names: dict[Any, Any] = {}
    sizes = signature.sizes
    for name, shape in zip(input_names(signature), sizes.sizes, strict=True):
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                names.setdefault(size, "batch" if size == sizes.batch else f"{name}_{axis}".replace(".", "_"))
    return tuple({i: names[size] for i, size in enumerate(shape) if isinstance(size, str)} for shape in sizes.sizes)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip()[:500]}"
