"""Convert torchvision's classification networks strictly, and print the share of their work that spikes do.

    python benchmarks/inspect_torchvision.py                    # one network of each ReLU family
    python benchmarks/inspect_torchvision.py resnet50 vgg16     # these
    python benchmarks/inspect_torchvision.py --all              # every network of the ReLU families
"""

from __future__ import annotations

import argparse

import torch
import torchvision

import sj_parallel_conversion as sjpc

FAMILIES = (
    "alexnet", "squeezenet", "shufflenet", "mnasnet", "mobilenet_v2", "resnet", "regnet_x", "googlenet", "densenet",
    "inception", "resnext", "wide_resnet", "vgg",
)  # fmt: skip


def family(prefix: str) -> list[str]:
    """
    :param prefix: of the names of torchvision's classification networks
    :return: the networks
    """
    return [n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith(prefix)]


@torch.no_grad()
def line(name: str, size: int) -> str:
    """
    :param name: of a network
    :param size: of its input
    :return: what strict conversion made of it
    """
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    ann = torchvision.models.get_model(name, weights=None, **options).eval()
    x = torch.randn(1, 3, size, size)
    # Which layers receive spikes does not depend on the calibration, so the quickest will do.
    converter = sjpc.ParallelConverter([x], threshold="max", calibration="none", strict=True, show_progress=False)
    report = sjpc.inspect(converter.convert(ann), show=False)
    nodes = [row for row in report.rows if row.kind == "node"]
    signed = sum(row.operation.endswith("(signed)") for row in nodes)
    return (
        f"{name:<20} {report.macs / 1e6:>10,.0f} {len(nodes):>8} {signed:>7} {100 * report.share:>7.2f} "
        f"{100 * report.share_after_input:>12.2f} {len(report.analogue):>9}"
    )


def main() -> None:
    """A line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="names of torchvision's networks")
    parser.add_argument("--all", action="store_true", help="every network of the ReLU families")
    parser.add_argument("--size", type=int, default=96, help="height and width of the input")
    args = parser.parse_args()

    chosen = [name for prefix in FAMILIES for name in family(prefix)[: None if args.all else 1]]
    header = f"{'network':<20} {'million MACs':>10} {'neurons':>7} {'signed':>7} {'AC, %':>7} {'after first':>12}"
    print(f"{header} {'analogue':>9}")
    for name in args.networks or chosen:
        print(line(name, args.size), flush=True)


if __name__ == "__main__":
    main()
