"""What goes into SpikingJelly's namespaces comes out again, and nothing that was there changes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable

import pytest
from spikingjelly.activation_based import ann2snn, neuron
from upstream import OWNERS, Snapshot, asked_for, same, snapshot

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import registration

NAMES = [(module, name) for module, names in registration.NAMES.items() for name in names]


def in_a_process(code: str) -> None:
    """Run ``code`` in a fresh interpreter, and fail if it does."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("module, name", NAMES, ids=[name for _, name in NAMES])
def test_import_registers(module: object, name: str) -> None:
    assert getattr(module, name) is getattr(sjpc, name)


def test_one_method_of_the_converter_is_replaced(upstream: Snapshot) -> None:
    sjpc.register()
    before, after = upstream[OWNERS.index(ann2snn.Converter)], vars(ann2snn.Converter)
    changed = {name for name in after if after[name] is not before.get(name)}
    assert changed - {"__slotnames__"} == {"__init__"}  # copying an instance makes Python add the former


@pytest.mark.parametrize("module", [ann2snn, neuron], ids=["ann2snn", "neuron"])
def test_public_names_of_spikingjelly_stay_its_own(upstream: Snapshot, module: object) -> None:
    names = getattr(module, "__all__", None)
    content = list(names or ())
    sjpc.register()
    assert getattr(module, "__all__", None) is names
    assert list(names or ()) == content


def test_register_is_idempotent(upstream: Snapshot) -> None:
    sjpc.register()
    once = snapshot()
    sjpc.register()
    assert same(snapshot(), once)
    sjpc.unregister()
    assert same(snapshot(), upstream)
    sjpc.unregister()
    assert same(snapshot(), upstream)


FIRST_LINES = """
import sys, warnings
from spikingjelly.activation_based import ann2snn, neuron
owners = (neuron, ann2snn, ann2snn.Converter)

def spaces():
    return [dict(vars(owner)) for owner in owners]

def same(one, other):
    return all(list(a) == list(b) and all(a[k] is b[k] for k in a) for a, b in zip(one, other))

def asked_for(mode, **options):
    return ann2snn.Converter(**{"recipe" if hasattr(ann2snn, "ModuleConverter") else "mode": mode}, **options)

def purge():
    for name in [name for name in sys.modules if name.split(".")[0] == "sj_parallel_conversion"]:
        del sys.modules[name]

before = spaces()
"""


def test_first_import_can_be_undone_completely() -> None:
    in_a_process(
        FIRST_LINES
        + """
import sj_parallel_conversion as sjpc
assert hasattr(neuron, "ParallelConversionNode")
sjpc.unregister()
assert same(spaces(), before)
"""
    )


def test_second_import_after_a_purge_replaces_the_first() -> None:
    in_a_process(
        FIRST_LINES
        + """
import sj_parallel_conversion as first
purge()
warnings.simplefilter("error")
import sj_parallel_conversion as second
assert second is not first
assert neuron.ParallelConversionNode is second.ParallelConversionNode is not first.ParallelConversionNode
assert ann2snn.ParallelConverter is second.ParallelConverter
assert type(asked_for("parallel", dataloader=[], time_steps=4).recipe) is second.ParallelConversionRecipe
registered = spaces()
first.unregister()  # has nothing left to take back
assert same(spaces(), registered)
second.unregister()
assert same(spaces(), before)
"""
    )


def test_an_older_copy_can_be_registered_again() -> None:
    in_a_process(
        FIRST_LINES
        + """
import sj_parallel_conversion as first
purge()
import sj_parallel_conversion as second
first.register()
assert neuron.TSANode is first.TSANode
second.unregister()
assert neuron.TSANode is first.TSANode
first.unregister()
assert same(spaces(), before)
"""
    )


def test_second_import_leaves_what_others_put_over_the_first() -> None:
    in_a_process(
        FIRST_LINES
        + """
import functools
import sj_parallel_conversion as first
neuron.TSANode = theirs = "someone else's"
ours = ann2snn.Converter.__init__

@functools.wraps(ours)
def wrapped(self, *args, **kwargs):
    ours(self, *args, **kwargs)

ann2snn.Converter.__init__ = wrapped
purge()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import sj_parallel_conversion as second
message, = [str(w.message) for w in caught if "SpikingJelly already has" in str(w.message)]
assert "neuron.TSANode" in message and "SpikePackNode" not in message, message
assert all(repr(mode) in message for mode in ("parallel", "spikepack", "css")), message
assert neuron.TSANode is theirs and ann2snn.Converter.__init__ is wrapped
assert neuron.SpikePackNode is second.SpikePackNode
assert type(asked_for("parallel", dataloader=[]).recipe) is first.ParallelConversionRecipe
"""
    )


@pytest.mark.parametrize("module, name", NAMES, ids=[name for _, name in NAMES])
def test_a_taken_name_is_left_and_the_others_are_registered(
    upstream: Snapshot, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(module, name, "someone else's", raising=False)
    taken = snapshot()
    with pytest.warns(UserWarning, match=rf"{module.__name__}\.{name}, .*sj_parallel_conversion\.{name}$") as caught:
        sjpc.register()
    assert [warning.filename for warning in caught] == [__file__]
    assert getattr(module, name) == "someone else's" != getattr(sjpc, name)
    others = [other for other in NAMES if other != (module, name)]
    assert all(getattr(owner, other) is getattr(sjpc, other) for owner, other in others)
    assert type(asked_for("parallel", dataloader=[]).recipe) is sjpc.ParallelConversionRecipe
    sjpc.unregister()
    assert same(snapshot(), taken)


def test_it_warns_once(upstream: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in NAMES:
        monkeypatch.setattr(module, name, "someone else's", raising=False)
    with pytest.warns(UserWarning, match="SpikingJelly already has") as caught:
        sjpc.register()
    assert len(caught) == 1
    registered = snapshot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sjpc.register()
    assert same(snapshot(), registered)
    sjpc.unregister()


def knowing(mode: str) -> Callable[..., None]:
    """SpikingJelly's ``Converter.__init__``, as if it knew ``mode`` and asked for one more argument."""
    init = ann2snn.Converter.__init__
    signature = inspect.signature(init)

    def __init__(self: object, *args: object, **kwargs: object) -> None:
        if mode in (*args, *kwargs.values()):
            raise ValueError(f"The {mode} recipe requires parameters.")
        init(self, *args, **kwargs)

    __init__.__signature__ = signature
    return __init__


@pytest.mark.parametrize("mode", registration.MODES)
def test_a_taken_mode_is_left_and_the_others_are_registered(
    upstream: Snapshot, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(ann2snn.Converter, "__init__", knowing(mode))
    taken = snapshot()
    with pytest.warns(UserWarning, match=rf"Converter's \w+ '{mode}', .*ParallelConverter.dataloader, mode='{mode}'.$"):
        sjpc.register()
    others = [other for other in registration.MODES if other != mode]
    with pytest.raises(ValueError, match=f"^The {mode} recipe requires") as refusal:
        asked_for(mode, dataloader=[])
    assert not isinstance(refusal.value, sjpc.SJPCError)
    for other in others:
        assert asked_for(other, dataloader=[], time_steps=8).recipe.config.mode == other
    with pytest.raises(sjpc.ConfigError, match=f"Choose one of: {', '.join(map(repr, others))};"):
        asked_for("paralel", dataloader=[], time_steps=8)
    assert sjpc.ParallelConverter([], mode=mode).recipe.config.mode == mode
    sjpc.unregister()
    assert same(snapshot(), taken)


def test_a_converter_that_takes_every_name_is_left_alone(upstream: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann2snn.Converter, "__init__", lambda self, *args, **kwargs: None)
    taken = snapshot()
    with pytest.warns(UserWarning, match="'parallel'.*'spikepack'.*'css'"):
        sjpc.register()
    assert vars(ann2snn.Converter)["__init__"] is taken[-1]["__init__"]
    assert all(getattr(module, name) is getattr(sjpc, name) for module, name in NAMES)
    sjpc.unregister()
    assert same(snapshot(), taken)


def test_import_where_every_name_is_taken() -> None:
    in_a_process(
        FIRST_LINES
        + """
for name in ("ParallelConversionNode", "SpikePackNode", "TSANode"):
    setattr(neuron, name, name)
for name in ("ParallelConverter", "ParallelConversionRecipe"):
    setattr(ann2snn, name, name)
before = spaces()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import sj_parallel_conversion as sjpc
assert len([w for w in caught if "SpikingJelly already has" in str(w.message)]) == 1
assert neuron.TSANode == "TSANode" and ann2snn.ParallelConverter == "ParallelConverter"
assert sjpc.ParallelConverter([], mode="css").recipe.config.mode == "css"
sjpc.unregister()
assert same(spaces(), before)
"""
    )


def test_what_others_put_over_it_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron, "ParallelConversionNode", "someone else's")
    registered = snapshot()
    with pytest.raises(sjpc.RegistrationError, match=r"neuron\.ParallelConversionNode"):
        sjpc.unregister()
    assert same(snapshot(), registered)


@pytest.mark.parametrize("end", [sjpc.register, sjpc.unregister], ids=lambda f: f.__name__)
def test_threads(upstream: Snapshot, end: Callable[[], None]) -> None:
    failures, start = [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            for action in (sjpc.register, sjpc.unregister) * 20:
                action()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    end()
    assert hasattr(neuron, "ParallelConversionNode") == (end is sjpc.register)
    sjpc.unregister()
    assert same(snapshot(), upstream)
