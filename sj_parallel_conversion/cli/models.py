"""Models by name: those of torchvision, timm and transformers, and the user's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..errors import ConfigError
from .imports import library, thing
from .preparation import Preparation, of_timm, of_torchvision, of_transformers
from .weights import load_weights

_RANDOM = "random"
_EXPECTED = "torchvision:NAME, timm:NAME, hf:PATH, package.module:factory or file.py:factory"


@dataclass(frozen=True)
class ModelOptions:
    """
    Where the ANN gets its weights from.

    :param weights: a state dict (.pt, .pth, .safetensors), or the name of trained weights: DEFAULT for those that
        torchvision or timm recommend, or another name of torchvision's, such as IMAGENET1K_V1. These are downloaded
        when they are first used. "random" leaves a model of torchvision or timm untrained
    :param model_args: arguments of the model's factory, such as ``--model-args.num_classes 10``
    """

    weights: str | None = None
    model_args: dict[str, object] | None = None


class Model(NamedTuple):
    """
    A trained network.

    :param network: in evaluation mode
    :param name: for files and tables
    :param preparation: how its trainers have prepared images; ``None`` if that is not known
    """

    network: nn.Module
    name: str
    preparation: Preparation | None


def load_model(ann: str, options: ModelOptions) -> Model:
    """
    :param ann: what the user calls it, such as ``torchvision:resnet18``
    :param options: its weights and arguments
    :return: the model
    :raises ConfigError: if there is no such model
    :raises FileError: if the weights cannot be read, or do not fit
    """
    kind, _, name = ann.partition(":")
    if not name:
        raise ConfigError(f"model {ann!r} is unknown: give {_EXPECTED}")
    load = _KINDS.get(kind)
    network, preparation = load(name, options) if load else (_own(ann, options), None)
    if options.weights not in (None, _RANDOM) and _is_file(options.weights):
        load_weights(network, options.weights)
    return Model(network.eval(), Path(name).resolve().name.rpartition(":")[2], preparation)


def _is_file(weights: str) -> bool:
    return Path(weights).suffix != "" or Path(weights).exists()


def _torchvision(name: str, options: ModelOptions) -> tuple[nn.Module, Preparation | None]:
    models = library("torchvision", f"torchvision:{name}").models
    _check_name("torchvision", name, models.list_models())
    trained = None
    if _needs_download(f"torchvision:{name}", options):
        choices = models.get_model_weights(name)
        if options.weights not in choices.__members__:
            raise ConfigError(f"torchvision:{name} has no weights {options.weights!r}: {_or(choices.__members__)}")
        trained = choices[options.weights]
    network = _made(lambda **args: models.get_model(name, weights=trained, **args), name, options)
    return network, trained and of_torchvision(trained)


def _timm(name: str, options: ModelOptions) -> tuple[nn.Module, Preparation | None]:
    timm = library("timm", f"timm:{name}")
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    pretrained = _needs_download(f"timm:{name}", options)
    if pretrained and options.weights != "DEFAULT":
        raise ConfigError(f"timm:{name} has no weights {options.weights!r}: DEFAULT, or a file")
    network = _made(lambda **args: timm.create_model(name, pretrained=pretrained, **args), name, options)
    return network, of_timm(network) if pretrained else None


def _transformers(path: str, options: ModelOptions) -> tuple[nn.Module, Preparation | None]:
    transformers = library("transformers", f"hf:{path}")
    if options.weights is not None and not _is_file(options.weights):
        raise ConfigError(f"hf:{path} has its own weights: leave out --weights {options.weights}, or give a file")
    try:
        names = transformers.AutoConfig.from_pretrained(path).architectures or ["AutoModel"]
        load = getattr(transformers, names[0]).from_pretrained
        network = _made(lambda **args: load(path, **args), path, options)
    except OSError as error:
        raise ConfigError(f"hf:{path} cannot be loaded: {error}") from error
    return network, of_transformers(path)


def _own(place: str, options: ModelOptions) -> nn.Module:
    if ":" in place and not place.rpartition(":")[2].isidentifier():
        raise ConfigError(f"model {place!r} is unknown: give {_EXPECTED}")
    if options.weights is not None and not _is_file(options.weights):
        raise ConfigError(f"--weights {options.weights}: there is no such file, and {place} has no weights by name")
    found = thing(place, "model")
    network = found if isinstance(found, nn.Module) else _made(found, place, options)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model {place!r} gives something of type {type(network).__name__}, and no torch.nn.Module")
    return network


_KINDS = {"torchvision": _torchvision, "timm": _timm, "hf": _transformers}


def _made(factory: object, name: str, options: ModelOptions) -> nn.Module:
    if not callable(factory):
        raise ConfigError(f"model {name!r} is of type {type(factory).__name__}, and neither a model nor what makes one")
    try:
        return factory(**(options.model_args or {}))
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"model {name!r} cannot be made with --model-args {options.model_args}: {error}") from error


def _needs_download(model: str, options: ModelOptions) -> bool:
    """Whether the weights are trained ones that a library keeps. :raises ConfigError: if none are named"""
    if options.weights is None:
        raise ConfigError(f"{model} is untrained: give --weights FILE, or --weights DEFAULT, which may download them")
    return options.weights != _RANDOM and not _is_file(options.weights)


def _check_name(source: str, name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        close = get_close_matches(name, names)
        raise ConfigError(f"{source} has no model {name!r}" + (f": do you mean {_or(close)}?" if close else ""))


def _or(names: Iterable[str]) -> str:
    return " or ".join(names)
