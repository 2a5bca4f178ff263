"""Operators with constant weights become modules again: one small function for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

Arguments = dict[str, Any]
# What a module stands for, and the value that it works on; None where the operator has to stay one.
Lifted = tuple[nn.Module, object] | None

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), value.requires_grad)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_float_or_none(value: object) -> bool:
    return value is None or _is_float(value)


def _with(module: nn.Module, **parameters: Tensor | None) -> nn.Module:
    for name, value in parameters.items():
        setattr(module, name, None if value is None else _parameter(value))
    return module.eval()


def _constant_sizes(a: Arguments, *names: str) -> bool:
    def plain(value: object) -> bool:
        return all(map(plain, value)) if isinstance(value, (list, tuple)) else not isinstance(value, fx.Node)

    return all(plain(a.get(name)) for name in names)


def _convolution(a: Arguments) -> Lifted:
    weight, bias, groups = a["weight"], a["bias"], a["groups"]
    if not (_is_float(weight) and _is_float_or_none(bias) and weight.dim() in (3, 4, 5)):
        return None
    if not _constant_sizes(a, "stride", "padding", "dilation", "output_padding"):  # as for an output as large as x
        return None
    dims, transposed = weight.dim() - 2, a.get("transposed", "output_padding" in a)
    layer: nn.Module
    options: dict[str, Any] = {"groups": groups, "bias": bias is not None, "device": "meta"}
    sizes = {name: _tuple(a[name], dims) for name in ("stride", "padding", "dilation")}
    if transposed:
        options["output_padding"] = _tuple(a["output_padding"], dims)
        layer = _TRANSPOSED[dims](weight.shape[0], weight.shape[1] * groups, weight.shape[2:], **sizes, **options)
    else:
        layer = _CONVS[dims](weight.shape[1] * groups, weight.shape[0], weight.shape[2:], **sizes, **options)
    return _with(layer, weight=weight, bias=bias), a["input"]


def _tuple(value: object, dims: int) -> Any:
    if isinstance(value, str):
        return value
    value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return value * dims if len(value) == 1 else value


def _linear_layer(weight: Any, bias: Any, x: object) -> Lifted:
    if not (_is_float(weight) and _is_float_or_none(bias) and weight.dim() == 2):
        return None
    if bias is not None:
        if bias.dim() > 1 and bias.numel() != bias.shape[-1]:
            return None
        bias = bias.reshape(-1).expand(weight.shape[0]) if bias.dim() != 1 or len(bias) != len(weight) else bias
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _with(layer, weight=weight, bias=bias), x


def _addmm(a: Arguments) -> Lifted:
    weight, bias = a["mat2"], a["self"]
    if a["beta"] != 1 or a["alpha"] != 1 or not (_is_float(weight) and _is_float(bias)):
        return None
    return _linear_layer(_transposed(weight), bias, a["mat1"])


def _matrix_product(a: Arguments) -> Lifted:
    weight: Any = a.get("mat2", a.get("other"))
    return _linear_layer(_transposed(weight), None, a["self"]) if _is_float(weight) and weight.dim() == 2 else None


def _transposed(weight: Tensor) -> Tensor:
    return weight.detach().t().contiguous().requires_grad_(weight.requires_grad)


def _batch_norm(a: Arguments) -> Lifted:
    mean, variance, weight, bias = a["running_mean"], a["running_var"], a["weight"], a["bias"]
    known = all(map(_is_float, (mean, variance))) and all(map(_is_float_or_none, (weight, bias)))
    dims = _dims(a["input"])
    if not known or a.get("training") or dims not in _BATCH_NORMS:
        return None
    affine = weight is not None or bias is not None
    norm = _BATCH_NORMS[dims](len(mean), eps=a["eps"], momentum=a["momentum"], affine=affine, device="meta")
    norm.running_mean, norm.running_var = mean.detach().clone(), variance.detach().clone()
    norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=mean.device)
    if affine:
        weight = torch.ones_like(mean) if weight is None else weight
        _with(norm, weight=weight, bias=torch.zeros_like(mean) if bias is None else bias)
    return norm.eval(), a["input"]


def _dims(x: fx.Node) -> int:
    return len(x.meta["shape"])


def _layer_norm(a: Arguments) -> Lifted:
    weight, bias = a["weight"], a["bias"]
    if not (all(map(_is_float_or_none, (weight, bias))) and _constant_sizes(a, "normalized_shape")):
        return None
    affine = weight is not None
    if bias is not None and not affine:
        return None
    shape = list(a["normalized_shape"])
    norm = nn.LayerNorm(shape, a["eps"], elementwise_affine=affine, bias=bias is not None, device="meta")
    return _with(norm, **({"weight": weight, "bias": bias} if affine else {})), a["input"]


def _group_norm(a: Arguments) -> Lifted:
    weight, bias = a["weight"], a["bias"]
    if not all(map(_is_float_or_none, (weight, bias))) or (weight is None) != (bias is None):
        return None
    channels = a["input"].meta["shape"][1]
    norm = nn.GroupNorm(a["num_groups"], channels, a["eps"], affine=weight is not None, device="meta")
    return _with(norm, **({} if weight is None else {"weight": weight, "bias": bias})), a["input"]


def _instance_norm(a: Arguments) -> Lifted:
    weight, bias, dims = a["weight"], a["bias"], _dims(a["input"])
    plain = all(map(_is_float_or_none, (weight, bias))) and (weight is None) == (bias is None)
    if not plain or not a["use_input_stats"] or dims not in _INSTANCE_NORMS:
        return None
    channels = a["input"].meta["shape"][1]
    norm = _INSTANCE_NORMS[dims](channels, eps=a["eps"], affine=weight is not None, device="meta")
    return _with(norm, **({} if weight is None else {"weight": weight, "bias": bias})), a["input"]


def _embedding(a: Arguments) -> Lifted:
    weight = a["weight"]
    if not _is_float(weight) or not isinstance(a["indices"], fx.Node):
        return None
    padding = a["padding_idx"] if 0 <= a["padding_idx"] < len(weight) else None
    layer = nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=padding, device="meta")
    return _with(layer, weight=weight), a["indices"]


def _pool(kind: str, dims: int, *names: str) -> Callable[[Arguments], Lifted]:
    module_type = getattr(nn, f"{kind}{dims}d")

    def lift(a: Arguments) -> Lifted:
        if not _constant_sizes(a, *names):
            return None
        options = {name: a[name] for name in names}
        if options.get("stride") == []:  # torch's way to say: as large as the window
            options["stride"] = None
        values = (tuple(v) if isinstance(v, (list, tuple)) else v for v in options.values())
        return module_type(**dict(zip(options, values, strict=True))).eval(), a.get("self", a.get("input"))

    return lift


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

LIFTS: dict[str, Callable[[Arguments], Lifted]] = {
    **{name: _convolution for dims in (1, 2, 3) for name in (f"conv{dims}d", f"conv_transpose{dims}d")},
    "convolution": _convolution,
    "linear": lambda a: _linear_layer(a["weight"], a["bias"], a["input"]),
    "addmm": _addmm, "mm": _matrix_product, "matmul": _matrix_product,
    "batch_norm": _batch_norm, "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm, "group_norm": _group_norm, "instance_norm": _instance_norm,
    "embedding": _embedding,
    **{f"max_pool{d}d{end}": _pool("MaxPool", d, *_MAX) for d in (1, 2, 3) for end in ("", "_with_indices")},
    "avg_pool1d": _pool("AvgPool", 1, *_AVG),
    **{f"avg_pool{d}d": _pool("AvgPool", d, *_AVG, "divisor_override") for d in (2, 3)},
    **{f"adaptive_avg_pool{d}d": _pool("AdaptiveAvgPool", d, "output_size") for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": _pool("AdaptiveMaxPool", d, "output_size") for d in (1, 2, 3)},
}  # fmt: skip
# They return tuples, of which a module has the first alone.
FIRST_OF_SEVERAL = {
    "_native_batch_norm_legit_no_training",
    *(f"max_pool{d}d_with_indices" for d in (1, 2, 3)),
    *(f"adaptive_max_pool{d}d" for d in (1, 2, 3)),
}


def lift(name: str, arguments: Arguments) -> Lifted:
    """
    :param name: of an ATen operator
    :param arguments: by the names of its schema; constants are tensors, varying values are nodes with shapes
    :return: the module that does the same, and the node that it works on; ``None`` if there is none
    """
    if name not in LIFTS:
        return None
    lifted = LIFTS[name](arguments)
    return lifted if lifted is not None and isinstance(lifted[1], fx.Node) else None
