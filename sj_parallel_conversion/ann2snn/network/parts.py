"""Models that are converted in parts: the parts, and the data that reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ConversionError, DataError
from ...neuron.spiking_activation import SpikingActivation
from ..data.inputs import Call
from ..graph import plain_copy
from .attention_calls import add_submodules
from .options import NetworkOptions, RemovedOptionError, common_value
from .origin import set_weights, weights_of
from .spiking_network import SpikingNetwork
from .standing_for import OF_ANY_MODULE, StandingFor


class SpikingSubmodule(StandingFor, nn.Module):
    """
    A spiking network in the place of an ANN's submodule. What stands around it knows nothing of time, so it takes
    ``[N, ...]`` and returns the decoded output, in either step mode.

    Attributes and methods of the submodule are passed on, because the code around it may read them.

    :param snn: the converted submodule
    :param original: the submodule
    """

    def __init__(self, snn: SpikingNetwork, original: nn.Module) -> None:
        super().__init__()
        self.snn = snn
        self.stand_for(original)

    def forward(self, *args: object, **kwargs: object) -> object:
        """:param args: what the submodule takes, ``[N, ...]``. :return: what it returns, decoded"""
        return self.snn.predict(*args, **kwargs)


class PartlySpikingNetwork(NetworkOptions, nn.Module):
    """
    A copy of a model, in evaluation mode, in which some submodules are spiking networks. It is called as the model is
    and returns what the model returns: the whole time window passes within one call.

    It takes ``[N, ...]`` in either step mode, because the layers around the parts know no time. A sequence
    ``[T, N, ...]`` is refused where it can be told from a batch: in place of a tensor that had one axis less in the
    calibration data. For frames that change from step to step, give their mean over time.

    :param model: the model, with a :class:`SpikingSubmodule` in each place
    :param sample: a call with one sample, as :func:`shape_of_sample` gives it
    """

    def __init__(self, model: nn.Module, sample: Call | None = None) -> None:
        super().__init__()
        self.model = model
        self.sample = Call((), {}) if sample is None else sample

    def forward(self, *args: object, **kwargs: object) -> object:
        """
        :param args: what the model takes
        :return: what it returns, decoded
        :raises DataError: if one of ``args`` is a sequence ``[T, N, ...]``
        """
        self._refuse_sequences(args, kwargs)
        return self.model(*args, **kwargs)

    predict = forward

    @property
    def parts(self) -> dict[str, SpikingNetwork]:
        """The converted submodules by their names in the model."""
        return {name: m.snn for name, m in self.model.named_modules() if isinstance(m, SpikingSubmodule)}

    @property
    def time_steps(self) -> int:
        """T, the length of the time window."""
        return next(iter(self.parts.values())).time_steps

    @property
    def execution(self) -> str:
        """
        How the parts run, as :attr:`SpikingNetwork.execution`; ``"mixed"`` if they were set one by one. Setting it sets
        all of them. If a part refuses it, ConfigError is raised and all keep what they had.
        """
        return common_value([snn.execution for snn in self.parts.values()])

    @execution.setter
    def execution(self, value: str) -> None:
        for name, snn in self.parts.items():
            with naming_part(name):
                snn.check_execution(value)
        for snn in self.parts.values():
            snn.execution = value

    @property
    def backend(self) -> str:
        """
        What the neurons run on, as :attr:`SpikingNetwork.backend`; ``"mixed"`` if they were set one by one. Setting it
        sets all of them. If a neuron refuses it, ConfigError is raised and all keep what they had.
        """
        return common_value([snn.backend for snn in self.parts.values()])

    @backend.setter
    def backend(self, value: str) -> None:
        for name, snn in self.parts.items():
            with naming_part(name):
                snn.check_backend(value)
        for snn in self.parts.values():
            snn.backend = value

    def __getattr__(self, name: str) -> Any:
        """What the network does not have itself is the model's: its attributes and methods."""
        try:
            return super().__getattr__(name)
        except RemovedOptionError:
            raise
        except AttributeError:
            model = self.__dict__.get("_modules", {}).get("model")
            if model is None or name.startswith("_"):
                raise
            return getattr(model, name)

    @torch.no_grad()
    def load_ann(self, ann: nn.Module) -> PartlySpikingNetwork:
        """
        As :meth:`SpikingNetwork.load_ann`, for each part and for the layers outside of them.

        :param ann: of the architecture that was converted
        :return: this network, changed in place
        :raises ConversionError: if something differs; the message names the part, and nothing is changed
        """
        plain, parts, outside = plain_copy(ann), {}, self._outside()
        theirs = plain.state_dict()
        add_submodules(plain, list(self.parts))
        for name, value in outside.items():
            if name not in theirs or theirs[name].shape != value.shape:
                raise ConversionError(f"load_ann: this ANN has no {name!r} of shape {list(value.shape)}")
        for name, snn in self.parts.items():
            with naming_part(name):
                if name not in dict(plain.named_modules()):
                    raise ConversionError("load_ann: this ANN has no such module")
                parts[name] = weights_of(snn, plain.get_submodule(name))
        for name, value in outside.items():
            value.copy_(theirs[name])
        for name, snn in self.parts.items():
            set_weights(snn, parts[name])
        return self

    def _outside(self) -> dict[str, Tensor]:
        """The tensors of the layers outside of the parts."""
        inside = tuple(f"{name}." for name, m in self.model.named_modules(remove_duplicate=False)
                       if isinstance(m, SpikingSubmodule))  # fmt: skip
        return {name: value for name, value in self.model.state_dict(keep_vars=True).items()
                if isinstance(value, Tensor) and not name.startswith(inside)}  # fmt: skip

    def requires_grad_(self, requires_grad: bool = True) -> PartlySpikingNetwork:
        """As :meth:`SpikingNetwork.requires_grad_`, for the layers outside of the parts too."""
        super().requires_grad_(requires_grad)
        for snn in self.parts.values():
            snn.requires_grad_(requires_grad)
        return self

    def neurons(self) -> list[SpikingActivation]:
        """The places where neurons stand."""
        return [neuron for snn in self.parts.values() for neuron in snn.neurons()]

    def _refuse_sequences(self, args: tuple[Any, ...], kwargs: dict[str, object]) -> None:
        pairs = [*zip(args, self.sample.args, strict=False)]
        pairs += [(x, self.sample.kwargs[name]) for name, x in kwargs.items() if name in self.sample.kwargs]
        for x, seen in pairs:
            if not (isinstance(x, Tensor) and isinstance(seen, Tensor)):
                continue
            if x.dim() == seen.dim() + 1 and x.shape[0] == self.time_steps:
                raise DataError(
                    "a model that is converted in parts takes inputs [N, ...] in either step mode, and got a sequence "
                    f"[T={self.time_steps}, N, ...] of shape {list(x.shape)}. Call it once with [N, ...]: the whole "
                    "window passes within the call. For frames that change over time, give their mean, "
                    "x_seq.float().mean(0)"
                )

    def __setattr__(self, name: str, value: object) -> None:
        if name == "step_mode":
            raise ConfigError(
                f"{type(self).__name__} has no step mode: it takes [N, ...] and the whole window passes within one "
                "call. Its parts have one: snn.parts[name].step_mode"
            )
        super().__setattr__(name, value)


def replace_everywhere(model: nn.Module, original: nn.Module, snn: SpikingNetwork) -> None:
    """Put a spiking network in the place of a submodule, under each of its names."""
    part = SpikingSubmodule(snn, original)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is original:
                parent._modules[name] = part
        for name, value in list(vars(parent).items()):
            if name not in OF_ANY_MODULE:  # such as lists that are no ModuleList
                vars(parent)[name] = _replaced(value, original, part)


def _replaced(value: Any, original: nn.Module, part: nn.Module, depth: int = 4) -> object:
    """``value`` with ``part`` in the place of ``original``; lists and dicts are changed in place, tuples are not."""
    if value is original:
        return part
    if depth == 0 or type(value) not in (list, tuple, dict):
        return value
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    new = {key: _replaced(inner, original, part, depth - 1) for key, inner in pairs}
    if isinstance(value, tuple):
        return value if all(new[i] is inner for i, inner in enumerate(value)) else tuple(new.values())
    for key, inner in new.items():
        value[key] = inner
    return value


@contextmanager
def naming_part(name: str) -> Iterator[None]:
    """Errors within it name the submodule."""
    try:
        yield
    except (ConfigError, ConversionError, DataError) as error:
        if str(error).startswith("submodule"):
            raise
        raise type(error)(f"submodule {name!r}: {error}") from error
