"""The commands of ``sjpc``, each a few calls of the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import sj_parallel_conversion as sjpc

from ..ann2snn.converter import check_device
from ..errors import ConfigError, ConversionError, FileError
from .data import DataOptions, Reader
from .demo import demo
from .models import Model, ModelOptions, load_model
from .parser import Command
from .preparation import ImageOptions

Converted = sjpc.SpikingNetwork | sjpc.PartlySpikingNetwork
EXPORTS = {"onnx": ".onnx", "onnx-int8": ".onnx", "torch": ".pt", "integers": ""}  # and what the file's name ends with


def convert(
    ann: str,
    data: str,
    model: ModelOptions,
    loading: DataOptions,
    images: ImageOptions,
    config: sjpc.ConversionConfig,
    output: str | None = None,
    submodules: Sequence[str] | None = None,
    test: str | None = None,
    device: str | None = None,
) -> None:
    """
    Convert a trained network into a spiking one, and save it.

    :param ann: the trained network: torchvision:NAME, timm:NAME, hf:PATH, package.module:factory or file.py:factory
    :param data: calibration data: a folder with a folder for each class, an .npz file, cifar10:ROOT, cifar100:ROOT,
        package.module:loader or file.py:loader
    :param output: the file. Default: the model's name with .sjpc, here
    :param submodules: names of the submodules to convert, with wildcards, where the whole model cannot be converted
    :param test: test data, as DATA. Both networks are evaluated on all of them
    :param device: where it runs. Default: cuda if there is one, otherwise cpu
    """
    device = _device(device)
    trained = load_model(ann, model)
    path = _writable(output or f"{trained.name}.sjpc", may_be_folder=False)
    reader = Reader(loading, images, trained.preparation, config.seed)
    loader, test_loader = reader.to_calibrate(data), None if test is None else reader.to_test(test)
    converter = sjpc.ParallelConverter(loader, device=device, **_options(config))
    snn = converter.convert(trained.network.to(device), submodules)
    sjpc.save(snn, path)
    print(f"saved: {path}")
    if test_loader is not None:
        _print_evaluation(snn, trained.network, test_loader, config.show_progress)


def evaluate(
    file: str,
    data: str,
    model: ModelOptions,
    loading: DataOptions,
    images: ImageOptions,
    ann: str | None = None,
    execution: str | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> None:
    """
    Measure the accuracy of a saved network, and its agreement with the ANN.

    :param file: of convert
    :param data: test data, as for convert
    :param ann: the trained network, as for convert
    :param execution: "spikes", "packed", "stepwise" or "serial". Default: as it was saved
    :param device: where it runs. Default: cuda if there is one, otherwise cpu
    :param show_progress: whether progress bars are drawn
    """
    device = _device(device)
    trained = _trained(ann, model)
    snn = _load(file, trained, device)
    if execution is not None:
        snn.execution = execution
    loader = Reader(loading, images, trained and trained.preparation).to_evaluate(data)
    _print_evaluation(snn, trained and trained.network.to(device), loader, show_progress)


def inspect(file: str, model: ModelOptions, ann: str | None = None) -> None:
    """
    Print the layers of a saved network, and how many multiply-accumulates became accumulates.

    :param file: of convert
    :param ann: the trained network, as for convert, if it was converted in parts
    """
    sjpc.inspect(_load(file, _trained(ann, model), "cpu"))


def report(
    file: str,
    ann: str,
    data: str,
    model: ModelOptions,
    loading: DataOptions,
    images: ImageOptions,
    folder: str = "report",
    curve: Sequence[str] = (),
    detail_batches: int | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> None:
    """
    Write a report of a saved network into a folder: accuracy, the errors of its layers, operations, energy.

    :param file: of convert
    :param ann: the trained network, as for convert
    :param data: test data, as for convert
    :param folder: where the report goes
    :param curve: further files of convert, with other numbers of time-steps or modes, to compare with
    :param detail_batches: on how many batches the errors of layers and operations are measured, which takes some ten
        times as long as an evaluation. Default: those with the first 1,000 samples
    :param device: where it runs. Default: cuda if there is one, otherwise cpu
    :param show_progress: whether progress bars are drawn
    """
    device = _device(device)
    trained = load_model(ann, model)
    snn, *others = (_load(name, trained, device) for name in (file, *curve))
    loader = Reader(loading, images, trained.preparation).to_evaluate(data)
    points = [snn, *others] if others else None
    options: dict[str, Any] = {"curve": points, "detail_batches": detail_batches, "show_progress": show_progress}
    print(sjpc.report(snn, trained.network.to(device), loader, folder, **options))


def suggest(
    ann: str,
    data: str,
    model: ModelOptions,
    loading: DataOptions,
    images: ImageOptions,
    config: sjpc.ConversionConfig,
    tolerance: float = 0.01,
    cost: Literal["spikes", "time"] = "spikes",
    modes: Sequence[str] | None = None,
    time_steps: Sequence[int] | None = None,
    output: str | None = None,
    device: str | None = None,
) -> None:
    """
    Find the cheapest mode and number of time-steps of a classifier whose accuracy is close enough to the ANN's.

    :param ann: the trained network, as for convert
    :param data: calibration data, as for convert. Without labels, agreement with the ANN stands for accuracy
    :param tolerance: how much accuracy may be lost: 0.01 is one percentage point
    :param cost: what is to be least: "spikes" of a sample, or "time", the number of time-steps
    :param modes: the modes to try. Default: all
    :param time_steps: the numbers of time-steps to try. Default: those with 3, 7, 15, 31 and 63 levels
    :param output: a file for the network that is chosen. Default: it is not saved
    :param device: where it runs. Default: cuda if there is one, otherwise cpu
    """
    device = _device(device)
    path = None if output is None else _writable(output, may_be_folder=False)
    trained = load_model(ann, model)
    loader = Reader(loading, images, trained.preparation, config.seed).to_calibrate(data)
    options = _options(config) | {"tolerance": tolerance, "cost": cost, "time_steps": time_steps, "device": device}
    if modes is not None:
        options["modes"] = modes
    del options["mode"]
    try:
        found = sjpc.suggest_time_steps(trained.network.to(device), loader, **options)
    except ConversionError as error:
        message, _, table = str(error).partition("\n")  # of what was tried
        print(table)
        raise ConversionError(message) from error
    print(found)
    if path is not None:
        sjpc.save(found.network, path)
        print(f"saved: {path}")


def export(
    file: str,
    model: ModelOptions,
    format: Literal["onnx", "onnx-int8", "torch", "integers"] = "onnx",
    output: str | None = None,
    ann: str | None = None,
) -> None:
    """
    Write a saved network in a form that other tools read.

    :param file: of convert
    :param format: "onnx"; "onnx-int8", with QDQ nodes; "torch", a module that torch.load reads without this package;
        "integers", a folder of integer weights and thresholds
    :param output: the file, or the folder of integers. Default: named as the saved network, here
    :param ann: the trained network, as for convert, if it was converted in parts
    """
    path = _writable(output or Path(file).stem + EXPORTS[format], may_be_folder=format == "integers")
    # Any: a network in parts is refused where it is exported, in words that say how its parts are
    snn: Any = _load(file, _trained(ann, model), "cpu")
    if format == "torch":
        torch.save(sjpc.to_torch(snn), path)
    elif format == "integers":
        sjpc.export_integers(snn, path)
    else:
        sjpc.export_onnx(snn, path, **({"integers": True} if format == "onnx-int8" else {}))
    print(f"exported: {path}")


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    return name


def _options(config: sjpc.ConversionConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _writable(path: str, may_be_folder: bool) -> Path:
    """:raises FileError: if nothing can be written there; better before a conversion than after it"""
    if not Path(path).parent.is_dir():
        raise FileError(f"{path}: there is no folder {Path(path).parent}")
    if Path(path).is_dir() and not may_be_folder:
        raise FileError(f"{path} is a folder, and a file is to be written")
    return Path(path)


def _trained(ann: str | None, model: ModelOptions) -> Model | None:
    if ann is None and (model.weights or model.model_args):
        raise ConfigError("--weights and --model-args are those of --ann, which is missing")
    return None if ann is None else load_model(ann, model)


def _load(file: str, trained: Model | None, device: str) -> Converted:
    try:
        return sjpc.load(file, device=device, model=trained and trained.network)
    except FileError as error:
        if trained is None and "load(path, model=model)" in str(error):
            raise FileError(f"{error}. In this command: --ann MODEL") from error
        raise


def _print_evaluation(snn: Converted, ann: nn.Module | None, loader: Iterable[Any], show_progress: bool) -> None:
    if ann is not None:
        print(f"ANN: {sjpc.evaluate(ann, loader, show_progress=show_progress)}")
    print(f"SNN, T = {snn.time_steps}: {sjpc.evaluate(snn, loader, ann=ann, show_progress=show_progress)}")


COMMANDS = {
    "convert": Command(convert, [
        "convert torchvision:resnet18 imagenet/train --weights DEFAULT --time-steps 8",
        "convert models.py:resnet20 train.npz --weights resnet20.pt --calibration weights --test test.npz",
        "convert --config resnet20.yaml --output resnet20_T4.sjpc --time-steps 4",
    ]),
    "evaluate": Command(evaluate, [
        "evaluate resnet18.sjpc imagenet/val",
        "evaluate resnet20.sjpc test.npz --ann models.py:resnet20 --weights resnet20.pt",
    ]),
    "inspect": Command(inspect, ["inspect resnet18.sjpc"]),
    "report": Command(report, ["report resnet18.sjpc torchvision:resnet18 imagenet/val --weights DEFAULT"]),
    "suggest": Command(suggest, [
        "suggest torchvision:resnet18 imagenet/val --weights DEFAULT --tolerance 0.01",
        "suggest models.py:resnet20 train.npz --weights resnet20.pt --modes parallel --output resnet20.sjpc",
    ], without=("mode", "time_steps")),
    "export": Command(export, ["export resnet18.sjpc --format onnx-int8 --output resnet18.onnx"]),
    "demo": Command(demo, ["demo", "demo --time-steps 4 8"]),
}  # fmt: skip
