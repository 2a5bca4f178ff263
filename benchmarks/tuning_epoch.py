"""One epoch of fine-tuning, in a file of its own, so that a fresh process can load it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor, nn

import sj_parallel_conversion as sjpc


@dataclass
class Epoch:
    """
    :param snn: is trained, with steps too small to change it
    :param ann: the reference
    """

    snn: sjpc.SpikingNetwork
    ann: nn.Module

    def __call__(self, images: Tensor) -> sjpc.FineTuning:
        """:param images: ``[N, ...]``; eight of them are held out"""
        options = {"held_out": [images[:8]], "epochs": 1, "learning_rate": 1e-6, "show_progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that such small steps bring nothing
            return sjpc.fine_tune(self.snn, self.ann, list(images[8:].split(32)), **options)
