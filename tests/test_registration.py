"""What goes into SpikingJelly's namespaces comes out again, and nothing that was there changes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from spikingjelly.activation_based import ann2snn, neuron
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import registration

OWNERS = (neuron, ann2snn, ann2snn.Converter)
NAMES = [(module, name) for module, names in registration.NAMES.items() for name in names]
TAKES_RECIPE = hasattr(ann2snn, "ModuleConverter")
Snapshot = list[dict[str, object]]


def snapshot() -> Snapshot:
    # __slotnames__ is what copy and pickle note down on any class.
    spaces = [{k: v for k, v in vars(owner).items() if k != "__slotnames__"} for owner in OWNERS]
    return [*spaces, {"__all__": tuple(getattr(ann2snn, "__all__", ()))}]


def same(one: Snapshot, other: Snapshot) -> bool:
    """Equal names, in equal order, for identical objects."""
    *spaces, names = one
    *other_spaces, other_names = other
    pairs = list(zip(spaces, other_spaces, strict=True))
    return names == other_names and all(list(a) == list(b) and all(a[k] is b[k] for k in a) for a, b in pairs)


@pytest.fixture
def upstream() -> Iterator[Snapshot]:
    """SpikingJelly without the plugin; afterwards it is registered again."""
    sjpc.unregister()
    yield snapshot()
    sjpc.unregister()
    sjpc.register()


@pytest.mark.parametrize("module, name", NAMES, ids=[name for _, name in NAMES])
def test_import_registers(module: object, name: str) -> None:
    assert getattr(module, name) is getattr(sjpc, name)
    assert name in getattr(module, "__all__", [name])


def test_signatures_and_aliases_stay(upstream: Snapshot) -> None:
    converter, method = ann2snn.Converter, "convert" if TAKES_RECIPE else "forward"
    before = [(inspect.signature(f), f.__doc__) for f in (converter, converter.__init__, getattr(converter, method))]
    sjpc.register()
    after = [(inspect.signature(f), f.__doc__) for f in (converter, converter.__init__, getattr(converter, method))]
    assert after == before
    if TAKES_RECIPE:
        assert ann2snn.Converter is ann2snn.FXConverter
        assert list(inspect.signature(ann2snn.Converter).parameters) == ["recipe", "device"]


def test_register_is_idempotent(upstream: Snapshot) -> None:
    sjpc.register()
    once = snapshot()
    sjpc.register()
    assert same(snapshot(), once)
    sjpc.unregister()
    assert same(snapshot(), upstream)
    sjpc.unregister()
    assert same(snapshot(), upstream)


def test_first_import_can_be_undone_completely() -> None:
    code = """
from spikingjelly.activation_based import ann2snn, neuron
owners = (neuron, ann2snn, ann2snn.Converter)
before, names = [dict(vars(owner)) for owner in owners], getattr(ann2snn, "__all__", None)
content = list(names or ())
import sj_parallel_conversion as sjpc
assert hasattr(neuron, "ParallelConversionNode")
sjpc.unregister()
for old, owner in zip(before, owners):
    assert list(old) == list(vars(owner)) and all(old[k] is vars(owner)[k] for k in old), owner
assert getattr(ann2snn, "__all__", None) is names and list(names or ()) == content
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("module, name", NAMES, ids=[name for _, name in NAMES])
def test_a_taken_name_is_left_alone(
    upstream: Snapshot, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(module, name, "someone else's", raising=False)
    taken = snapshot()
    with pytest.raises(sjpc.RegistrationError, match=rf"{module.__name__}\.{name}\b"):
        sjpc.register()
    assert same(snapshot(), taken)
    monkeypatch.undo()
    assert same(snapshot(), upstream)


def test_a_taken_mode_is_left_alone(upstream: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann2snn.Converter, "__init__", lambda self, *args, **kwargs: None)
    taken = snapshot()
    with pytest.raises(sjpc.RegistrationError, match="'parallel'"):
        sjpc.register()
    assert same(snapshot(), taken)


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


def outcome(call: Callable[[], object]) -> tuple[type, str]:
    """What a call gives: the type of the result, or the error and its words."""
    try:
        return type(call()), ""
    except Exception as error:
        return type(error), str(error)


def upstream_calls() -> dict[str, Callable[[], object]]:
    """Calls of SpikingJelly's own entry points, good and bad."""
    make, batches = ann2snn.Converter, []
    if not TAKES_RECIPE:
        return {
            "default": lambda: make(batches),
            "max": lambda: make(batches, mode="max", momentum=0.2, fuse_flag=False),
            "Max, positional": lambda: make(batches, "cpu", "Max", 0.1, True),
            "percentile": lambda: make(batches, mode="99.9%"),
            "scale": lambda: make(batches, mode=0.5),
            "no dataloader": lambda: make(),
            "unknown mode": lambda: make(batches, mode="sum"),
            "bad percentile": lambda: make(batches, mode="a%"),
            "bad scale": lambda: make(batches, mode=2.0),
            "no mode": lambda: make(batches, mode=None),
            "extra keyword": lambda: make(batches, time_steps=8),
            "extra keyword with a mode": lambda: make(batches, mode="max", time_steps=8),
            "extra keyword with a scale": lambda: make(batches, mode=0.5, threshold="mse"),
            "forward without a model": lambda: make(batches).forward(),
            "forward of no model": lambda: make(batches)(None),
        }
    rate_coding = ann2snn.RateCodingRecipe(batches)
    return {
        "object": lambda: make(rate_coding),
        "name": lambda: make("transformer_td_equivalent", device="cpu"),
        "no recipe": lambda: make(),
        "unknown recipe": lambda: make("sum"),
        "recipe that needs parameters": lambda: make("rate_coding"),
        "module recipe": lambda: make(ann2snn.ModuleConversionRecipe()),
        "not a recipe": lambda: make(3),
        "extra keyword": lambda: make(rate_coding, dataloader=batches),
        "extra keyword with a name": lambda: make("transformer_td_equivalent", time_steps=8),
        "extra keyword without a recipe": lambda: make(dataloader=batches, time_steps=8),
        "FX recipe in ModuleConverter": lambda: ann2snn.ModuleConverter(rate_coding),
        "convert without a model": lambda: make(rate_coding).convert(),
        "convert no model": lambda: make(rate_coding).convert(None),
        "convert a model": lambda: make("transformer_td_equivalent").convert(ann=nn.Linear(2, 2)),
    }


@pytest.mark.parametrize("name", upstream_calls())
def test_own_results_and_errors_of_spikingjelly_stay(upstream: Snapshot, name: str) -> None:
    call = upstream_calls()[name]
    before = outcome(call)
    sjpc.register()
    assert outcome(call) == before


def test_misspelt_mode_lists_the_modes() -> None:
    argument, own = ("recipe", "transformer_td_equivalent") if TAKES_RECIPE else ("mode", "99.9%")
    with pytest.raises(sjpc.ConfigError, match=rf"{argument}='paralel'.*time_steps.*'parallel'.*{own}"):
        ann2snn.Converter(dataloader=[], time_steps=8, **{argument: "paralel"})
    arguments = {argument: "paralel"} if TAKES_RECIPE else {"dataloader": [], argument: "paralel"}
    with pytest.raises((ValueError, NotImplementedError)) as refusal:
        ann2snn.Converter(**arguments)
    notes = "".join(refusal.value.__notes__)
    assert "'parallel'" in notes and own in notes


@pytest.mark.parametrize("mode", registration.MODES)
@pytest.mark.parametrize("arguments", [{"dataloader": []}, {}, {"time_steps": 8}], ids=str)
def test_argument_of_the_other_release_is_told_the_right_one(mode: str, arguments: dict[str, object]) -> None:
    foreign, usage = ("mode", "recipe={!r}, dataloader") if TAKES_RECIPE else ("recipe", "dataloader, mode={!r}")
    for positional in ([], [[]]):
        with pytest.raises(sjpc.ConfigError, match=f"^{foreign}='{mode}'.*Converter.{usage.format(mode)}") as error:
            ann2snn.Converter(*positional, **{foreign: mode}, **arguments)
        assert "ParallelConverter" in str(error.value)


@pytest.mark.skipif(TAKES_RECIPE, reason="this release's Converter has no such options")
@pytest.mark.parametrize("options", [{"momentum": 0.1}, {"momentum": 0.1, "fuse_flag": True}], ids=str)
def test_options_of_rate_coding_are_ignored_with_a_warning(options: dict[str, object]) -> None:
    with pytest.warns(UserWarning, match=f"{', '.join(options)}: option of SpikingJelly's rate coding") as caught:
        converter = ann2snn.Converter([], mode="parallel", **options)
    assert caught[0].filename == __file__
    assert converter.recipe.config == sjpc.ConversionConfig()
    with pytest.warns(UserWarning, match="momentum"):
        ann2snn.Converter([], None, "parallel", 0.1)


@pytest.mark.parametrize("device", ["foo", 1.5, "cuda:99"])
def test_unknown_device_is_refused_at_once(device: object) -> None:
    arguments = {"recipe" if TAKES_RECIPE else "mode": "parallel", "dataloader": [], "device": device}
    with pytest.raises(sjpc.ConfigError, match=f"device={device!r} cannot be used"):
        ann2snn.Converter(**arguments)


@pytest.mark.skipif(not TAKES_RECIPE, reason="this release has no recipes")
def test_options_do_not_go_with_a_recipe_object() -> None:
    recipe = ann2snn.ParallelConversionRecipe([])
    with pytest.raises(TypeError, match="time_steps"):
        ann2snn.Converter(recipe, time_steps=8)
