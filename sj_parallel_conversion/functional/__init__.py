"""The equations, as pure functions: level <-> spike train (:mod:`coding`) and value -> level (:mod:`quantise`)."""

from .coding import CODES, Code, decode, encode
from .quantise import clip_relu, da_qcfs, level, qcfs

__all__ = ["CODES", "Code", "clip_relu", "da_qcfs", "decode", "encode", "level", "qcfs"]
