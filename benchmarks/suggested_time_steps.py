"""How often suggest_time_steps keeps its tolerance on test images, and how long it takes, over draws of its images.

    python benchmarks/suggested_time_steps.py --data-root DIR
    python benchmarks/suggested_time_steps.py --data-root DIR --modes parallel --unlabelled

DIR as in examples/cifar10_resnet20.py. Times are of the processor, in conversions of as many images with the default
options and T = 8. A draw takes about 20 seconds on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from helpers.cifar10 import add_mode_options, add_model_options, load_images, load_model
from helpers.evaluation import Evaluation, percent
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    add_mode_options(parser)
    parser.add_argument("--time-steps", type=int, nargs="+", metavar="T", help="(default: those of suggest_time_steps)")
    parser.add_argument("--tolerance", type=float, default=0.01, metavar="SHARE")
    parser.add_argument("--cost", choices=["spikes", "time"], default="spikes")
    parser.add_argument("--unlabelled", action="store_true", help="leave the labels out")
    parser.add_argument("--images", type=int, default=1024, metavar="N", help="of each draw")
    parser.add_argument("--draws", type=int, default=10, metavar="N")
    return parser.parse_args()


def timed(run: Callable[[], object]) -> tuple[object, float]:
    """
    :param run: what to do
    :return: what it returns, and the seconds of the processor
    """
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def main() -> None:
    """Print a line for each draw."""
    args = parse_arguments()
    ann, train = load_model(args), load_images(args.data_root, "train")
    evaluation = Evaluation(*load_images(args.data_root, "test", args.test_images), ann)
    options = {"cost": args.cost, "modes": args.modes, "time_steps": args.time_steps, "show_progress": False}
    kept = 0
    for seed in range(args.draws):
        chosen = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))[: args.images]
        data = TensorDataset(*(x[chosen] for x in (train[:1] if args.unlabelled else train)))
        loader = DataLoader(data, 64)
        converter = sjpc.ParallelConverter(loader, show_progress=False)
        _, unit = timed(lambda converter=converter: converter.convert(ann))
        found, seconds = timed(lambda loader=loader: sjpc.suggest_time_steps(ann, loader, args.tolerance, **options))
        found.network.execution = "packed"
        classes, _ = evaluation.classes(found.network.predict)
        loss = percent(evaluation.ann_classes == evaluation.labels) - percent(classes == evaluation.labels)
        kept += loss <= 100 * args.tolerance
        print(
            f"{seed}: {found.mode}, T={found.time_steps}, loss {loss:.2f} points on the test images, "
            f"{100 * found.chosen.loss:.2f} held out, time of {seconds / unit:.1f} conversions",
            flush=True,
        )
    print(found)
    print(f"within the tolerance on the test images: {kept} of {args.draws} draws")


if __name__ == "__main__":
    main()
