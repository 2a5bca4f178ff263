"""Train a ResNet-32 on handwritten digits, convert it, and compare with SpikingJelly's own rate coding.

    python examples/digits_demo.py

Nothing is downloaded: the digits come with scikit-learn. The report of the converted network is a page for a browser.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from helpers.digits import load_data
from helpers.evaluation import Evaluation, Result, digits_per_activation, table
from helpers.models import digits_resnet
from helpers.plots import plot
from helpers.rate_coding import best_rate_coding
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm, trange

import sj_parallel_conversion as sjpc

TIME_STEPS = [2, 4, 8]
CODES = {  # mode: what the table calls it, time-steps (a weighted code's 2^T levels soon are enough), executions
    "parallel": ("parallel conversion", TIME_STEPS, ["spikes", "packed"]),
    "spikepack": ("spikepack", [2, 4], ["spikes"]),
    "css": ("css", [2, 4], ["spikes"]),
}


def train(ann: nn.Module, data: TensorDataset, epochs: int) -> None:
    """
    :param ann: network, trained in place and left in evaluation mode
    :param data: images and labels
    :param epochs: passes over the data
    """
    loader = DataLoader(data, batch_size=64, shuffle=True)
    optimizer = torch.optim.AdamW(ann.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs * len(loader))
    for _ in trange(epochs, desc="training"):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(ann(images), labels).backward()
            optimizer.step()
            schedule.step()
    ann.eval()


def conversions(prepared: sjpc.PreparedANN, evaluation: Evaluation) -> list[Result]:
    """
    :param prepared: trained network, with its calibration data
    :param evaluation: test data
    :return: a result for each code, each T and each way to run the network
    """
    results = []
    for mode, (name, time_steps, executions) in CODES.items():
        for T in tqdm(time_steps, desc=name):
            snn = prepared.convert(mode=mode, time_steps=T)
            digits = digits_per_activation(snn, evaluation.images)
            for snn.execution in executions:
                results.append(evaluation.measure(f"{name}, {snn.execution}", T, snn.predict, digits=digits))
    return results


def report(snn: nn.Module, ann: nn.Module, evaluation: Evaluation, results: list[Result], folder: Path) -> Path:
    """
    :param snn: converted network
    :param ann: what it was made of
    :param evaluation: test data
    :param results: of :func:`conversions`
    :param folder: where the page goes
    :return: the page
    """
    modes = {name: mode for mode, (name, _, _) in CODES.items()}
    curve = [
        {
            "mode": modes[r.method.partition(",")[0]],
            "time_steps": r.time_steps,
            "accuracy": r.accuracy / 100,
            "agreement": r.agreement / 100,
        }
        for r in results
        if r.method.endswith("spikes")
    ]
    test = DataLoader(TensorDataset(evaluation.images, evaluation.labels), batch_size=100)
    return sjpc.report(snn, ann, test, folder, curve=curve, title="Handwritten digits", show_progress=False).html


def main() -> None:
    """Train, convert, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="the folder that plot and report go to")
    args = parser.parse_args()

    torch.manual_seed(0)
    data, images, labels = load_data()
    ann = digits_resnet()
    train(ann, data, args.epochs)

    loader = DataLoader(data, batch_size=100)
    evaluation = Evaluation(images, labels, ann)
    prepared = sjpc.ParallelConverter(loader, show_progress=False).prepare(ann)
    results = conversions(prepared, evaluation)
    rate_coding = best_rate_coding(ann, loader, evaluation, TIME_STEPS)
    lines = [evaluation.measure("ANN", None, ann), *results, *rate_coding]
    print(table(lines))
    print("digits: spikes that a neuron emits in the whole window, on average")
    print("rate coding: at each T the setting that does best on these very test images")
    drawn = [r for r in lines if r.method not in ("parallel conversion, packed", "css, spikes")]  # the same accuracies
    print(f"plot: {plot(drawn, args.output / 'digits_demo.png')}")
    print(f"report: {report(prepared.convert(time_steps=4), ann, evaluation, results, args.output / 'digits_report')}")


if __name__ == "__main__":
    main()
