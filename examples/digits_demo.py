"""Train a small CNN on handwritten digits, convert it, and compare with SpikingJelly's own rate coding.

    python examples/digits_demo.py

Nothing is downloaded: the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from helpers.digits import load_data
from helpers.evaluation import Evaluation, Result, digits_per_activation, table
from helpers.models import digits_cnn
from helpers.plots import plot
from helpers.rate_coding import best_rate_coding
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm, trange

import sj_parallel_conversion as sjpc

TIME_STEPS = [2, 4, 8, 16, 32]
CODES = {  # mode: what the table calls it, time-steps (a weighted code's 2^T levels soon are enough), executions
    "parallel": ("parallel conversion", TIME_STEPS, ["spikes", "packed"]),
    "spikepack": ("spikepack", [2, 4, 8], ["spikes"]),
    "css": ("css", [2, 4, 8], ["spikes"]),
}


def train(ann: nn.Module, data: TensorDataset, epochs: int) -> None:
    """
    :param ann: network, trained in place and left in evaluation mode
    :param data: images and labels
    :param epochs: passes over the data
    """
    optimizer = torch.optim.AdamW(ann.parameters())
    for _ in trange(epochs, desc="training"):
        for images, labels in DataLoader(data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(ann(images), labels).backward()
            optimizer.step()
    ann.eval()


def conversions(ann: nn.Module, loader: DataLoader, evaluation: Evaluation) -> list[Result]:
    """
    :param ann: trained network
    :param loader: calibration data
    :param evaluation: test data
    :return: a result for each code, each T and each way to run the network
    """
    results = []
    for mode, (name, time_steps, executions) in CODES.items():
        for T in tqdm(time_steps, desc=name):
            options = {"mode": mode, "time_steps": T, "calibration": "weights", "show_progress": False}
            snn = sjpc.ParallelConverter(loader, **options).convert(ann)
            digits = digits_per_activation(snn, evaluation.images)
            for snn.execution in executions:
                results.append(evaluation.measure(f"{name}, {snn.execution}", T, snn.predict, digits=digits))
    return results


def main() -> None:
    """Train, convert, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("outputs/digits_demo.png"), help="where the plot goes")
    args = parser.parse_args()

    torch.manual_seed(0)
    data, images, labels = load_data()
    ann = digits_cnn()
    train(ann, data, args.epochs)

    loader = DataLoader(data, batch_size=16)
    evaluation = Evaluation(images, labels, ann)
    results = [evaluation.measure("ANN", None, ann)]
    results += conversions(ann, loader, evaluation)
    results += best_rate_coding(ann, loader, evaluation, TIME_STEPS)
    print(table(results))
    print("digits: spikes that a neuron emits in the whole window, on average")
    print("rate coding: at each T the setting that does best on these very test images")
    print(f"plot: {plot(results, args.output)}")


if __name__ == "__main__":
    main()
