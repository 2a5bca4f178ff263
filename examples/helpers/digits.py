"""Handwritten digits, the image set that comes with scikit-learn."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

TRAINING_IMAGES = 1200


def load_data() -> tuple[TensorDataset, Tensor, Tensor]:
    """
    :return: training set, test images ``[N, 1, 8, 8]`` in 0..1 and test labels ``[N]``
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(images))  # neighbours in the file were written by the same people
    train, test = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    return TensorDataset(images[train], labels[train]), images[test], labels[test]
