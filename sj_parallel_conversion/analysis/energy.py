"""What operations cost: tables of named constants."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError

# Picojoules in 45 nm at 0.9 V: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
# figure 1.1.9. A multiply-accumulate is a product and a sum. An access is one 32-bit word of a 32 KiB SRAM, half of
# what the figure gives for 64 bits.
HOROWITZ_45NM: dict[str, float] = {
    "mac": 3.7 + 0.9,  # 32-bit floats
    "accumulate": 0.9,
    "mac_int8": 0.2 + 0.1,  # a product of 8 bits, added in 32
    "accumulate_int8": 0.1,  # a weight of 8 bits, added in 32
    "access": 10.0,
}


def checked_device(device: Mapping[str, float] | None) -> dict[str, float]:
    """
    :param device: picojoules by the names of :data:`HOROWITZ_45NM`; what is left out is taken from there
    :return: all of them
    :raises ConfigError: if a name or a value cannot be used
    """
    given = {} if device is None else dict(device)
    for name, value in given.items():
        if name not in HOROWITZ_45NM:
            raise ConfigError(f"device: {name!r} is unknown. Give picojoules of {', '.join(map(repr, HOROWITZ_45NM))}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ConfigError(f"device: {name!r} must be picojoules >= 0, got {value!r}")
    return HOROWITZ_45NM | given
