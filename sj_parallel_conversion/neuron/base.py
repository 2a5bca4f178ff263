"""What all neurons of this package share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from ..compat import MultiStepModule
from ..errors import ConfigError
from ..functional import Code, clip_to_levels, decode, encode, encode_bytes, level
from ..functional.quantise import finite_start, full_precision
from ..parameters import along_channels, check_currents, check_flag, check_steps, evaluate, float_type, neuron_parameter


class SpikingNode(nn.Module, MultiStepModule):
    r"""
    A neuron that sees the whole time window: it sums its input train, quantises the sum to a level, and emits the
    code word of that level.

    .. math::

        k = \mathrm{clip}\left(\left\lfloor \frac{n\,f(\mathrm{mean}_t I_t + \psi_{DA}) + \psi}{\theta} \right\rfloor,
        k_{min}, k_{max}\right), \qquad s = \mathrm{code}(k)

    with n = T for the sorted code (so that n mean = sum) and 1 for weighted codes, and f the identity, for which the
    quantiser's lower end makes the ReLU, or the activation that the neuron stands for: a neuron that sees the whole
    window can apply any. The node emits the bare symbols of its code, so that monitors and counters see real spikes;
    what a spike is worth, :math:`A_t = T w_t \Delta`, is applied after it (:meth:`amplify`), so that the plain mean
    over time decodes every code.

    :param T: number of time-steps
    :param v_threshold: theta > 0, a number or one value a channel
    :param psi: initial charge; ``None`` means ``v_threshold / 2`` (round to nearest)
    :param shift: psi_DA, added to the mean input; a number or one value a channel
    :param amplitude: theta + phi_DA, what the spikes stand for; ``None`` means ``v_threshold``
    :param channel_dim: the axis of ``[N, C, ...]`` (without time) along which per-channel values lie
    :param signed: whether the output may be negative: :math:`k_{min} = -k_{max}` instead of 0. Codes without a
        negative symbol become a pair of trains, a positive and a negative one, of which at most one fires, written
        in one tensor of {-1, 0, 1}
    :param activation: f, a module that works on each value of ``[N, ...]`` alone; ``None`` is the identity
    :param backend: ``"torch"``, or ``"cupy"`` for one fused CUDA kernel; a node with an activation of its own runs on
        torch whatever the backend
    :raises ConfigError: if an argument is out of range, or the backend cannot be used here

    Shapes: ``x_seq`` ``[T, N, ...]`` -> spikes ``[T, N, ...]``. An input expanded along time (stride 0) is read once.
    Always multi-step. As with SpikingJelly's ``PSN`` no ``step_mode`` is set, so that ``functional.set_step_mode``
    passes over it, whatever the mode of the network around it.

    In a converted network the neighbouring layers may have taken over arithmetic of the node (:mod:`..ann2snn.fold`).
    With ``folded_input`` currents arrive in units of one level, shift and initial charge included; with
    ``folded_output`` a level stands for itself, and what it is worth is in the weights that read it. The parameters
    that have become part of weights stay as they were, for inspection, but no longer act.
    """

    code: Code
    closed_form = True  # False for a node that runs a loop over time, which only torch's form does
    folded_input = False
    folded_output = False
    _backend = "torch"

    def __init__(
        self,
        T: int,
        v_threshold: float | Tensor = 1.0,
        psi: float | Tensor | None = None,
        shift: float | Tensor = 0.0,
        amplitude: float | Tensor | None = None,
        channel_dim: int = 1,
        signed: bool = False,
        activation: nn.Module | None = None,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        self.code.check_steps(T)
        self.T = T
        self.channel_dim = channel_dim
        owner = type(self).__name__
        check_flag(owner, "signed", signed)
        if activation is not None and not isinstance(activation, nn.Module):
            raise ConfigError(f"{owner}: activation must be a torch.nn.Module or None, got {activation!r}")
        if isinstance(channel_dim, bool) or not isinstance(channel_dim, int):
            raise ConfigError(f"{owner}: channel_dim must be an integer, got {channel_dim!r}")
        self.signed = signed
        self.activation = activation
        self.v_threshold = neuron_parameter(owner, "v_threshold", v_threshold, positive=True)
        self.shift = neuron_parameter(owner, "shift", shift)
        self.psi = None if psi is None else neuron_parameter(owner, "psi", psi)
        self.amplitude = None if amplitude is None else neuron_parameter(owner, "amplitude", amplitude)
        sizes = {name: len(p) for name, p in self.named_parameters(recurse=False) if p.dim()}
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"{owner}: parameters have values for different numbers of channels: {sizes}")
        self.backend = backend

    @property
    def min_level(self) -> float:
        """The smallest level of the node's code."""
        return -self.code.max_level(self.T) if self.signed else 0

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What :attr:`backend` can be; SpikingJelly 0.0.0.0.14's ``functional.set_backend`` asks for it."""
        return kernels.BACKENDS if self.closed_form else ("torch",)

    @property
    def backend(self) -> str:
        """
        ``"torch"``: torch's operations, on any device; ``"cupy"``: one CUDA kernel, written with CuPy, that gives the
        same result. Setting it raises ConfigError if the name is unknown, CuPy or a CUDA device is missing, or the node
        has no closed form.
        """
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value == "cupy":
            kernels.check_closed_form(self)
        kernels.check_backend(type(self).__name__, value)
        self._backend = value

    @property
    def _fused(self) -> bool:
        return self.backend == "cupy" and self.activation is None

    @property
    def step(self) -> Tensor:
        """The mean input that makes one level more, ``[]`` or ``[C]``, in the units of the ANN."""
        return self.v_threshold / self.code.levels_per_threshold(self.T)

    @property
    def unit(self) -> Tensor:
        """What one level stands for, ``[]`` or ``[C]``, in the units of the ANN."""
        return self._worth / self.code.levels_per_threshold(self.T)

    def forward(self, x_seq: Tensor) -> Tensor:
        """
        :param x_seq: input currents ``[T, N, ...]``
        :return: spikes ``[T, N, ...]`` in :attr:`symbols`, in the dtype of ``x_seq``
        :raises DataError: if ``x_seq`` is no floating-point tensor, or its first axis is not T
        """
        self._check_input(x_seq)
        return self._torch_train(x_seq) if not self._fused else kernels.spike_train(self, x_seq, self._torch_train)

    def spikes(self, x_seq: Tensor) -> Tensor:
        """
        As :meth:`forward`, but one byte a spike where the closed form is used, no gradient is recorded, and no input is
        NaN (the fused kernel does not look: there a NaN emits no spike).
        """
        self._check_input(x_seq)
        if torch.is_grad_enabled() or not self.closed_form:
            return self(x_seq)
        if self._fused:
            return kernels.spike_train(self, x_seq, self._torch_train, torch.int8)
        level = self._level(self._total_of(x_seq))
        # A byte holds no NaN. Levels are finite otherwise, and a sum finds one fifteen times as fast as isnan().any().
        write = encode if level.sum().isnan() else encode_bytes
        return write(level, self.code, self.T, self.signed)

    @property
    def symbols(self) -> tuple[int, ...]:
        """The values that a spike can take."""
        return (-1, 0, 1) if self.signed else self.code.symbols

    def constant(self, x: Tensor) -> Tensor:
        """:param x: mean input ``[N, ...]``. :return: a train with this mean, ``[T, N, ...]``, without a copy"""
        return x.expand(self.T, *x.shape)

    def charge(self, x: Tensor) -> Tensor:
        """
        :param x: mean input ``[N, ...]``
        :return: what the quantiser sees, f(x + psi_DA), in float32 at least
        """
        x = full_precision(x)
        if self.folded_input:
            return x
        x = x + self._along(self.shift, x)
        return x if self.activation is None else evaluate(self.activation, x)

    def level(self, x: Tensor) -> Tensor:
        """
        :param x: mean input ``[N, ...]``
        :return: the level that the node would emit for it, ``[N, ...]``, integers in float32 or float64
        """
        check_currents(type(self).__name__, x)
        return self._level(self._total(x))

    def decoded(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """
        The packed form of the node: what its spike train stands for, without the train.

        :param x: mean input ``[N, ...]``
        :param overwrite: whether the result may take the place of ``x``, if no gradient is recorded
        :return: ``[N, ...]``, equal to ``decode(forward(x_seq))`` for any ``x_seq`` with this mean
        """
        check_currents(type(self).__name__, x)
        if self._fused:
            return kernels.decoded(self, x, self._torch_decoded)
        return self._torch_decoded(x, overwrite)

    def value(self, level: Tensor) -> Tensor:
        """What a ``level`` ``[N, ...]`` stands for."""
        if self.folded_output:
            return level
        return level * (self._along(self._worth, level) / self.code.levels_per_threshold(self.T))

    def decode(self, spike_seq: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """
        :param spike_seq: spikes ``[T, N, ...]`` of this node
        :param dtype: of the result; by default that of ``spike_seq``, or torch's default for a train of integers
        :return: ``[N, ...]``, the mean over time of :meth:`amplify`, computed over exact integers
        :raises DataError: if the first axis is not T
        """
        check_steps(type(self).__name__, spike_seq, self.T)
        dtype = dtype or float_type(spike_seq)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        return self.value(decode(spike_seq, self.code, exact)).to(dtype)

    def amplify(self, spike_seq: Tensor) -> Tensor:
        """
        :param spike_seq: spikes ``[T, N, ...]`` of this node
        :return: ``[T, N, ...]``, each spike times what it is worth at its step
        :raises DataError: if the first axis is not T
        """
        check_steps(type(self).__name__, spike_seq, self.T)
        dtype = float_type(spike_seq)
        unit = self.value(full_precision(torch.ones_like(spike_seq[0], dtype=dtype)))
        weights = unit.new_tensor(self.code.weights(self.T)) * self.T
        return (spike_seq * weights.view(-1, *[1] * unit.dim()) * unit).to(dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        # Which of these a neuron has depends on the calibration; a checkpoint brings those that it was saved with.
        if prefix + "v_threshold" in state_dict:
            for name in ("shift", "psi", "amplitude"):
                saved, own = state_dict.get(prefix + name), getattr(self, name)
                if saved is None and name != "shift":
                    setattr(self, name, None)
                elif saved is not None and (own is None or own.dim() != saved.dim()):
                    setattr(self, name, nn.Parameter(self.v_threshold.new_empty(saved.shape)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        channels = max(p.numel() for p in self.parameters(recurse=False))
        flags = [name for name in ("signed", "folded_input", "folded_output") if getattr(self, name)]
        return f"T={self.T}, channels={channels if channels > 1 else 'any'}, channel_dim={self.channel_dim}" + "".join(
            f", {name}=True" for name in flags
        )

    def _check_input(self, x_seq: Tensor) -> None:
        check_currents(type(self).__name__, x_seq)
        check_steps(type(self).__name__, x_seq, self.T)

    def _torch_train(self, x_seq: Tensor) -> Tensor:
        return self._spikes(x_seq).to(x_seq.dtype)

    def _torch_decoded(self, x: Tensor, overwrite: bool = False) -> Tensor:
        return self.value(self._level(self._total(x), overwrite)).to(x.dtype)

    def _spikes(self, x_seq: Tensor) -> Tensor:
        return encode(self._level(self._total_of(x_seq)), self.code, self.T, self.signed)

    @property
    def _worth(self) -> Tensor:
        return self.v_threshold if self.amplitude is None else self.amplitude

    @property
    def _scale(self) -> int:
        # the factor between the mean input and what is compared with the threshold
        return 1 if self.folded_input else self.code.levels_per_threshold(self.T)

    def _total(self, x: Tensor) -> Tensor:
        charge = self.charge(x)
        return charge if self.folded_input else charge * self._scale

    def _total_of(self, x_seq: Tensor) -> Tensor:
        if x_seq.stride(0) == 0 or self.T == 1:
            return self._total(x_seq[0])
        n = self._scale
        x_seq = full_precision(x_seq)
        start = finite_start(x_seq)
        difference = (x_seq - start).sum(0)
        if self.activation is not None:
            return self._total(start + difference / self.T)
        return self._total(start) + (difference if n == self.T else difference * (n / self.T))

    def _level(self, total: Tensor, overwrite: bool = False) -> Tensor:
        max_level = self.code.max_level(self.T)
        if self.folded_input:
            return clip_to_levels(total, max_level, self.min_level, overwrite)
        return level(total, *self._threshold_and_psi(total), max_level, self.min_level)

    def _threshold_and_psi(self, total: Tensor) -> tuple[Tensor, Tensor]:
        if self.folded_input:
            return total.new_ones(()), total.new_zeros(())
        v_threshold = self._along(self.v_threshold, total)
        return v_threshold, v_threshold / 2 if self.psi is None else self._along(self.psi, total)

    def _along(self, parameter: Tensor, x: Tensor) -> Tensor:
        return along_channels(parameter, x, self.channel_dim, type(self).__name__)
