"""Images -> inputs: resized, cropped and normalised as a model's trainers did it, or as flags say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from ..errors import ConfigError
from .imports import library

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_USUAL_SIZE, _MARGIN = 224, 256 / 224
_USUAL_INTERPOLATION = "bilinear"


@dataclass(frozen=True)
class ImageOptions:
    """
    How images become inputs. Trained weights by name bring their own way; these options change it. Otherwise pixels
    become 0 to 1 and are normalised with ImageNet's mean and std, grey ones are not normalised.

    :param image_size: height and width of inputs, cropped from the centre. Default: 224 for folders, and no cropping
        for images that are all of one size
    :param resize_size: the shorter side before cropping. Default: image_size for images that are all of one size,
        otherwise larger by the model's usual share, or by 256 / 224
    :param interpolation: how pixels are found where images are resized. Default: bilinear
    :param mean: subtracted from pixels of 0 to 1, by channel
    :param std: what they are divided by then, by channel
    """

    image_size: int | None = None
    resize_size: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, value in (("image_size", self.image_size), ("resize_size", self.resize_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ConfigError(f"std must be above 0, got {list(self.std)}")
        if self.resize_size is None:
            return
        if self.image_size is None:
            raise ConfigError(f"resize_size={self.resize_size} needs image_size, the size after cropping")
        if self.resize_size < self.image_size:
            raise ConfigError(f"resize_size={self.resize_size} is smaller than image_size={self.image_size}")

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Prepared(NamedTuple):
    """
    How the images of a data set become inputs.

    :param transform: image of Pillow -> ``[C, H, W]``
    :param words: what it does, for the user
    """

    transform: Callable[[object], Tensor]
    words: str


Preparation = Callable[[ImageOptions], Prepared]


def plain(options: ImageOptions, channels: int = 3, same_size: bool = False) -> Prepared:
    """
    :param options: of the user
    :param channels: of the images
    :param same_size: whether all images have one size, which may stay
    :return: resizing and cropping, and the mean and standard deviation of ImageNet for colours
    :raises ConfigError: if the mean or the standard deviation have another number of channels
    """
    transforms = library("torchvision.transforms", "reading images")
    size = options.image_size or (None if same_size else _USUAL_SIZE)
    resize = options.resize_size
    if resize is None and size is not None:
        resize = size if same_size else round(size * _MARGIN)
    if resize is None and options.interpolation is not None:
        raise ConfigError(f"interpolation={options.interpolation} changes nothing: images keep their size")
    usual = _IMAGENET if channels == 3 else {"mean": (0.0,), "std": (1.0,)}
    mean, std = (_by_channel(name, (usual | options.given)[name], channels) for name in ("mean", "std"))
    interpolation = options.interpolation or _USUAL_INTERPOLATION
    steps = [transforms.Resize(resize, transforms.InterpolationMode(interpolation))] if resize else []
    steps += [transforms.CenterCrop(size)] if size else []
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    sizes = [f"shorter side {resize}, {interpolation}"] if resize else ["size as it is"]
    sizes += [f"crop {size}"] if size else []
    return Prepared(transform, f"{', '.join(sizes)}, mean {_numbers(mean)}, std {_numbers(std)}")


def of_torchvision(weights: Any) -> Preparation:
    """:param weights: trained weights of torchvision, a member of an enum such as ``ResNet18_Weights``"""

    def prepare(options: ImageOptions) -> Prepared:
        """As the weights say, but for what the user gives."""
        given = {"crop_size" if name == "image_size" else name: value for name, value in options.given.items()}
        try:
            if "crop_size" in given and "resize_size" not in given:
                usual = weights.transforms()
                given["resize_size"] = round(options.image_size * usual.resize_size[0] / usual.crop_size[0])
            if options.interpolation:
                modes = library("torchvision.transforms", "reading images").InterpolationMode
                given["interpolation"] = modes(options.interpolation)
            transform = weights.transforms(**given)
        except (TypeError, AttributeError) as error:  # those of detection and video have other settings
            raise ConfigError(f"images of {weights} cannot be prepared with {_flags(options)}: {error}") from error
        return Prepared(transform, f"as for {weights}{_changed(options)}")

    return prepare


def of_timm(network: nn.Module) -> Preparation:
    """:param network: a pretrained one of timm"""

    def prepare(options: ImageOptions) -> Prepared:
        """As timm says, but for what the user gives."""
        data = library("timm.data", "preparing images")
        config = data.resolve_model_data_config(network)
        size = options.image_size or config["input_size"][-1]
        if options.image_size:
            config["input_size"] = (config["input_size"][0], size, size)
        if options.resize_size:
            config["crop_pct"] = size / options.resize_size
        if options.interpolation:
            config["interpolation"] = options.interpolation
        config |= {name: tuple(value) for name, value in options.given.items() if name in ("mean", "std")}
        return Prepared(data.create_transform(**config, is_training=False), f"as timm says{_changed(options)}")

    return prepare


def of_transformers(path: str) -> Preparation:
    """:param path: of a model that may have a file that says how images are prepared"""

    def prepare(options: ImageOptions) -> Prepared:
        """As the model's own file says; the user's options are refused."""
        try:
            processor = library("transformers", f"hf:{path}").AutoImageProcessor.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"hf:{path} does not say how images are prepared: give data as module:loader or file.py:loader. {error}"
            ) from error
        if options.given:
            raise ConfigError(f"{_flags(options)}: hf:{path} prepares images by its own {type(processor).__name__}")
        return Prepared(
            lambda image: processor(image, return_tensors="pt")["pixel_values"][0], f"by {type(processor).__name__}"
        )

    return prepare


def _by_channel(name: str, values: Sequence[float], channels: int) -> list[float]:
    if len(values) not in (1, channels):
        raise ConfigError(f"{name} needs 1 or {channels} numbers, one for each channel, got {len(values)}")
    return list(values) * (channels if len(values) == 1 else 1)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _flags(options: ImageOptions) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options.given)


def _changed(options: ImageOptions) -> str:
    return f", but for {_flags(options)}" if options.given else ""
