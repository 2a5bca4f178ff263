"""
The equations, as pure functions: level <-> spike train (:mod:`coding`), value -> level (:mod:`quantise`), and frames ->
one frame (:mod:`frames`).
"""

from .coding import CODES, Code, decode, encode, encode_bytes, encode_like, greedy_digits
from .frames import amplify_frames, frame_weights, pack_frames
from .quantise import clip_relu, clip_to_bytes, clip_to_levels, da_qcfs, level, qcfs, straight_through

__all__ = [
    "CODES",
    "Code",
    "amplify_frames",
    "clip_relu",
    "clip_to_bytes",
    "clip_to_levels",
    "da_qcfs",
    "decode",
    "encode",
    "encode_bytes",
    "encode_like",
    "frame_weights",
    "greedy_digits",
    "level",
    "pack_frames",
    "qcfs",
    "straight_through",
]
