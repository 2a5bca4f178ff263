"""The choice of what a neuron runs on."""

from __future__ import annotations

from torch import nn

from .. import kernels


class BackendChoice:
    """
    Holds and checks the backend of a node.

    - ``"torch"``: torch's operations, on any device.
    - ``"cupy"``: one fused CUDA kernel, written with CuPy, with the same results. It knows closed forms only.
    """

    activation: nn.Module | None
    formula: nn.Module | None
    _backend = "torch"

    @property
    def closed_form(self) -> bool:
        """Whether the node computes its level at once; False for one that runs a loop over time."""
        return True

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What :attr:`backend` can be. SpikingJelly 0.0.0.0.14's ``functional.set_backend`` asks for it."""
        return kernels.BACKENDS if self.closed_form else ("torch",)

    @property
    def backend(self) -> str:
        """What the node runs on, ``"torch"`` or ``"cupy"``."""
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        """:raises ConfigError: as :meth:`check_backend`"""
        self.check_backend(value)
        self._backend = value

    def check_backend(self, value: str) -> None:
        """
        :param value: a value for :attr:`backend`
        :raises ConfigError: if it is unknown, CuPy or a CUDA device is missing, or the node has no closed form
        """
        if value == "cupy":
            kernels.check_closed_form(self)
        kernels.check_backend(type(self).__name__, value)

    @property
    def _fused(self) -> bool:
        """Whether the kernel runs. It knows no activations and no formulas, so a node with one runs on torch."""
        return self.backend == "cupy" and self.activation is None and self.formula is None
