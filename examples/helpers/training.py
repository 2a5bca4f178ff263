"""A training loop for one or more devices. After a break it goes on as if there had been none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler
from tqdm import tqdm


@dataclass(frozen=True)
class Settings:
    """
    :param epochs: passes over the data
    :param batch_size: of all processes together
    :param optimizer: ``"sgd"`` (momentum 0.9) or ``"adam"``
    :param lr: of the first step; it shrinks to 0 along half a cosine
    :param weight_decay: of all parameters
    :param label_smoothing: share of the labels that is spread over all classes
    :param distil: whether to learn the teacher's logits instead of labels
    :param temperature: that both networks' logits are divided by for this
    :param workers: processes that read images
    :param amp: whether CUDA computes in half precision
    :param seed: of order and augmentation
    """

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    label_smoothing: float
    distil: bool
    temperature: float = 4.0
    workers: int = 0
    amp: bool = True
    seed: int = 0


def start_processes() -> torch.device:
    """:return: the device of this process. Under ``torchrun`` it joins the others, otherwise it is alone"""
    cuda = torch.cuda.is_available()
    if "RANK" in os.environ:
        distributed.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return device


def processes() -> tuple[int, int]:
    """:return: the number of this process, and how many there are"""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def own_share(dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """:return: batches of this process's samples; no sample is in two shares, as a DistributedSampler would have it"""
    rank, world = processes()
    return DataLoader(dataset, batch_size, sampler=range(rank, len(dataset), world), num_workers=workers)


def train(
    model: nn.Module,
    teacher: nn.Module | None,
    dataset: Dataset,
    settings: Settings,
    device: torch.device,
    checkpoint: Path | None = None,
) -> None:
    """
    :param model: trained in place and left in evaluation mode
    :param teacher: the ANN whose logits are learnt with ``settings.distil``
    :param dataset: images and labels
    :param settings: how
    :param device: of this process
    :param checkpoint: a file that is written after each epoch. If it is there, training goes on from it
    """
    rank, world = processes()
    sampler = DistributedSampler(dataset, seed=settings.seed) if world > 1 else RandomSampler(dataset)
    loader = DataLoader(dataset, settings.batch_size // world, sampler=sampler, num_workers=settings.workers,
                        drop_last=len(dataset) >= settings.batch_size)  # fmt: skip
    parallel = DistributedDataParallel(model) if world > 1 else model
    optimizer = _optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * len(loader))
    amp = settings.amp and device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    stateful = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    for epoch in range(_read(checkpoint, stateful, settings, device), settings.epochs):
        # each epoch has random numbers of its own, so that one after a break draws what it would have drawn
        torch.manual_seed((settings.seed * 100_003 + epoch) * world + rank)
        if world > 1:
            sampler.set_epoch(epoch)
        model.train()
        hidden = None if rank == 0 else True  # None: where there is no terminal
        for images, labels in tqdm(loader, f"epoch {epoch + 1}/{settings.epochs}", leave=False, disable=hidden):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.float16, enabled=amp):
                loss = _loss(parallel(images), labels, images, teacher, settings)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        if rank == 0:
            print(f"epoch {epoch + 1}/{settings.epochs}: loss of the last batch {loss.item():.4f}", flush=True)
            _write(checkpoint, stateful, settings, epoch + 1)
    model.eval()


def _loss(y: Tensor, labels: Tensor, images: Tensor, teacher: nn.Module | None, settings: Settings) -> Tensor:
    if not settings.distil:
        return F.cross_entropy(y, labels, label_smoothing=settings.label_smoothing)
    with torch.no_grad():
        target = F.log_softmax(teacher(images).float() / settings.temperature, 1)
    ours = F.log_softmax(y.float() / settings.temperature, 1)
    return F.kl_div(ours, target, log_target=True, reduction="batchmean") * settings.temperature**2


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(model.parameters(), settings.lr, 0.9, weight_decay=settings.weight_decay)


def _write(checkpoint: Path | None, stateful: dict, settings: Settings, epoch: int) -> None:
    """A kill while it is written leaves the last file whole."""
    if checkpoint is None:
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    part = checkpoint.with_suffix(".part")
    state = {name: part_of.state_dict() for name, part_of in stateful.items()}
    torch.save(state | {"epoch": epoch, "settings": vars(settings)}, part)
    os.replace(part, checkpoint)


def _read(checkpoint: Path | None, stateful: dict, settings: Settings, device: torch.device) -> int:
    """:return: how many epochs are done"""
    if checkpoint is None or not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    different = [key for key, value in vars(settings).items() if state["settings"].get(key) != value]
    if different:
        raise SystemExit(f"{checkpoint} is of a run with other settings ({', '.join(different)}). Give another file")
    for name, part_of in stateful.items():
        part_of.load_state_dict(state[name])
    return state["epoch"]
