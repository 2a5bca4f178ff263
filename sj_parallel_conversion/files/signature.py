"""What a network takes and returns, as JSON and back."""

from __future__ import annotations

from ..ann2snn.data.inputs import Batch, InputForm
from ..ann2snn.graph.capture import Outputs
from ..ann2snn.graph.signature import Signature
from ..ann2snn.graph.sizes import Sizes
from ..errors import FileError
from .conditions import check_condition
from .nodes import is_identifier
from .structures import Classes, decode_sample, decode_structure, encode_constants, encode_sample, encode_structure
from .values import Record, decode, encode, need, strings

_RESERVED = {"math", "min", "max", "abs"}  # functions in conditions


def encode_signature(signature: Signature) -> Record:
    """:return: JSON. :raises FileError: if there is something in it that no file holds"""
    form, sizes, outputs = signature.form, signature.sizes, signature.outputs
    record: Record = {
        "inputs": {
            "positional": form.positional,
            "by_position": sorted(form.by_position),
            "defaults": {name: encode(value) for name, value in form.defaults.items()},
            "structure": encode_structure(form.structure),
            "names": form.names,
            "is_tensor": form.is_tensor,
            "constants": encode_constants(form.constants, form.names),
            "batched": list(form.batched),
        },
        "sizes": {
            "names": list(sizes.names),
            "sizes": [list(axes) for axes in sizes.sizes],
            "conditions": [[condition, list(names)] for condition, names in sizes.conditions],
            "batch": sizes.batch,
            "smallest_batch": sizes.smallest_batch,
        },
        "outputs": {
            "structure": encode_structure(outputs.structure),
            "leaves": encode_constants(outputs.leaves),
            "is_tensor": outputs.is_tensor,
            "is_one_tensor": outputs.is_one_tensor,
        },
        "sample": [encode_sample(x) for x in signature.sample.tensors],
    }
    _decode_sizes(record["sizes"])  # a condition that no reader would take is refused here
    return record


def decode_signature(record: Record, classes: Classes) -> Signature:
    """
    :param record: of :func:`encode_signature`, from a file that may be damaged
    :param classes: the types that the reader has given
    :return: the signature
    :raises FileError: if it is damaged
    """
    form, sizes = _decode_form(record["inputs"], classes), _decode_sizes(record["sizes"])
    sample = Batch(tuple(map(decode_sample, record["sample"])), form.batched)
    outputs = _decode_outputs(record["outputs"], classes)
    count = sum(form.is_tensor)
    need(count == len(form.batched) == len(sample.tensors) == len(sizes.sizes), "the form of its inputs is damaged")
    for x, axes in zip(sample.tensors, sizes.sizes, strict=True):
        need(x.dim() == len(axes), "the form of its inputs is damaged")
    return Signature(form, sizes, outputs, sample)


def _decode_form(record: Record, classes: Classes) -> InputForm:
    form = InputForm.__new__(InputForm)
    form.positional = strings(record["positional"])
    form.by_position = set(strings(record["by_position"]))
    form.defaults = {name: decode(value) for name, value in record["defaults"].items()}
    form.structure = decode_structure(record["structure"], classes)
    form.names = strings(record["names"])
    form.is_tensor = _flags(record["is_tensor"])
    form.constants = [decode(value) for value in record["constants"]]
    form.batched = tuple(_flags(record["batched"]))
    counts = {form.structure.leaves, len(form.names), len(form.is_tensor), len(form.constants)}
    need(len(counts) == 1 and any(form.is_tensor), "the form of its inputs is damaged")
    return form


def _decode_sizes(record: Record) -> Sizes:
    sizes = [tuple(axes) for axes in record["sizes"]]
    free = {size for axes in sizes for size in axes if isinstance(size, str)}
    fixed = [size for axes in sizes for size in axes if not isinstance(size, str)]
    need(all(type(size) is int for size in fixed), "the sizes of its inputs are damaged")
    need(all(is_identifier(size) and size not in _RESERVED for size in free), "the sizes of its inputs are damaged")
    conditions = [(condition, strings(names)) for condition, names in record["conditions"]]
    for condition, names in conditions:
        need(free.issuperset(names), "a condition on sizes is damaged")
        check_condition(condition, set(names))
    batch, smallest = record["batch"], record["smallest_batch"]
    need((batch is None or batch in free) and smallest in (1, 2), "the sizes of its inputs are damaged")
    names = strings(record["names"])
    need(len(names) == len(sizes), "the sizes of its inputs are damaged")
    return Sizes(names, sizes, conditions, batch, smallest)


def _decode_outputs(record: Record, classes: Classes) -> Outputs:
    structure, is_tensor = decode_structure(record["structure"], classes), _flags(record["is_tensor"])
    leaves = [decode(value) for value in record["leaves"]]
    one = record["is_one_tensor"]
    need(structure.leaves == len(leaves) == len(is_tensor) and isinstance(one, bool), "its outputs are damaged")
    need(not one or is_tensor == [True], "its outputs are damaged")
    return Outputs(structure, leaves, is_tensor, one)


def _flags(value: object) -> list[bool]:
    if not isinstance(value, list) or not all(isinstance(item, bool) for item in value):
        raise FileError("a list of flags is damaged")
    return value
