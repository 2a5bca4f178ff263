"""Data by name, and how images become inputs."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets

from sj_parallel_conversion import ConfigError, DataError, MissingExtraError
from sj_parallel_conversion.cli.data import DataOptions, Reader
from sj_parallel_conversion.cli.preparation import ImageOptions, Prepared, plain

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def reader(preparation: object = None, seed: int = 0, **options: object) -> Reader:
    """With the flags that are given."""
    of_images = {name: options.pop(name) for name in list(options) if name in ImageOptions.__dataclass_fields__}
    return Reader(DataOptions(**options), ImageOptions(**of_images), preparation, seed)


def all_of(loader: Iterable) -> tuple[Tensor, Tensor]:
    """The images and labels of all batches."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def arrays(file: str = "train.npz") -> tuple[np.ndarray, Tensor]:
    """What is in the file."""
    with np.load(file) as found:
        return found["images"], torch.from_numpy(found["labels"])


def normalised(images: np.ndarray) -> Tensor:
    """``[N, H, W, 3]`` as ImageNet's networks want them."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def write_folder(root: Path, classes: list[str], size: tuple[int, int] = (40, 30)) -> dict[str, np.ndarray]:
    """Two images for each class. :return: them, by class"""
    rng, found = np.random.default_rng(1), {}
    for name in classes:
        (root / name).mkdir(parents=True)
        found[name] = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        for i, image in enumerate(found[name]):
            Image.fromarray(image).save(root / name / f"{i}.png")
    return found


def test_an_npz_file_is_evaluated_in_its_order(folder: Path, capsys: pytest.CaptureFixture) -> None:
    loader = reader().to_evaluate("train.npz")
    images, labels = arrays()
    assert len(loader) == 1 and torch.equal(all_of(loader)[0], normalised(images))
    assert torch.equal(all_of(loader)[1], labels)
    out = capsys.readouterr().out
    assert out == "train.npz, 40 of 40: size as it is, mean 0.485 0.456 0.406, std 0.229 0.224 0.225\n"


def test_calibration_images_are_a_random_choice(folder: Path) -> None:
    images, labels = arrays()
    for seed, count in ((0, 12), (3, 12), (0, 1000)):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:count]
        loader = reader(images=count, seed=seed, batch_size=5).to_calibrate("train.npz")
        found = all_of(loader)
        assert len(next(iter(loader))[0]) == 5 and torch.equal(found[0], normalised(images)[order])
        assert torch.equal(found[1], labels[order]) and torch.equal(all_of(loader)[0], found[0])  # each time
        sorted_images, _ = all_of(reader(images=count, seed=seed).to_evaluate("train.npz"))
        assert torch.equal(sorted_images, normalised(images)[order.sort().values])


def test_a_calibration_takes_1024_images(folder: Path) -> None:
    np.savez("many.npz", images=np.zeros((1100, 2, 2), np.uint8))
    assert sum(len(x) for x in reader().to_calibrate("many.npz")) == 1024
    assert sum(len(x) for x in reader().to_evaluate("many.npz")) == 1100


def test_grey_images_and_flags(folder: Path) -> None:
    images, _ = arrays("grey.npz")
    x = torch.from_numpy(images)[:, None].float() / 255
    assert torch.equal(all_of(reader().to_evaluate("grey.npz"))[0], x)
    changed, _ = all_of(reader(mean=[0.5], std=[0.25]).to_evaluate("grey.npz"))
    torch.testing.assert_close(changed, (x - 0.5) / 0.25)
    assert all_of(reader(image_size=4).to_evaluate("grey.npz"))[0].shape == (40, 1, 4, 4)
    cut, _ = all_of(reader(image_size=4, resize_size=8).to_evaluate("grey.npz"))
    assert torch.equal(cut, x[:, :, 2:6, 2:6])


def test_floats_are_inputs_as_they_are(folder: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    np.savez("floats.npz", images=x, labels=np.arange(6))
    assert torch.equal(all_of(reader().to_evaluate("floats.npz"))[0], torch.from_numpy(x))
    with pytest.raises(ConfigError, match=r"--mean changes nothing in data from floats\.npz, which holds floats"):
        reader(mean=[0.5]).to_evaluate("floats.npz")


def test_a_folder_of_images(folder: Path, capsys: pytest.CaptureFixture) -> None:
    written = write_folder(folder / "train", ["dog", "ant", "cow"])
    loader = reader(batch_size=4).to_evaluate("train")
    images, labels = all_of(loader)
    assert images.shape == (6, 3, 224, 224) and labels.tolist() == [0, 0, 1, 1, 2, 2]  # ant, cow, dog
    assert "shorter side 256, bilinear, crop 224, mean 0.485" in capsys.readouterr().out
    small = all_of(reader(image_size=30, resize_size=30).to_evaluate("train"))[0]
    assert torch.equal(small[:2], normalised(written["ant"][:, 5:35]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_interpolation(folder: Path, capsys: pytest.CaptureFixture, interpolation: str) -> None:
    written = write_folder(folder / "train", ["ant"])
    resized = [Image.fromarray(x).resize((8, 10), Image.Resampling[interpolation.upper()]) for x in written["ant"]]
    # 40 x 30 become 10 x 8, of which the middle 8 x 8 are cropped
    expected = normalised(np.stack([np.asarray(image)[1:9] for image in resized]))
    found = all_of(reader(image_size=8, resize_size=8, interpolation=interpolation).to_evaluate("train"))[0]
    assert torch.equal(found, expected)
    assert f"shorter side 8, {interpolation}, crop 8" in capsys.readouterr().out


def test_damaged_images_are_named(folder: Path) -> None:
    write_folder(folder / "train", ["ant"])
    whole = (folder / "train/ant/0.png").read_bytes()
    for content, words in ((b"text", "it is damaged, or of another kind"), (whole[: len(whole) // 2], ".*")):
        (folder / "train/ant/0.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"^train/ant/0\.png cannot be read as an image: {words}$"):
            all_of(reader().to_evaluate("train"))


def test_folders_called_by_numbers_are_the_classes(folder: Path) -> None:
    write_folder(folder / "numbered", ["10", "9", "007"])
    assert all_of(reader(image_size=8).to_evaluate("numbered"))[1].tolist() == [7, 7, 10, 10, 9, 9]


def test_images_are_read_by_other_processes(folder: Path) -> None:
    expected = all_of(reader().to_evaluate("train.npz"))
    assert all(map(torch.equal, all_of(reader(workers=1).to_evaluate("train.npz")), expected))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(getattr(datasets, name.upper()), "_check_integrity", lambda self: True)
    base = folder / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
    base.mkdir()
    rng, kept = np.random.default_rng(0), {}
    cifar10 = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    files = cifar10 if name == "cifar10" else {"train": ["train"], "test": ["test"]}
    for split, names in files.items():
        for file in names:
            data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
            kept.setdefault(split, []).append(data.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
            (base / file).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2, 3], "fine_labels": [0, 1, 2, 3]}))
    meta = {"label_names": list("abcd"), "fine_label_names": list("abcd")}
    (base / ("batches.meta" if name == "cifar10" else "meta")).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(getattr(datasets, name.upper()), "_load_meta", lambda self: None)
    assert torch.equal(all_of(reader().to_evaluate(f"{name}:."))[0], normalised(np.concatenate(kept["test"])))
    assert len(all_of(reader().to_calibrate(f"{name}:{folder}"))[0]) == 4 * len(files["train"])


def test_cifar_is_downloaded_when_that_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="none has no cifar10 that is whole: --download gets it"):
        reader().to_evaluate("cifar10:none")
    asked = []
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: asked.append(self.root))
    with pytest.raises(DataError):  # nothing came
        reader(download=True).to_evaluate("cifar10:none")
    assert asked == ["none"]


def test_loaders_of_the_users_own(folder: Path) -> None:
    for name in ("batches", "listed"):
        found = all_of(reader().to_evaluate(f"nets_here.py:{name}"))
        assert found[0].shape == (12, 3, 8, 8) and found[1].tolist() == [0, 1, 2] * 4
    loader = reader(batch_size=5, images=10).to_calibrate("nets_here:dataset")
    assert isinstance(loader, DataLoader) and [len(y) for _, y in loader] == [5, 5]


def test_a_models_own_preparation_comes_first(folder: Path, capsys: pytest.CaptureFixture) -> None:
    def preparation(options: ImageOptions) -> Prepared:
        return Prepared(lambda image: torch.full((1,), float(options.image_size or 0)), "my way")

    assert all_of(reader(preparation).to_evaluate("train.npz"))[0].unique().tolist() == [0]
    assert all_of(reader(preparation, image_size=9).to_evaluate("train.npz"))[0].unique().tolist() == [9]
    assert capsys.readouterr().out.endswith("train.npz, 40 of 40: my way\n")


def write_wrong_files() -> None:
    """Files that are no data."""
    Path("flat").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("flat/a.png")
    Path("text.npz").write_text("text")
    Path("notes.txt").write_text("text")
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez("other.npz", x=images)
    np.savez("objects.npz", images=np.array([None]))
    np.savez("integers.npz", images=images.astype(np.int64))
    np.savez("channels.npz", images=images[..., :2])
    np.savez("few.npz", images=images, labels=np.arange(3))
    np.savez("shares.npz", images=images, labels=np.zeros(4))
    np.savez("none.npz", images=images[:0], labels=np.arange(0))


WRONG = {
    "gone": (ConfigError, "data: there is no gone. Give a folder with a folder for each class, an .npz file, cifar10:"),
    "notes.txt": (ConfigError, "data: notes.txt is none of these"),
    "gone.py:loader": (ConfigError, "data: there is no file gone.py"),
    "gone:loader": (ConfigError, "data: there is no module 'gone' here"),
    "nets_here.py:number": (ConfigError, "gives something of type int, and neither a Dataset nor batches"),
    "flat": (DataError, "flat is no folder with a folder of images for each class"),
    "text.npz": (DataError, "text.npz cannot be read as an .npz file"),
    "other.npz": (DataError, "other.npz has no array 'images', but x"),
    "objects.npz": (DataError, "objects.npz cannot be read as an .npz file: Object arrays cannot be loaded"),
    "integers.npz": (DataError, "integers.npz: images are int64, and must be uint8 or floats"),
    "channels.npz": (DataError, "images have shape [4, 8, 8, 2], and must be [N, H, W] or [N, H, W, 3]"),
    "few.npz": (DataError, "labels are int64 [3], and must be integers, one for each of 4 images"),
    "shares.npz": (DataError, "labels are float64 [4], and must be integers"),
    "none.npz": (DataError, "data 'none.npz': it is empty"),
}


@pytest.mark.parametrize("data", WRONG)
def test_wrong_data(folder: Path, data: str) -> None:
    write_wrong_files()
    kind, message = WRONG[data]
    with pytest.raises(kind) as error:
        reader().to_evaluate(data)
    assert message in str(error.value)


@pytest.mark.parametrize("option", ["images", "batch_size", "workers", "image_size", "download"])
def test_options_that_would_change_nothing(folder: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} changes nothing in data from nets_here"):
        reader(**{option: 8}).to_evaluate("nets_here.py:listed")


def test_interpolation_of_images_that_keep_their_size(folder: Path) -> None:
    with pytest.raises(ConfigError, match="interpolation=bicubic changes nothing: images keep their size"):
        reader(interpolation="bicubic").to_evaluate("train.npz")


def test_numbers_for_each_channel() -> None:
    for name in ("mean", "std"):
        with pytest.raises(ConfigError, match=f"{name} needs 1 or 3 numbers, one for each channel, got 2"):
            plain(ImageOptions(**{name: [0.5, 0.5]}))
        with pytest.raises(ConfigError, match=f"{name} needs 1 or 3 numbers, one for each channel, got 0"):
            plain(ImageOptions(**{name: []}))
    assert "mean 0.5 0.5 0.5" in plain(ImageOptions(mean=[0.5])).words


def test_the_library_that_reads_images_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(MissingExtraError, match=r"needs the library torchvision: .*'sj-parallel-conversion\[cli\]'"):
        reader().to_evaluate("train.npz")
