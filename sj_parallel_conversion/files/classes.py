"""The one table of modules that a file may hold, and how each is built again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..ann2snn.cpu.byte_pool import ByteMaxPool2d
from ..ann2snn.cpu.int8_layers import Int8Conv2d, Int8Linear
from ..ann2snn.cpu.prepack import PrepackedConv2d
from ..ann2snn.graph.folded import Rescale, ResidualAdd, ToLevels
from ..ann2snn.graph.formula import Formula
from ..ann2snn.graph.normalisation import Normalisation
from ..ann2snn.graph.quantisers import RecognisedQCFS
from ..ann2snn.graph.shortcut import ShortcutReLU
from ..errors import FileError
from ..neuron import (
    DAQCFS,
    QCFS,
    ClipReLU,
    ParallelConversionNode,
    SpikePackNode,
    SpikingActivation,
    SpikingIdentity,
    TSANode,
)
from ..torch_compat import LINEAR_OF_ATTENTION


@dataclass(frozen=True)
class Row:
    """
    One class of modules.

    :param module: the class, or a function that makes a module of it
    :param arguments: of its ``__init__``, which are attributes of the same name as well
    :param given: arguments that say whether a tensor is there, and the name of that tensor
    :param tensors: arguments that are tensors; one that is not there is ``None``, or left out where it is required
    :param children: arguments that are modules
    :param settings: attributes that are set afterwards
    :param container: whether it holds any modules and tensors, under any names
    """

    module: Callable[..., nn.Module]
    arguments: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()
    tensors: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    container: bool = False

    @property
    def attributes(self) -> tuple[str, ...]:
        """What a file holds of the module beside its tensors and modules."""
        return self.arguments + self.settings

    def build(
        self, attributes: dict[str, object], tensors: dict[str, Tensor], children: dict[str, nn.Module]
    ) -> nn.Module:
        """
        :param attributes: the values of :attr:`attributes`
        :param tensors: on the device ``meta``
        :param children: its modules
        :return: the module, with tensors on the device ``meta``
        :raises FileError: if it is another module's
        """
        wrong = set(attributes) ^ set(self.attributes)
        unknown = set() if self.container else set(children) - set(self.children)
        if wrong or unknown:
            raise FileError(f"it has other settings than such a module: {min(wrong | unknown)!r}")
        arguments: dict[str, Any] = {name: attributes[name] for name in self.arguments}
        arguments |= {argument: name in tensors for argument, name in self.given}
        arguments |= {name: tensors.get(name) for name in self.tensors}
        arguments |= {name: children.get(name) for name in self.children}
        if self.module is PrepackedConv2d and not torch.backends.mkldnn.is_available():
            raise FileError("it was prepacked for CPUs with oneDNN, which this torch lacks. Save it before prepack()")
        with torch.device("meta"):
            module = self.module(**arguments)
        for name in self.settings:
            setattr(module, name, attributes[name])
        if self.container:
            for name, child in children.items():
                module.add_module(name, child)
        return module


def _node(cls: type[nn.Module], *arguments: str) -> Row:
    def make(formula: nn.Module | None, **rest: object) -> nn.Module:
        node: Any = cls(**{name: value for name, value in rest.items() if not (name == "shift" and value is None)})
        node.formula = formula
        return node

    return Row(
        make, ("T", "channel_dim", "signed", "serial", *arguments) if arguments else ("T", "channel_dim", "signed"),
        tensors=("v_threshold", "psi", "shift", "amplitude"), children=("activation", "formula"),
        settings=("backend", "folded_input", "folded_output"),
    )  # fmt: skip


def _int8_conv(
    form: tuple[Any, ...], max_level: int, weight: Tensor, bias: Tensor | None, reads: Tensor | None, **buffers: object
) -> Int8Conv2d:
    stride, padding, dilation, groups = form
    outputs, inputs, height, width = weight.shape
    sizes: dict[str, Any] = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    options: dict[str, Any] = {"groups": groups, "bias": bias is not None}
    return Int8Conv2d(nn.Conv2d(inputs * groups, outputs, (height, width), **sizes, **options), max_level, reads)


def _int8_linear(
    max_level: int, weight: Tensor, bias: Tensor | None, reads: Tensor | None, **buffers: object
) -> Int8Linear:
    return Int8Linear(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), max_level, reads)


_INT8 = ("weight", "scale", "zero_point", "bias", "reads")
_BIAS = (("bias", "bias"),)
_CONV = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
)  # fmt: skip
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVERAGE_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_EMBEDDING = (
    "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse",
)  # fmt: skip
_MOST_LAYERS = 1_000  # of an RNN
_RNN = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELL = ("input_size", "hidden_size", "bias")


def _rnn(cls: type[nn.Module], *more: str) -> Row:
    def make(num_layers: int, **rest: object) -> nn.Module:
        if num_layers > _MOST_LAYERS:  # each of them would be built before its weights are looked for
            raise FileError(f"it has {num_layers} layers, and {_MOST_LAYERS} are the most")
        return cls(num_layers=num_layers, **rest)

    return Row(make, (*_RNN, *more))


ROWS: dict[type[nn.Module], Row] = {
    **{cls: Row(cls, container=True) for cls in (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)},
    **{cls: Row(cls, ("in_features", "out_features"), _BIAS) for cls in (nn.Linear, LINEAR_OF_ATTENTION)},
    **{cls: Row(cls, _CONV, _BIAS) for cls in (nn.Conv1d, nn.Conv2d, nn.Conv3d, PrepackedConv2d)},
    **{cls: Row(cls, (*_CONV, "output_padding"), _BIAS)
       for cls in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)},
    Int8Conv2d: Row(_int8_conv, ("form", "max_level"), tensors=_INT8),
    Int8Linear: Row(_int8_linear, ("max_level",), tensors=_INT8),
    **{cls: Row(cls, _BATCH_NORM) for cls in (
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)},
    nn.LayerNorm: Row(nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine"), _BIAS),
    nn.GroupNorm: Row(nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
    nn.Embedding: Row(nn.Embedding, _EMBEDDING),
    **{cls: Row(cls, _MAX_POOL) for cls in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, ByteMaxPool2d)},
    nn.AvgPool1d: Row(nn.AvgPool1d, _AVERAGE_POOL),
    **{cls: Row(cls, (*_AVERAGE_POOL, "divisor_override")) for cls in (nn.AvgPool2d, nn.AvgPool3d)},
    **{cls: Row(cls, ("output_size",))
       for cls in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)},
    **{cls: Row(cls, ("output_size", "return_indices"))
       for cls in (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)},
    **{cls: Row(cls, ("p", "inplace")) for cls in (
        nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)},
    nn.LSTM: _rnn(nn.LSTM, "proj_size"), nn.GRU: _rnn(nn.GRU), nn.RNN: _rnn(nn.RNN, "nonlinearity"),
    **{cls: Row(cls, _CELL) for cls in (nn.LSTMCell, nn.GRUCell)},
    nn.RNNCell: Row(nn.RNNCell, (*_CELL, "nonlinearity")),
    **{cls: Row(cls) for cls in (
        nn.Identity, SpikingIdentity, nn.Sigmoid, nn.Tanh, nn.LogSigmoid)},
    **{cls: Row(cls, ("inplace",)) for cls in (
        nn.ReLU, ShortcutReLU, nn.ReLU6, nn.Hardsigmoid, nn.SiLU, nn.Mish, nn.Hardswish, nn.SELU)},
    **{cls: Row(cls, ("alpha", "inplace")) for cls in (nn.ELU, nn.CELU)},
    nn.Hardtanh: Row(nn.Hardtanh, ("min_val", "max_val", "inplace")),
    nn.LeakyReLU: Row(nn.LeakyReLU, ("negative_slope", "inplace")), nn.PReLU: Row(nn.PReLU, ("num_parameters",)),
    nn.Softplus: Row(nn.Softplus, ("beta", "threshold")), nn.GELU: Row(nn.GELU, ("approximate",)),
    nn.Hardshrink: Row(nn.Hardshrink, ("lambd",)), nn.Softshrink: Row(nn.Softshrink, ("lambd",)),
    nn.Threshold: Row(nn.Threshold, ("threshold", "value", "inplace")),
    QCFS: Row(QCFS, ("levels", "channel_dim"), tensors=("v_threshold", "psi")),
    DAQCFS: Row(DAQCFS, ("levels", "channel_dim"), tensors=("v_threshold", "shift", "phi", "psi")),
    ClipReLU: Row(ClipReLU, ("channel_dim",), tensors=("v_threshold",)),
    RecognisedQCFS: Row(RecognisedQCFS, ("levels",), tensors=("v_threshold", "psi"), children=("formula",),
                        settings=("channel_dim",)),
    Formula: Row(Formula, children=("body",), settings=("bounds", "example")),
    Normalisation: Row(Normalisation, children=("body",)),
    Rescale: Row(Rescale, tensors=("factor",)), ToLevels: Row(ToLevels, tensors=("gain", "offset")),
    ResidualAdd: Row(lambda factor: ResidualAdd(factor, None), tensors=("factor",)),
    ParallelConversionNode: _node(ParallelConversionNode),
    SpikePackNode: _node(SpikePackNode, "tau"), TSANode: _node(TSANode, "silent_steps"),
    SpikingActivation: Row(SpikingActivation, ("packed",), children=("node",), settings=("step_mode",)),
}  # fmt: skip
NAMES: dict[str, type[nn.Module]] = {cls.__name__: cls for cls in ROWS}
