"""A network with trainable activations is trained by any loop, and converts without loss afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sj_parallel_conversion as sjpc

LEVELS = 4


class Mixed(nn.Module):
    """ReLUs as a module, a function and a method, BatchNorm and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.act = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.pool, self.conv2, self.linear = nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.Linear(32, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.bn(self.conv1(x))))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(self.linear(x.flatten(1)).relu())


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    torch.manual_seed(0)
    y = torch.arange(96) % 3
    return TensorDataset(torch.randn(96, 1, 8, 8) * 0.5 + F.one_hot(y, 8)[:, None, None] * 2.0, y)


@pytest.fixture
def network(data: TensorDataset) -> nn.Module:
    torch.manual_seed(0)
    return sjpc.replace_activations(Mixed(), sjpc.QCFS, DataLoader(data, 32), levels=LEVELS)


def check(model: nn.Module, data: TensorDataset, before: list[Tensor]) -> None:
    """It has learnt, its thresholds have moved, and the spiking network gives the same logits."""
    images, labels = data.tensors
    model.eval()
    after = [p.detach() for name, p in model.named_parameters() if "v_threshold" in name]
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) and len(after) == 3
    snn = sjpc.ParallelConverter([images], time_steps=LEVELS, show_progress=False).convert(model)
    with torch.no_grad():
        y = model(images)
        assert (y.argmax(1) == labels).float().mean() > 0.9
        assert torch.equal(snn.predict(images), y)


def thresholds(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for name, p in model.named_parameters() if "v_threshold" in name]


def test_pytorch(network: nn.Module, data: TensorDataset) -> None:
    before, optimiser = thresholds(network), torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(8):
        for x, y in DataLoader(data, 32):
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimiser.step()
    check(network, data, before)
    for T, calibrations in ((2, ["da_qcfs", "least_squares"]), (8, ["da_qcfs"])):
        none = error(network, data, T, "none")
        # what training leaves depends on the machine: where an error is below 2 %, there is little to correct
        most = max(1.05 * none, 0.02)
        assert none < 0.5 and all(error(network, data, T, name) <= most for name in calibrations), T


@torch.no_grad()
def error(model: nn.Module, data: TensorDataset, T: int, calibration: str) -> float:
    """Relative squared error of the logits at another T than the one that the model was trained for."""
    images = data.tensors[0]
    options = {"time_steps": T, "calibration": calibration, "show_progress": False}
    y, snn = model(images), sjpc.ParallelConverter([images], **options).convert(model)
    return float((snn.predict(images) - y).square().mean() / y.var())


def test_lightning(network: nn.Module, data: TensorDataset, tmp_path: Path) -> None:
    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.01)

    before = thresholds(network)
    trainer = lightning.Trainer(
        max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Task(), DataLoader(data, 32))
    check(network, data, before)


class _Rows(Dataset):
    """As Hugging Face's Trainer takes samples."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(zip(("x", "labels"), self.data[index], strict=True))


class _WithLoss(nn.Module):
    """As Hugging Face's Trainer takes models."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.network(x)
        return {"logits": logits} | ({} if labels is None else {"loss": F.cross_entropy(logits, labels)})


def test_hugging_face_trainer(network: nn.Module, data: TensorDataset, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    before = thresholds(network)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=8, per_device_train_batch_size=32, learning_rate=0.01, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    transformers.Trainer(_WithLoss(network), arguments, train_dataset=_Rows(data)).train()
    check(network, data, before)
