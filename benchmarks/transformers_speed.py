"""Time of ViT-B/16 (random weights) in all executions beside the ANN, and the share of its work that spikes do.

    python benchmarks/transformers_speed.py
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn
from torchvision.models import VisionTransformer

import sj_parallel_conversion as sjpc


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--mode", default="css")
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--executions", nargs="+", default=["packed", "spikes"])
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Convert, and let the networks take turns. Times are the processor's, which other work hardly changes."""
    args = parse_arguments()
    torch.manual_seed(0)
    ann = VisionTransformer(224, 16, args.layers, 12, 768, 3072).eval()
    nn.init.normal_(ann.heads.head.weight, std=0.02)
    x = torch.randn(args.batch_size, 3, 224, 224)
    options = {"mode": args.mode, "time_steps": args.time_steps, "calibration": "none", "threshold": "max"}
    snn = sjpc.ParallelConverter([x], strict=True, show_progress=False, **options).convert(ann)
    print(str(sjpc.inspect(snn, show=False)).splitlines()[-1])
    seconds = dict.fromkeys(["ann", *args.executions], float("inf"))
    for _ in range(args.repeats):
        for name in seconds:
            if name != "ann":
                snn.execution = name
            start = time.process_time()
            (ann if name == "ann" else snn.predict)(x)
            seconds[name] = min(seconds[name], time.process_time() - start)
    for name, value in seconds.items():
        print(f"{name:<8} {1000 * value:8.1f} ms, {value / seconds['ann']:5.2f} x ANN")


if __name__ == "__main__":
    main()
