"""
Captures that several tests need are made once. Most of the time of a small network's conversion is its capture.

A capture depends on the model, on the first batch, on a few options and on what is registered. Where all of that is
the same as before, to the bit, a test gets a copy of the graph. Models that cannot be pickled are captured each time,
and so are all models in tests of captures.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import warnings
from collections import OrderedDict

import torch
from torch import Tensor, nn

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData
from sj_parallel_conversion.ann2snn.graph import registry

original = graph.graph_of
_MOST, _LARGEST = 300, 2**22  # graphs that are kept, and the bytes of tensors in one of them
_kept: OrderedDict[bytes, tuple[object, bool | None]] = OrderedDict()


class _NoKeyError(Exception):
    pass


class _Pickler(pickle.Pickler):
    """Writes what tensors hold, which of them are one, and which share their storage."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.numbers: dict[object, int] = {}
        self.tensors: list[Tensor] = []  # alive, so that no number is given twice
        self.bytes = 0

    def persistent_id(self, thing: object) -> object:
        if not isinstance(thing, Tensor):
            return None
        if type(thing) not in (Tensor, nn.Parameter) or thing.layout != torch.strided or vars(thing):
            raise _NoKeyError
        self.tensors.append(thing)
        self.bytes += thing.numel() * thing.element_size()
        storage = thing.untyped_storage()
        numbers = [self.numbers.setdefault(key, len(self.numbers)) for key in (id(thing), ("s", storage.data_ptr()))]
        values = thing.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy()
        form = thing.dtype, thing.shape, thing.stride(), thing.storage_offset(), thing.requires_grad, thing.device
        return str((type(thing), *numbers, form, thing.is_inference(), hashlib.sha256(values).hexdigest()))


def _key(ann: nn.Module, data: CalibrationData, *options: object) -> bytes | None:
    """What a capture depends on; ``None`` if that cannot be told."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    modes = torch.get_default_dtype(), torch.is_autocast_enabled(), torch.is_inference_mode_enabled()
    registered = [repr(table) for table in (registry.ACTIVATIONS, registry.OWN_FUNCTIONS, registry.LEAVES)]
    try:
        pickler.dump((ann, data.first(), data.form, registered, str((modes, options))))
    except Exception:  # whatever a model's own pickling raises
        return None
    return hashlib.sha256(file.getvalue()).digest() if pickler.bytes < _LARGEST else None


def graph_of(
    ann: nn.Module, data: CalibrationData, device: torch.device, free_sizes: bool | None = None
) -> tuple[object, object]:
    """As the package's; a copy of what it has returned before for the same model and data."""
    key = _key(ann, data, device, free_sizes)
    if key is None:
        return original(ann, data, device, free_sizes)
    if key not in _kept:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = original(ann, data, device, free_sizes)
        for warning in said:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if said:
            return found
        try:
            _kept[key] = copy.deepcopy(found), data.fixed_batch
        except Exception:  # what torch's own captures keep cannot always be copied
            return found
        if len(_kept) > _MOST:
            _kept.popitem(last=False)
        return found
    _kept.move_to_end(key)
    found, data.fixed_batch = _kept[key]
    return copy.deepcopy(found)


def share(shared: bool) -> None:
    """Whether the tests that come share captures."""
    graph.graph_of = graph_of if shared else original
