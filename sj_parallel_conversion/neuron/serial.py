"""What the neurons of weighted codes share: a serial form beside the closed one."""

from __future__ import annotations

from ..parameters import check_flag
from .base import SpikingNode


class SerialNode(SpikingNode):
    """
    A neuron that can also run step by step, as it would on hardware. Arguments and shapes as in :class:`SpikingNode`.
    """

    _runs_serial = False

    @property
    def serial(self) -> bool:
        """
        Whether the node runs its serial form. In a converted network ``snn.execution = "serial"`` sets it everywhere
        and hands the digits on. A node that is set alone reads decoded values. Of these it makes the same train as the
        closed form, except for ties.
        """
        return self._runs_serial

    @serial.setter
    def serial(self, value: bool) -> None:
        """:raises ConfigError: if the value is no bool, or the node has no serial form"""
        check_flag(type(self).__name__, "serial", value)
        if value:
            self.check_serial()
        self._runs_serial = value

    def check_serial(self) -> None:
        """:raises ConfigError: if the node has no serial form"""
