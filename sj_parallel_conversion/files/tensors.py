"""Parameters and buffers: from a network into a file, and back into modules that know which shapes they need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import FileError
from .nodes import is_identifier
from .values import DTYPES, Record, need


class TensorWriter:
    """
    Collects tensors for a file. One that has several names is there once.

    :param prefix: stands before their names
    :param stored: collects the tensors, as they lie in the file
    """

    def __init__(self, prefix: str, stored: dict[str, Tensor]) -> None:
        self._prefix, self.stored = prefix, stored
        self._entries: dict[int, Record] = {}

    def put(self, name: str, value: Tensor) -> Record:
        """
        :param name: of the tensor in its network
        :param value: the tensor
        :return: what the file says of it beside its values
        :raises FileError: if it is sparse or quantised, or has no values
        """
        if id(value) in self._entries:
            return dict(self._entries[id(value)])
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.dtype not in DTYPES.values():
            raise FileError(f"its tensor {name!r} ({value.dtype}, {value.layout}) has no form in a file")
        name = self._prefix + name
        entry: Record = {"name": name}
        self._entries[id(value)] = entry
        plain = value.detach()
        if plain.is_complex():
            entry["complex"] = True
            plain = torch.view_as_real(plain.resolve_conj())
        strides = plain.stride()
        order = sorted(range(plain.dim()), key=lambda axis: (-strides[axis], axis))
        if not plain.is_contiguous() and plain.permute(order).is_contiguous():
            entry["order"] = order  # channels last, say, for which other kernels run
            plain = plain.permute(order)
        self.stored[name] = plain.contiguous().cpu()
        if isinstance(value, nn.Parameter):
            entry["parameter"] = True
        if value.requires_grad:
            entry["requires_grad"] = True
        return dict(entry)


class TensorReader:
    """
    Hands out the tensors of a file.

    :param header: their shapes and dtypes, by name
    :param read: ``name -> tensor``
    """

    def __init__(self, header: dict[str, tuple[tuple[int, ...], torch.dtype]], read: Callable[[str], Tensor]) -> None:
        self._header, self._read = header, read
        self._known: dict[str, Tensor] = {}

    def shapes(self, entries: dict[str, Record]) -> dict[str, Tensor]:
        """:return: the tensors without values, on the device ``meta``. :raises FileError: if one is not there"""
        forms = {name: self._form(entry) for name, entry in entries.items()}
        return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in forms.items()}

    def _form(self, entry: Record) -> tuple[tuple[int, ...], torch.dtype]:
        name = entry["name"]
        need(isinstance(name, str) and name in self._header, f"the tensor {str(name)[:80]!r} is missing")
        shape, dtype = self._header[name]
        if "order" in entry:
            order = entry["order"]
            need(sorted(order) == list(range(len(shape))), f"the tensor {name!r} is damaged")
            shape = tuple(shape[order.index(axis)] for axis in range(len(shape)))
        if entry.get("complex"):
            need(shape[-1:] == (2,) and dtype in (torch.float32, torch.float64), f"the tensor {name!r} is damaged")
            return shape[:-1], torch.complex64 if dtype == torch.float32 else torch.complex128
        return shape, dtype

    def fill(self, module: nn.Module, entries: dict[str, Record], any_name: bool) -> None:
        """
        :param module: gets its parameters and buffers
        :param entries: what the file says of them, by their names in the module
        :param any_name: whether the module takes any; otherwise those that it has, in their shapes
        :raises FileError: if the file has others than the module
        """
        own = {**module._parameters, **module._buffers}
        for name, entry in entries.items():
            need(is_identifier(name), f"the tensor {str(name)[:80]!r} has no name that a module can have")
            shape, _ = self._form(entry)
            there = own.get(name)
            if not any_name and (there is None or tuple(there.shape) != tuple(shape)):
                has = "none" if there is None else f"one of shape {list(there.shape)}"
                raise FileError(f"the file has a tensor {name!r} of shape {list(shape)}, and the layer has {has}")
        missing = [name for name, value in own.items() if value is not None and name not in entries]
        need(not missing, f"the file lacks its tensors {', '.join(missing)}")
        for name, entry in entries.items():
            _put(module, name, self.tensor(entry), entry.get("persistent", True) is True)

    def tensor(self, entry: Record) -> Tensor:
        """:return: the tensor, the same one for each of its names"""
        self._form(entry)
        name = entry["name"]
        if name not in self._known:
            value = self._read(name)
            if "order" in entry:
                value = value.permute([entry["order"].index(axis) for axis in range(value.dim())])
            value = torch.view_as_complex(value) if entry.get("complex") else value
            if entry.get("parameter") is True:
                value = nn.Parameter(value, requires_grad=entry.get("requires_grad") is True)
            elif entry.get("requires_grad") is True:
                value.requires_grad_()
            self._known[name] = value
        return self._known[name]


def _put(module: nn.Module, name: str, value: Tensor, persistent: bool) -> None:
    if isinstance(value, nn.Parameter):
        need(name not in module._buffers, f"its tensor {name!r} is damaged")
        if name in module._parameters:
            setattr(module, name, value)  # recurrent layers keep a list of theirs
        else:
            module.register_parameter(name, value)
        return
    need(name not in module._parameters, f"its tensor {name!r} is damaged")
    if name in module._buffers:
        module._buffers[name] = value
    else:
        module.register_buffer(name, value, persistent=persistent)
