"""The example that trains QCFS networks: what it prints, and a run that is killed and goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")
import train_qcfs
from helpers import training
from helpers.image_sets import CLASSES, load

TINY = "--epochs 2 --time-steps 2 4 --calibration none --calibration-images 128".split()


def test_a_killed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train_qcfs.run(train_qcfs.parse_arguments(TINY)).state_dict()
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("SNN")}
    assert lines["4"].split()[-2:] == ["100.00", "yes"] and float(lines["4"].split()[2]) > 90

    options = train_qcfs.parse_arguments([*TINY, "--checkpoint", str(tmp_path / "new" / "run.pt")])
    write = training._write

    def killed(*args: object) -> None:
        write(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_write", killed)
        train_qcfs.run(options)
    assert "epoch 2/2" not in capsys.readouterr().out
    again = train_qcfs.run(options).state_dict()
    assert "epoch 1/2" not in capsys.readouterr().out
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)

    options.epochs = 3
    with pytest.raises(SystemExit, match=r"other settings \(epochs\)"):
        train_qcfs.run(options)


def test_two_processes() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, train_qcfs.__file__, *TINY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]  # of one of them
    assert lines[-1].startswith("SNN") and lines[-1].endswith("100.00  yes") and float(lines[-1].split()[2]) > 80


@pytest.mark.parametrize("data", train_qcfs.MODELS)
def test_models(data: str) -> None:
    size = {"digits": (1, 8, 8), "imagenet": (3, 64, 64)}.get(data, (3, 32, 32))
    for name in train_qcfs.MODELS[data]:
        with torch.device("meta"):
            model = train_qcfs.make_model(data, name).eval()
            assert model(torch.empty(2, *size)).shape == (2, CLASSES[data]), name


@pytest.mark.parametrize("augment", ["none", "flip", "auto"])
def test_cifar_from_arrays(augment: str, tmp_path: Path) -> None:
    import numpy as np
    from helpers.cifar10 import load_images

    (tmp_path / "cifar10").mkdir()
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        images, labels = generator.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), np.arange(5)
        np.savez(tmp_path / "cifar10" / f"{split}.npz", images=images, labels=labels)
    sets = load("cifar10", tmp_path, augment, 0)
    for dataset, split in ((sets.plain, "train"), (sets.test, "test")):
        images, labels = load_images(tmp_path, split)
        assert [label for _, label in dataset] == labels.tolist()
        torch.testing.assert_close(torch.stack([image for image, _ in dataset]), images)
    image, label = sets.train[3]
    assert image.shape == (3, 32, 32) and label == 3 and image.dtype == torch.float32
    assert torch.equal(image, sets.plain[3][0]) == (augment == "none")


@pytest.mark.parametrize("arguments", ["--distil", "--data cifar10 --model cnn"])
def test_options_that_do_not_go_together(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_qcfs.parse_arguments(arguments.split())
    assert "error: --" in capsys.readouterr().err


@pytest.mark.parametrize("root", [None, Path("nowhere")])
def test_data_that_are_not_there(root: Path | None) -> None:
    with pytest.raises(FileNotFoundError, match="--data-root" if root is None else "To download it"):
        load("cifar100", root, "flip", 0)
