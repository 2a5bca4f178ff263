"""The parameters of a neuron: what they are, their checks, and how they are loaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError
from ..functional import Code
from ..parameters import along_channels, as_integer, check_flag, neuron_parameter
from ..torch_compat import not_for_a_scalar
from .records import Record, Recorded


class NodeParameters(Recorded):
    """
    Holds and checks the parameters of a neuron. Arguments as in
    :class:`~sj_parallel_conversion.neuron.SpikingNode`.

    Two class attributes say which parameters no longer act, because folding has made them part of the weights around
    the neuron. They keep their values, for inspection.

    - ``folded_input``: the input arrives in units of one level. ``v_threshold``, ``psi`` and ``shift`` are in it.
    - ``folded_output``: a level stands for itself. What it is worth is in the weights that read it.

    ``formula`` is a quantiser that somebody else has written, with the levels of the node's code. If there is one, it
    says which level a value has, and what a level is worth, so that the node gives its values to the bit.
    """

    code: Code
    folded_input = False
    folded_output = False

    def __init__(
        self,
        T: int,
        v_threshold: float | Tensor,
        psi: float | Tensor | None,
        shift: float | Tensor,
        amplitude: float | Tensor | None,
        channel_dim: int,
        signed: bool,
        activation: nn.Module | None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_flag(owner, "signed", signed)
        if activation is not None and not isinstance(activation, nn.Module):
            raise ConfigError(f"{owner}: activation must be a torch.nn.Module or None, got {activation!r}")
        dim = as_integer(channel_dim)
        if dim is None:
            raise ConfigError(f"{owner}: channel_dim must be an integer, got {channel_dim!r}")
        self.T = self.code.check_steps(T)
        self.channel_dim = dim
        self.signed = signed
        self.activation = activation
        self.formula: nn.Module | None = None
        self.v_threshold = neuron_parameter(owner, "v_threshold", v_threshold, positive=True)
        self.shift = neuron_parameter(owner, "shift", shift)
        self.psi = None if psi is None else neuron_parameter(owner, "psi", psi)
        self.amplitude = None if amplitude is None else neuron_parameter(owner, "amplitude", amplitude)
        self._check_numbers_of_channels()

    @property
    def step(self) -> Tensor:
        """How much the mean input has to grow for one level more, ``[]`` or ``[C]``, in the units of the ANN."""
        return self.v_threshold / self.code.levels_per_threshold(self.T)

    @property
    def unit(self) -> Tensor:
        """What one level stands for, ``[]`` or ``[C]``, in the units of the ANN."""
        return self._worth / self.code.levels_per_threshold(self.T)

    @property
    def _worth(self) -> Tensor:
        """What ``levels_per_threshold`` levels stand for."""
        return self.v_threshold if self.amplitude is None else self.amplitude

    def freeze_folded(self) -> None:
        """Parameters that folding has made ineffective ask for no gradient."""
        for name in ("psi", "shift") if self.folded_input else ():
            _freeze(getattr(self, name))
        if self.folded_output:
            _freeze(self.amplitude)
        if self.folded_input and (self.folded_output or self.amplitude is not None):
            _freeze(self.v_threshold)

    def _along(self, parameter: Tensor, x: Tensor) -> Tensor:
        """``parameter``, shaped so that it broadcasts over ``x`` ``[N, ...]``."""
        return along_channels(parameter, x, self.channel_dim, type(self).__name__)

    def _check_numbers_of_channels(self) -> None:
        sizes = {name: len(p) for name, p in self.named_parameters(recurse=False) if p.dim()}
        if len(set(sizes.values())) > 1:
            raise ConfigError(
                f"{type(self).__name__}: parameters have values for different numbers of channels: {sizes}"
            )

    def record(self) -> Record:
        """What gives the parameters their meaning."""
        flags = {name: getattr(self, name) for name in ("channel_dim", "signed", "folded_input", "folded_output")}
        return {"neuron": type(self).__name__, "T": self.T, **flags}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: object) -> None:
        self.check_state_dict(state_dict, prefix)  # before room is made
        # Which parameters a neuron has, and of which shape, depends on its calibration. The checkpoint decides.
        key = prefix + "v_threshold"
        if key in state_dict:
            for name in ("shift", "psi", "amplitude"):
                self._make_room_for(name, state_dict.get(prefix + name))
            state_dict = {**state_dict, key: not_for_a_scalar(state_dict[key], self.v_threshold)}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_room_for(self, name: str, saved: Tensor | None) -> None:
        own = getattr(self, name)
        if saved is None:
            if name != "shift":  # every neuron has a shift
                setattr(self, name, None)
        elif own is None or own.dim() != saved.dim():
            setattr(self, name, nn.Parameter(self.v_threshold.new_empty(saved.shape)))

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        channels = max(p.numel() for p in self.parameters(recurse=False))
        flags = [name for name in ("signed", "folded_input", "folded_output") if getattr(self, name)]
        return f"T={self.T}, channels={channels if channels > 1 else 'any'}, channel_dim={self.channel_dim}" + "".join(
            f", {name}=True" for name in flags
        )


def _freeze(parameter: nn.Parameter | None) -> None:
    if parameter is not None:
        parameter.requires_grad_(False)
