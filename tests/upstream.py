"""SpikingJelly's namespaces, to compare before and after."""

from __future__ import annotations

from spikingjelly.activation_based import ann2snn, neuron

OWNERS = (neuron, ann2snn, ann2snn.Converter)
TAKES_RECIPE = hasattr(ann2snn, "ModuleConverter")
Snapshot = list[dict[str, object]]


def snapshot() -> Snapshot:
    # __slotnames__ is what copy and pickle note down on any class.
    return [{k: v for k, v in vars(owner).items() if k != "__slotnames__"} for owner in OWNERS]


def same(one: Snapshot, other: Snapshot) -> bool:
    """Equal names, in equal order, for identical objects."""
    pairs = list(zip(one, other, strict=True))
    return all(list(a) == list(b) and all(a[k] is b[k] for k in a) for a, b in pairs)


def asked_for(mode: str, **options: object) -> object:
    """SpikingJelly's Converter, asked for a mode."""
    return ann2snn.Converter(**{"recipe" if TAKES_RECIPE else "mode": mode}, **options)
