"""
Which of torchvision's networks convert, and how near they come to the ANN: one line a model.

    python benchmarks/zoo.py                              # all of them; what outputs/zoo.jsonl has is not run again
    python benchmarks/zoo.py resnet vit                   # those with such a name
    python benchmarks/zoo.py --table docs/research/zoo.md          # also write the table

Weights are random: this shows coverage and conversion error, not accuracy. BatchNorm statistics come from a pass over
the calibration images; what torchvision initialises to (almost) zero, which would leave nothing to measure, is filled.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
import torchvision
from rounding import bfloat16, rounded
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import sj_parallel_conversion as sjpc

FAMILIES = {
    "classification": torchvision.models,
    "segmentation": torchvision.models.segmentation,
    "video": torchvision.models.video,
}
OWN_MOMENTUM = "css, T=8, own momentum"
# mode, time-steps, and the bias of BatchNorms
SETTINGS = {
    "css, T=8": ("css", 8, 0.0),
    "css, T=8, bias 1": ("css", 8, 1.0),
    OWN_MOMENTUM: ("css", 8, 0.0),
    "css, T=12": ("css", 12, 0.0),
    "spikepack, T=8": ("spikepack", 8, 0.0),
    "parallel, T=32": ("parallel", 32, 0.0),
}
# the ANN itself with a precision of 8 bits
CONTROLS = {"bfloat16 ANN": bfloat16, "rounded ANN": rounded}
COLUMNS = [*SETTINGS, *CONTROLS]
# The smallest inputs that these accept; 64 elsewhere.
SIDES = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224, "mvit": 224, "s3d": 224}

INTRODUCTION = f"""\
Made by `python benchmarks/zoo.py --table docs/research/zoo.md` (torchvision {torchvision.__version__.split("+")[0]},
`threshold="max"`, `calibration="none"`). Weights are random and images are noise: the tables show what converts and the
conversion error (squared, relative to the ANN's output, in %, on the calibration images), not accuracy. Packed and
spikes execution agree to the bit, unless a line is marked with *. Empty: not measured.

At T = 8 the weighted codes have 256 levels. Two columns say what 8 bits do to these networks without any conversion:
`bfloat16 ANN` is the ANN in a number format of 8 significant bits, `rounded ANN` is the ANN with its activations
rounded to 255 levels up to the largest value of their channel (`benchmarks/rounding.py`: it intercepts torch's
activation functions and uses nothing of this package)."""
EXPLANATION = """\
`css` at T = 8 is as far from the ANN as mere rounding, with nothing lost on top, and mostly nearer than bfloat16. Where
that is far, it is the network's doing. With random weights a BatchNorm takes away the mean that a ReLU leaves, by which
all inputs are alike: the ReLU keeps 1/2 of a small squared difference, the BatchNorm divides by the variance left,
1/2 - 1/(2 pi), so that differences grow by pi / (pi - 1) = 1.47 a layer (Yang et al., "A mean field theory of batch
normalization", ICLR 2019, who recommend the linear regime against it: with `bias 1` all BatchNorms have a bias of 1,
most values pass the ReLUs, and the growth is gone). `css` at T = 12 has 4,096 levels.

More images or a correction do not change this. With BatchNorm statistics and thresholds from 64 natural images
(CIFAR-10, enlarged to 64 x 64), errors on 8 others, in %:

| | resnet18 | resnet50 | regnet_x_400mf | efficientnet_b0 |
|---|---|---|---|---|
| bfloat16 ANN | 0.062 | 8.3 | 3.6 | 10 |
| rounded ANN, largest values of the 8 images | 0.059 | 6.5 | 3.3 | 4.5 |
| rounded ANN, largest values of the 64 images | 0.71 | 16 | 31 | 71 |
| `css`, T = 8, `"max"`, `"none"` | 0.70 | 16 | 31 | 71 |
| `css`, T = 8, `"mse"`, `"none"` | 0.72 | 16 | 32 | 71 |
| `css`, T = 8, `"mse"`, `"least_squares"` | 0.52 | 16 | 27 | 62 |

What separates the second line from the third is that images not seen before exceed the largest values of so few: the
last layers have no more than 256 values a channel there.

These are the exact statistics of the images. Those of a plain pass in training mode, with the momentum that the models
come with (column `own momentum`: 8 batches of 8 images, then evaluation mode), leave every network that was measured
below 0.5 %. It is a weaker test: such networks are not fully normalised, and in many hardly anything of the output
depends on the image (17 % of its square in resnet18, 4 % in resnet50, 0.06 % in regnet_x_400mf, 2e-12 % in mobilenet_v2
and efficientnet_b0). densenet121 is a fair case: 44 %, and the error of that part is 0.022 %."""


def family_of(name: str) -> str:
    """:param name: a model of torchvision. :return: the key of :data:`FAMILIES` that lists it"""
    return next(f for f, module in FAMILIES.items() if name in torchvision.models.list_models(module=module))


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """
    :param name: a model of torchvision
    :return: the model with random weights, and the shape of one input
    """
    family = family_of(name)
    side = next((s for start, s in SIDES.items() if name.startswith(start)), 64)
    arguments: dict[str, object] = {"segmentation": {"weights_backbone": None, "aux_loss": True}}.get(family, {})
    if name.startswith("lraspp"):
        del arguments["aux_loss"]
    if name.startswith("vit"):
        side = 4 * int(name.rsplit("_", 1)[1])
        arguments = {"image_size": side}
    if name in ("googlenet", "inception_v3"):
        arguments = {"init_weights": False}  # the alternative takes minutes
    model = torchvision.models.get_model(name, weights=None, **arguments)
    return model, (3, 16, side, side) if family == "video" else (3, side, side)


@torch.no_grad()
def wake(model: nn.Module, x: Tensor, bias: float = 0.0, own_momentum: bool = False) -> None:
    """
    :param model: what is zero or almost so in a fresh network is filled, and BatchNorms get the statistics of ``x``
    :param x: images ``[N, ...]``
    :param bias: of all BatchNorms
    :param own_momentum: BatchNorms get what a plain pass in training mode leaves, over 8 batches of 8 images
    """
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.abs().max() <= 1e-5:  # a head, or ConvNeXt's layer scale
            parameter.normal_(std=0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = norm.momentum if own_momentum else 1.0
        nn.init.constant_(norm.bias, bias)
        norm.train()
    for batch in [torch.randn(8, *x.shape[1:]) for _ in range(8)] if own_momentum else [x]:
        model(batch) if norms else None
    model.eval()


@torch.no_grad()
def relative_error(outputs: object, reference: object) -> float:
    """Squared error over all of a network's outputs, relative to the reference."""
    pairs = list(zip(tree_leaves(outputs), tree_leaves(reference), strict=True))
    error = sum((y - z).double().square().sum() for y, z in pairs)
    return float(error / sum(z.double().square().sum() for _, z in pairs))


@torch.no_grad()
def measure(name: str, columns: list[str]) -> dict[str, object]:
    """
    :param name: a model of torchvision
    :param columns: of :data:`COLUMNS`
    :return: one line of the table: for each column the relative squared error on the calibration images (thresholds of
        so few do not cover other noise); and if something was converted, see :func:`convert`, the facts about that
    """
    torch.manual_seed(0)
    model, shape = build(name)
    images = torch.randn(2, *shape)
    line: dict[str, object] = {"model": name, "family": family_of(name), "input": list(shape), "errors": {}}
    for column in sorted(columns, key=lambda column: column != OWN_MOMENTUM):  # first: wake sets the momentum
        wake(model, images, SETTINGS[column][2] if column in SETTINGS else 0.0, column == OWN_MOMENTUM)
        if column in CONTROLS:
            with suppress(NotImplementedError):  # torch lacks some layers in bfloat16
                line["errors"][column] = relative_error(CONTROLS[column](model, images), model(images))
            continue
        outputs, facts = convert(model, images, column)
        agree = facts["packed_equals_spikes"] and line.get("packed_equals_spikes", True)
        line |= facts | {"packed_equals_spikes": agree}
        line["errors"][column] = relative_error(outputs, model(images))
    return line


def convert(model: nn.Module, images: Tensor, setting: str) -> tuple[object, dict[str, object]]:
    """
    :param model: to convert
    :param images: for calibration
    :param setting: a key of :data:`SETTINGS`
    :return: the spiking network's outputs for these images, and facts: how many neuron layers it has, which
        activations they stand for, and whether packed and spikes execution agree to the bit
    """
    mode, time_steps, _ = SETTINGS[setting]
    options = {"threshold": "max", "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([images], mode, time_steps, **options).convert(model)
    spikes = snn.predict(images)
    snn.execution = "packed"
    agree = all(map(torch.equal, tree_leaves(spikes), tree_leaves(snn.predict(images))))
    activations = [site.node.activation for site in snn.neurons()]
    kinds = sorted({"ReLU" if f is None else type(f).__name__ for f in activations})
    return spikes, {"layers": len(activations), "activations": kinds, "packed_equals_spikes": agree}


def run_all(names: Iterable[str], columns: list[str], results: Path) -> None:
    """Measure what ``results`` lacks, small models first, and print a line for each."""
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {line["model"]: line.get("errors", {}) for line in read(results)}
    for name in sorted(names, key=parameters_of):
        missing = [column for column in columns if column not in done.get(name, {})]
        if not missing:
            continue
        try:
            line = json.dumps(measure(name, missing))
        except Exception as error:
            line = json.dumps({"model": name, "family": family_of(name), "failed": str(error).partition("\n")[0]})
        print(line, flush=True)
        with results.open("a") as file:
            file.write(line + "\n")


def parameters_of(name: str) -> int:
    """How many parameters a model of torchvision has."""
    return min(weights.meta["num_params"] for weights in torchvision.models.get_model_weights(name))


def read(results: Path) -> list[dict]:
    """One entry a model: the errors of all its lines in a results file, and the other facts as the last has them."""
    merged: dict[str, dict] = {}
    for line in map(json.loads, results.read_text().splitlines() if results.exists() else []):
        before = {key: value for key, value in merged.get(line["model"], {}).items() if key != "failed"}
        errors = before.get("errors", {}) | line.get("errors", {})
        agree = before.get("packed_equals_spikes", True) and line.get("packed_equals_spikes", True)
        merged[line["model"]] = before | line | ({"errors": errors, "packed_equals_spikes": agree} if errors else {})
    return list(merged.values())


def table(lines: list[dict]) -> str:
    """The results as Markdown."""
    text = ["# torchvision's networks, converted", "", INTRODUCTION, "", *_summary(lines), "", EXPLANATION, ""]
    for family, module in FAMILIES.items():
        of_family = sorted((line for line in lines if line["family"] == family), key=lambda line: line["model"])
        converted = sum("layers" in line for line in of_family)
        text += [f"## {family}: {converted} of {len(torchvision.models.list_models(module=module))}", ""]
        text += [f"| model | input | neuron layers | activations | {' | '.join(COLUMNS)} |"]
        text += ["|---" * (4 + len(COLUMNS)) + "|", *map(_row, of_family), ""]
    return "\n".join(text)


def _summary(lines: list[dict]) -> list[str]:
    """How many networks stay below an error, and how the errors compare with that of mere rounding."""
    text = ["| | networks | error <= 1 % | error <= 5 % | error / error of `rounded ANN`: median (10 %, 90 %) |"]
    text += ["|---|---|---|---|---|"]
    for column in COLUMNS:
        errors = [line["errors"] for line in lines if column in line.get("errors", {})]
        below = [str(sum(e[column] <= limit for e in errors)) for limit in (0.01, 0.05)]
        ratios = torch.tensor([e[column] / e["rounded ANN"] for e in errors if "rounded ANN" in e])
        low, middle, high = ratios.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist() if len(ratios) else [0.0] * 3
        spread = f"{middle:.2g} ({low:.2g}, {high:.2g})" if len(ratios) else ""
        text += [f"| {column} | {len(errors)} | {' | '.join(below)} | {spread} |"]
    return text


def _row(line: dict) -> str:
    if "failed" in line:
        return f"| {line['model']} | | | | {line['failed']} " + "| " * (len(COLUMNS) - 1) + "|"
    mark = "" if line.get("packed_equals_spikes", True) else " *"
    facts = ["x".join(map(str, line["input"])), str(line.get("layers", "")), ", ".join(line.get("activations", []))]
    errors = [f"{100 * line['errors'][column]:.2g}" if column in line["errors"] else "" for column in COLUMNS]
    return f"| {line['model']}{mark} | {' | '.join([*facts, *errors])} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="*", help="parts of models' names; none: all models")
    parser.add_argument("--columns", nargs="+", default=COLUMNS, choices=COLUMNS)
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--results", type=Path, default=Path("outputs/zoo.jsonl"))
    parser.add_argument("--table", type=Path, help="write the results as Markdown to this file")
    options = parser.parse_args()
    names = [n for family in options.family for n in torchvision.models.list_models(module=FAMILIES[family])]
    chosen = [n for n in names if not options.filters or any(part in n for part in options.filters)]
    run_all(chosen, options.columns, options.results)
    if options.table:
        options.table.write_text(table(read(options.results)))


if __name__ == "__main__":
    main()
