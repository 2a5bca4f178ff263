"""SpikingJelly's own Converter with the plugin: as it was, and with our modes."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import ann2snn
from torch import nn
from upstream import TAKES_RECIPE, Snapshot, asked_for

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.config import MODES


def test_signatures_and_aliases_stay(upstream: Snapshot) -> None:
    converter, method = ann2snn.Converter, "convert" if TAKES_RECIPE else "forward"
    before = [(inspect.signature(f), f.__doc__) for f in (converter, converter.__init__, getattr(converter, method))]
    sjpc.register()
    after = [(inspect.signature(f), f.__doc__) for f in (converter, converter.__init__, getattr(converter, method))]
    assert after == before
    if TAKES_RECIPE:
        assert ann2snn.Converter is ann2snn.FXConverter
        assert list(inspect.signature(ann2snn.Converter).parameters) == ["recipe", "device"]


@pytest.mark.parametrize("copied", [lambda c: c, lambda c: pickle.loads(pickle.dumps(c))], ids=["itself", "pickled"])
def test_a_converter_made_before_unregister_still_converts(upstream: Snapshot, copied: Callable) -> None:
    sjpc.register()
    x, ann = torch.rand(4, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    converter = copied(asked_for("parallel", dataloader=[x], time_steps=4, show_progress=False))
    convert = getattr(converter, "convert", converter)
    registered = convert(ann).predict(x)
    sjpc.unregister()
    assert torch.equal(convert(ann).predict(x), registered)


class Subclass(ann2snn.Converter):
    """A converter of a user's, with nothing of its own."""


def test_a_subclass_takes_modes() -> None:
    argument = {"recipe" if TAKES_RECIPE else "mode": "css"}
    converter = Subclass(dataloader=[torch.rand(4, 3)], time_steps=4, show_progress=False, **argument)
    snn = getattr(converter, "convert", converter)(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    assert type(converter) is Subclass
    assert snn.config.mode == "css"


def test_a_subclass_that_converts_by_itself_is_not_bypassed() -> None:
    def method(self: object, ann: nn.Module) -> nn.Module:
        return ann

    own = type("Own", (ann2snn.Converter,), {"convert" if TAKES_RECIPE else "forward": method})
    with pytest.raises(sjpc.ConfigError, match=r"Own has a (convert|forward) method of its own.*ParallelConverter"):
        own(dataloader=[], **{"recipe" if TAKES_RECIPE else "mode": "parallel"})


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
            "empty mode": lambda: make(batches, mode=""),
            "too many": lambda: make(batches, "cpu", "max", 0.1, True, 8),
            "mode twice": lambda: make(batches, "cpu", "max", mode="max"),
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
        "too many": lambda: make(rate_coding, "cpu", batches),
        "recipe twice": lambda: make(rate_coding, recipe=rate_coding),
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
        asked_for("paralel", dataloader=[], time_steps=8)
    arguments = {argument: "paralel"} if TAKES_RECIPE else {"dataloader": [], argument: "paralel"}
    with pytest.raises((ValueError, NotImplementedError)) as refusal:
        ann2snn.Converter(**arguments)
    notes = "".join(refusal.value.__notes__)
    assert "'parallel'" in notes and own in notes


@pytest.mark.parametrize("mode", MODES)
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
    with pytest.raises(sjpc.ConfigError, match=f"device={device!r} cannot be used"):
        asked_for("parallel", dataloader=[], device=device)


@pytest.mark.skipif(not TAKES_RECIPE, reason="this release has no recipes")
def test_options_do_not_go_with_a_recipe_object() -> None:
    recipe = ann2snn.ParallelConversionRecipe([])
    with pytest.raises(TypeError, match="time_steps"):
        ann2snn.Converter(recipe, time_steps=8)
