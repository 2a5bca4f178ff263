"""What is said about the installed SpikingJelly, and when there is none that can be used."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest
from spikingjelly.activation_based import ann2snn
from torch import nn

from sj_parallel_conversion import UnsupportedReleaseError, compat


def compat_on(monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType | None]) -> ModuleType:
    """``compat`` as it would be with these modules installed in the place of SpikingJelly's."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("sj_parallel_conversion.compat_again", compat.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class WithoutModes:
    """A Converter of an unknown kind."""

    def __init__(self, model: object) -> None:
        pass


class WithoutMethod:
    """A Converter that takes a recipe and converts nothing."""

    def __init__(self, recipe: object) -> None:
        pass


def test_this_release_has_a_dialect() -> None:
    expected = ("recipe", "convert") if hasattr(ann2snn, "ModuleConverter") else ("mode", "forward")
    assert (compat.DIALECT.argument, compat.DIALECT.method) == expected
    assert compat.Converter is ann2snn.Converter


def test_recipe_base_is_the_releases_own_where_it_has_one() -> None:
    assert compat.ModuleConversionRecipe is getattr(ann2snn, "ModuleConversionRecipe", compat.ModuleConversionRecipe)
    recipe, net = compat.ModuleConversionRecipe(), nn.ReLU()
    assert recipe.validate(None) is None
    assert recipe.convert_module(None, net) is net


def test_dialect_knows_the_names_of_its_own_release() -> None:
    names = ("transformer_td_equivalent", "rate_coding", "max", "99.9%", "no such name", "n")
    known = {name for name in names if compat.DIALECT.knows(name)}
    # rate_coding is a name of 2.0.0 that is refused without parameters
    recipes, modes = {"transformer_td_equivalent", "rate_coding"}, {"max", "99.9%"}
    assert known == (recipes if compat.DIALECT.argument == "recipe" else modes)


@pytest.mark.parametrize("refusal", [KeyError, TypeError, ValueError], ids=lambda error: error.__name__)
def test_a_name_is_known_if_it_is_not_refused_as_any_other(monkeypatch: pytest.MonkeyPatch, refusal: type) -> None:
    def __init__(self: object, **arguments: object) -> None:
        name = arguments[compat.DIALECT.argument]
        if name != "taken":
            raise refusal("needs a dataloader" if name == "needy" else f"{name} is none of: taken, needy")

    monkeypatch.setattr(compat.Converter, "__init__", __init__)
    names = ("taken", "needy", "parallel", "t", "e")
    assert [name for name in names if compat.DIALECT.knows(name)] == ["taken", "needy"]


@pytest.mark.parametrize(
    "modules, reason",
    [
        ({"spikingjelly": None, "spikingjelly.activation_based": None}, "spikingjelly"),
        ({"spikingjelly.activation_based": None}, "spikingjelly.activation_based"),
        ({"spikingjelly.activation_based.ann2snn": ModuleType("ann2snn")}, "Converter"),
        ({"spikingjelly.activation_based.layer": ModuleType("layer")}, "StepModeContainer"),
    ],
    ids=["absent", "too old", "no Converter", "no StepModeContainer"],
)
def test_missing_pieces_name_the_supported_releases(
    monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType | None], reason: str
) -> None:
    with pytest.raises(UnsupportedReleaseError, match=rf"0\.0\.0\.0\.14 or 2\.0\.0.*{reason}"):
        compat_on(monkeypatch, modules)


@pytest.mark.parametrize("converter", [WithoutModes, WithoutMethod])
def test_unknown_converter_names_the_supported_releases(monkeypatch: pytest.MonkeyPatch, converter: type) -> None:
    monkeypatch.setattr(ann2snn, "Converter", converter)
    with pytest.raises(UnsupportedReleaseError, match=r"0\.0\.0\.0\.14 or 2\.0\.0.*Converter takes"):
        compat_on(monkeypatch, {})


def test_source_trees_without_a_version_are_told_by_what_they_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.0.0.dev1")
    assert compat_on(monkeypatch, {}).DIALECT.argument == compat.DIALECT.argument


# A release that does not exist: its Converter is spoken to in another way.
FUTURE = """
import sys
from types import ModuleType

class Converter:
    def __init__(self, plan): ...

for name in ("", ".activation_based", *(f".activation_based.{n}" for n in ("ann2snn", "neuron", "base", "layer"))):
    module = sys.modules[f"spikingjelly{name}"] = ModuleType(f"spikingjelly{name}")
    parent, _, own = module.__name__.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    module.Converter = module.MemoryModule = module.MultiStepModule = module.StepModeContainer = Converter
"""
OTHERS = {"absent": "import sys; sys.modules['spikingjelly'] = None", "a future release": FUTURE}


@pytest.mark.parametrize("other", OTHERS)
def test_an_import_on_anything_else_is_one_clear_import_error(other: str) -> None:
    code = f"{OTHERS[other]}\nimport sj_parallel_conversion"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith("sj_parallel_conversion.errors.UnsupportedReleaseError: sj_parallel_conversion needs")
    assert issubclass(UnsupportedReleaseError, ImportError)


def test_a_release_without_a_counter_of_synaptic_operations_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 0.0.0.0.14 does."""
    monkeypatch.setattr(compat, "op_counter", None)
    with pytest.raises(UnsupportedReleaseError, match=r"no counter of synaptic.*Install SpikingJelly 2\.0\.0"):
        compat.synop_counter()
