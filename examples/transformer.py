"""Train a small transformer, convert it so that spikes do every product, and compare it with the ANN.

    python examples/transformer.py                                   # a vision transformer on the 8x8 digits
    python examples/transformer.py --task images --data-root DIR     # the same on CIFAR-10
    python examples/transformer.py --task text                       # a language model, on Python's own documentation
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from helpers.cifar10 import load_images
from helpers.digits import load_data
from helpers.transformers import SmallGPT, augmented, batches, encoded, small_vit, text_of_python, train, windows
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

_BATCH = 64


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["digits", "images", "text"], default="digits")
    parser.add_argument("--data-root", type=Path, help="folder with the images")
    parser.add_argument("--steps", type=int, default=800, help="of the training")
    parser.add_argument("--weights", type=Path, help="a state dict: is read if it exists, and written otherwise")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[4, 6, 8], metavar="T")
    parser.add_argument("--mode", default="css")
    parser.add_argument("--calibration", default="least_squares")
    parser.add_argument("--calibration-samples", type=int, default=512, metavar="N")
    return parser.parse_args()


def images(args: argparse.Namespace) -> tuple[nn.Module, Callable[[int], Tensor], Tensor, Callable]:
    """
    :param args: the command line
    :return: a vision transformer, the loss of a training step, calibration images, and a function that says how well a
        network does
    """
    if args.task == "digits":
        training, x_test, y_test = load_data()
        (x, y), model = training.tensors, small_vit(8, 2, 1)
    else:
        x, y = load_images(args.data_root, "train")
        x_test, y_test = load_images(args.data_root, "test")
        model = small_vit(32, 8, 3)
    numbers, generator = batches(len(x), _BATCH), torch.Generator().manual_seed(0)

    def loss(step: int) -> Tensor:
        chosen = next(numbers)
        shown = augmented(x[chosen], generator) if args.task == "images" else x[chosen]
        return F.cross_entropy(model(shown), y[chosen], label_smoothing=0.1)

    def measure(predict: Callable[[Tensor], Tensor], ann: nn.Module) -> str:
        logits, expected = (torch.cat([f(b) for b in x_test.split(100)]) for f in (predict, ann))
        right, same = (100 * (logits.argmax(1) == c).double().mean() for c in (y_test, expected.argmax(1)))
        return f"accuracy {right:6.2f} %, the ANN's class {same:6.2f} %"

    return model, loss, x[: args.calibration_samples], measure


def text(args: argparse.Namespace) -> tuple[nn.Module, Callable[[int], Tensor], Tensor, Callable]:
    """As :func:`images`, for a language model of characters."""
    ids, characters = encoded(text_of_python())
    known, unknown = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    model = SmallGPT(len(characters))
    test = windows(unknown, model.context + 1, 200)

    def loss_of(logits: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def loss(step: int) -> Tensor:
        tokens = windows(known, model.context + 1, _BATCH // 4, step)
        return loss_of(model(tokens[:, :-1]), tokens)

    def measure(predict: Callable[[Tensor], Tensor], ann: nn.Module) -> str:
        logits, expected = (torch.cat([f(b[:, :-1]) for b in test.split(50)]) for f in (predict, ann))
        same = 100 * (logits.argmax(2) == expected.argmax(2)).double().mean()
        return f"perplexity {loss_of(logits, test).exp():7.4f}, the ANN's character {same:6.2f} %"

    return model, loss, windows(known, model.context, args.calibration_samples, -1), measure


@torch.no_grad()
def compare(model: nn.Module, data: Tensor, measure: Callable, args: argparse.Namespace) -> None:
    """Convert with each T, and print how well the ANN and the spiking networks do."""
    print(f"ANN      {measure(model, model)}")
    prepared = sjpc.ParallelConverter(data.split(_BATCH), mode=args.mode, show_progress=False).prepare(model)
    for time_steps in args.time_steps:
        snn = prepared.convert(time_steps=time_steps, strict=True, calibration=args.calibration)
        snn.execution = "packed"
        print(f"T = {time_steps:<4} {measure(snn.predict, model)}")
    print(str(sjpc.inspect(snn, show=False)).splitlines()[-1])


def main() -> None:
    """Train or read a model, and compare."""
    args = parse_arguments()
    torch.manual_seed(0)
    model, loss, data, measure = (text if args.task == "text" else images)(args)
    if args.weights and args.weights.is_file():
        model.load_state_dict(torch.load(args.weights, weights_only=True))
        model.eval()
    else:
        train(model, loss, args.steps)
        if args.weights:
            torch.save(model.state_dict(), args.weights)
    compare(model, data, measure, args)


if __name__ == "__main__":
    main()
