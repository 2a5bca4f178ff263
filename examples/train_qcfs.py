"""Train a network with QCFS activations, from scratch or from ReLU weights, and convert it at several T.

At T = the number of levels the spiking network gives the same logits. The default trains on scikit-learn's digits:

    python examples/train_qcfs.py

Fine-tune a trained ReLU ResNet-20 on CIFAR-10 (DIR holds cifar10/{train,test}.npz, or torchvision's CIFAR-10):

    python examples/train_qcfs.py --data cifar10 --data-root DIR --model resnet20 --weights FILE --distil

The paper's settings, on two GPUs; a run that was killed goes on from its checkpoint:

    torchrun --nproc-per-node 2 examples/train_qcfs.py --data imagenet --data-root DIR --checkpoint FILE
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import torch
from helpers.cifar10 import load_resnet
from helpers.image_sets import CLASSES, ImageSets, first, load
from helpers.models import CIFAR_MODELS, CifarResNet, digits_cnn
from helpers.torchvision_models import settle_batchnorms
from helpers.training import Settings, own_share, processes, start_processes, train
from torch import distributed, nn
from torch.utils.data import DataLoader
from torchvision import models

import sj_parallel_conversion as sjpc

# Bu et al. (ICLR 2022) and Hao et al. (ICML 2025): SGD, cosine decay; CIFAR with AutoAugment and Cutout.
PRESETS = {
    "digits": Settings(30, 100, "sgd", 0.1, 5e-4, 0.0, False),
    "cifar10": Settings(300, 300, "sgd", 0.1, 5e-4, 0.1, False),
    "cifar100": Settings(300, 300, "sgd", 0.02, 5e-4, 0.1, False),
    "imagenet": Settings(120, 256, "sgd", 0.1, 1e-4, 0.1, False),
}
FINE_TUNING = Settings(20, 64, "adam", 1e-3, 0.0, 0.0, False)  # with --weights
MODELS = {
    "digits": ["cnn"],
    "cifar10": ["resnet20", "vgg16", "resnet18", "resnet34"],
    "cifar100": ["resnet20", "vgg16", "resnet18", "resnet34"],
    "imagenet": ["resnet34", "resnet18", "vgg16"],
}


def make_model(data: str, name: str) -> nn.Module:
    """
    :param data: a key of :data:`MODELS`
    :param name: one of its models
    :return: the ReLU network, not trained
    """
    classes = CLASSES[data]
    if data == "digits":
        return digits_cnn()
    if name == "resnet20":
        return CifarResNet(CIFAR_MODELS[name], classes)
    if name == "vgg16":
        model = models.vgg16_bn(num_classes=classes)
        if data != "imagenet":  # images of 32 x 32 end as one place
            model.avgpool, model.classifier[0] = nn.Identity(), nn.Linear(512, 4096)
        return model
    model = models.get_model(name, num_classes=classes)
    if data != "imagenet":
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def load_weights(args: argparse.Namespace) -> nn.Module:
    """:return: the ReLU network with the weights of ``--weights``"""
    if args.model == "resnet20" and args.data == "cifar10":
        return load_resnet(args.model, args.weights)
    model = make_model(args.data, args.model)
    state = torch.load(args.weights, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("state_dict", state))
    return model.eval()


def with_qcfs(ann: nn.Module, sets: ImageSets, args: argparse.Namespace) -> nn.Module:
    """
    :param ann: the ReLU network
    :param sets: its training images decide where thresholds start
    :param args: the command line
    :return: the network to train
    """
    loader = own_share(first(sets.plain, args.calibration_images), 64)
    if args.weights is None:  # a new network has no statistics yet, without which its activations mean nothing
        settle_batchnorms(ann, [images for images, _ in DataLoader(first(sets.plain, args.calibration_images), 64)])
        for module in ann.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
    options = {"threshold": args.threshold, "per_channel": args.per_channel, "max_batches": None}
    return sjpc.replace_activations(ann, sjpc.QCFS, loader, levels=args.levels, **options)


def compare(ann: nn.Module | None, qat: nn.Module, sets: ImageSets, args: argparse.Namespace) -> None:
    """
    Convert at each T and print a table. All processes do so together.

    :param ann: the ReLU network, if it was trained
    :param qat: the trained network
    :param sets: the images
    :param args: the command line
    """
    tests = own_share(sets.test, args.test_batch_size, args.workers)
    calibration = own_share(first(sets.plain, args.calibration_images), 64)
    if processes()[0] == 0:
        print(f"{'network':<24} {'T':>3} {'accuracy %':>11} {'agreement %':>12}  same logits as QCFS")
    if ann is not None:
        print_line("ReLU ANN", "", sjpc.evaluate(ann, tests, show_progress=False))
    print_line(f"QCFS ANN, {args.levels} levels", "", sjpc.evaluate(qat, tests, show_progress=False))
    images = next(iter(tests))[0].to(next(qat.parameters()).device)
    for T in args.time_steps:
        options = {"time_steps": T, "calibration": args.calibration, "show_progress": False}
        snn = sjpc.ParallelConverter(calibration, **options).convert(qat)
        with torch.no_grad():
            same = "yes" if torch.equal(snn.predict(images), qat(images)) else "no"
        print_line("SNN", T, sjpc.evaluate(snn, tests, ann=qat, show_progress=False), same)


def print_line(name: str, T: int | str, result: object, same: str = "") -> None:
    """A line of the table."""
    if processes()[0] != 0:
        return
    agreement = "" if result.agreement is None else f"{100 * result.agreement:.2f}"
    print(f"{name:<24} {T:>3} {100 * result.accuracy:>11.2f} {agreement:>12}  {same}".rstrip(), flush=True)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """
    :param arguments: the command line; ``None``: that of the process
    :return: the options, with the preset where nothing is given
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=CLASSES, default="digits")
    parser.add_argument("--data-root", type=Path, help="folder with the images")
    parser.add_argument("--model", help="; ".join(f"{data}: {', '.join(names)}" for data, names in MODELS.items()))
    parser.add_argument("--weights", type=Path, help="trained ReLU weights to start from")
    parser.add_argument("--levels", type=int, default=4, help="of the activations, L")
    parser.add_argument("--threshold", default="mse", help="how first thresholds are chosen: mse, max, 99.9%%")
    parser.add_argument("--per-channel", action="store_true", help="a threshold for each channel")
    parser.add_argument("--distil", action="store_true", help="learn the ReLU network's logits (needs --weights)")
    parser.add_argument("--augment", choices=["none", "flip", "auto"], help="auto: AutoAugment and Cutout, too")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, metavar="N", help="of all processes together")
    parser.add_argument("--optimizer", choices=["sgd", "adam"])
    parser.add_argument("--lr", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--label-smoothing", type=float)
    parser.add_argument("--no-amp", dest="amp", action="store_false", help="full precision on CUDA")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="written after each epoch; training goes on from it")
    parser.add_argument("--output", type=Path, help="where the weights of the trained network go")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[2, 4, 8], metavar="T")
    parser.add_argument("--calibration", default="da_qcfs", help="where T is not the number of levels")
    parser.add_argument("--calibration-images", type=int, default=1024, metavar="N")
    parser.add_argument("--test-batch-size", type=int, default=100, metavar="N")
    args = parser.parse_args(arguments)
    args.model = args.model or MODELS[args.data][0]
    if args.model not in MODELS[args.data]:
        parser.error(f"--model {args.model}: for {args.data} choose one of {', '.join(MODELS[args.data])}")
    if args.distil and args.weights is None:
        parser.error("--distil needs --weights: a network to learn from")
    args.augment = args.augment or ("flip" if args.weights or args.data == "imagenet" else "auto")
    return args


def settings_of(args: argparse.Namespace) -> Settings:
    """:return: the preset, changed by what the command line gives"""
    preset = FINE_TUNING if args.weights else PRESETS[args.data]
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return dataclasses.replace(preset, **given)


def run(args: argparse.Namespace) -> nn.Module:
    """
    :param args: the command line
    :return: the trained network
    """
    device = start_processes()
    torch.manual_seed(args.seed)
    sets = load(args.data, args.data_root, args.augment, args.seed)
    ann = (make_model(args.data, args.model) if args.weights is None else load_weights(args)).to(device)
    qat = with_qcfs(ann, sets, args)
    start = time.process_time()
    train(qat, ann.eval() if args.distil else None, sets.train, settings_of(args), device, args.checkpoint)
    if processes()[0] == 0:
        print(f"trained for {time.process_time() - start:.1f} s of processor time")
        if args.output is not None:
            torch.save(qat.state_dict(), args.output)
    compare(ann if args.weights else None, qat, sets, args)
    if distributed.is_initialized():
        distributed.barrier()  # no process leaves before the others are done
        distributed.destroy_process_group()
    return qat


def main() -> None:
    """Train, convert, compare."""
    run(parse_arguments())


if __name__ == "__main__":
    main()
