"""The equations, as pure functions: level <-> spike train (:mod:`coding`) and value -> level (:mod:`quantise`)."""

from .coding import CODES, Code, decode, encode, encode_bytes, encode_like, greedy_digits
from .quantise import clip_relu, clip_to_levels, da_qcfs, level, qcfs, straight_through

__all__ = [
    "CODES",
    "Code",
    "clip_relu",
    "clip_to_levels",
    "da_qcfs",
    "decode",
    "encode",
    "encode_bytes",
    "encode_like",
    "greedy_digits",
    "level",
    "qcfs",
    "straight_through",
]
