"""Whether a conversion left the ANN as it was."""

from __future__ import annotations

import torch
from torch import nn


def snapshot(ann: nn.Module) -> dict[str, object]:
    """All that a conversion must leave alone."""
    tensors = {**dict(ann.named_parameters(remove_duplicate=False)), **dict(ann.named_buffers())}
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "storages": {name: t.data_ptr() for name, t in tensors.items()},
        "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
        "training": {name: m.training for name, m in ann.named_modules(remove_duplicate=False)},
        "inplace": {name: getattr(m, "inplace", None) for name, m in ann.named_modules(remove_duplicate=False)},
        "modules": {name: id(m) for name, m in ann.named_modules(remove_duplicate=False)},
        "hooks": {name: list(m._forward_hooks.values()) for name, m in ann.named_modules()},
        "attributes": {name: sorted(vars(m)) for name, m in ann.named_modules()},
    }


def assert_unchanged(before: dict, after: dict) -> None:
    values, now = before.pop("values"), after.pop("values")
    assert values.keys() == now.keys()
    for name, value in values.items():
        assert torch.equal(value, now[name]), name
    for what in before:
        assert before[what] == after[what], what
