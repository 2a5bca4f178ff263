"""What event-driven execution could give on this CPU: layers that compute only where spikes have come.

    python benchmarks/event_driven.py --data-root DIR --network resnet20

DIR as in examples/cifar10_resnet20.py. Two steps. How silent are the inputs of the layers of a converted network, at
each time-step: values, rows (all channels of one place, which a gather could skip) and blocks of 4 x 4 places. And for
the layer's own shapes and such a share, what a matrix product of the active rows alone takes, gather and scatter
included, against that of all rows. That is a bound: a convolution also has to find its patches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from conversion_cost import network, network_parser
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

_BLOCK = 4  # places along each side of a block


def activity(snn: sjpc.SpikingNetwork, x: Tensor) -> dict[str, tuple[nn.Conv2d, tuple[int, ...], list[float]]]:
    """
    :param snn: a converted network
    :param x: images
    :return: for each convolution that reads spikes: itself, the shape of its input, and of its input at one time-step
        the share of values, rows and blocks that are not 0
    """
    found: dict[str, tuple[nn.Conv2d, tuple[int, ...], list[float]]] = {}
    T = snn.time_steps

    def see(name: str, layer: nn.Conv2d, levels: Tensor) -> None:
        if not bool((levels == levels.round()).all()):  # no levels: the image, or a sum of currents
            return
        shares = torch.zeros(3)
        for t in range(T):  # a sorted train: level k fires in the last k steps
            spikes = levels > t
            rows = spikes.any(1, keepdim=True).float()
            blocks = F.max_pool2d(rows, _BLOCK, ceil_mode=True)
            shares += torch.stack([spikes.float().mean(), rows.mean(), blocks.mean()]) / T
        found[name] = layer, tuple(levels.shape), shares.tolist()

    convolutions = {n: m for n, m in snn.net.named_modules() if isinstance(m, nn.Conv2d)}
    handles = [
        m.register_forward_pre_hook(lambda module, args, name=n: see(name, module, args[0]))
        for n, m in convolutions.items()
    ]
    snn.execution = "packed"
    snn.predict(x)
    for handle in handles:
        handle.remove()
    return found


def milliseconds(run: Callable[[], object]) -> float:
    """The median of the process's time of five runs."""
    times = []
    for _ in range(6):
        start = time.process_time()
        run()
        times.append(1000 * (time.process_time() - start))
    return median(times[1:])


def gain(layer: nn.Conv2d, shape: tuple[int, ...], share: float) -> float:
    """
    How many times faster the product is over active rows alone.

    :param layer: a convolution
    :param shape: of its input
    :param share: of rows that are active
    """
    features = layer.weight[0].numel()  # of one group
    rows = shape[0] * (shape[2] // layer.stride[0]) * (shape[3] // layer.stride[1])
    x, weight = torch.rand(rows, features), torch.rand(features, layer.out_channels // layer.groups)
    active = (torch.rand(rows) < share).nonzero().squeeze(1)
    out = torch.zeros(rows, weight.shape[1])
    all_rows = milliseconds(partial(torch.mm, x, weight))
    some = milliseconds(lambda: out.index_copy_(0, active, x[active] @ weight))
    return all_rows / some


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = network_parser(__doc__, images=32)
    parser.add_argument("--time-steps", type=int, default=8, metavar="T")
    parser.add_argument("--calibration", default="none")
    args = parser.parse_args(argv)
    ann, loader = network(args.network, args.data_root, args.images, min(8, args.images))
    options = {"time_steps": args.time_steps, "calibration": args.calibration, "show_progress": False}
    snn = sjpc.ParallelConverter(loader, **options).convert(ann)
    print("| layer | values | rows | blocks | gain of active rows |\n|---|---:|---:|---:|---:|")
    for name, (layer, shape, (values, rows, blocks)) in activity(snn, loader[0]).items():
        print(f"| {name} | {values:.0%} | {rows:.0%} | {blocks:.0%} | {gain(layer, shape, rows):.2f} |", flush=True)


if __name__ == "__main__":
    main()
