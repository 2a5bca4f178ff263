"""Models by name, and their weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cli_files import Commands, state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models as zoo
from torchvision.transforms import InterpolationMode

from sj_parallel_conversion import ConfigError, FileError, MissingExtraError
from sj_parallel_conversion.cli.models import ModelOptions, load_model
from sj_parallel_conversion.cli.preparation import ImageOptions, of_torchvision

NET = "nets_here.py:tiny"


def load(ann: str, weights: str | None = None, **model_args: object) -> nn.Module:
    """The network that a command line would get."""
    return load_model(ann, ModelOptions(weights, model_args)).network


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for timm: it knows the model ``little``, which remembers how it was made."""

    def create_model(name: str, pretrained: bool, **args: object) -> nn.Module:
        net = nn.Linear(2, args.get("num_classes", 3))
        net.made = (name, pretrained, args)
        return net

    def create_transform(**settings: object) -> Callable:
        return lambda image: settings

    config = {"input_size": (3, 64, 64), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}
    data = SimpleNamespace(resolve_model_data_config=lambda net: dict(config), create_transform=create_transform)
    fake = SimpleNamespace(
        is_model=lambda name: name == "little", list_models=lambda: ["little", "large"], create_model=create_model
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return fake


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for transformers: ``here`` is a model with a processor of images, ``bare`` one without."""

    def known(path: str) -> str:
        if not path.endswith(("here", "bare")):
            raise OSError(f"{path} is not a local folder and is not a valid model identifier")
        return path

    def processor(path: str) -> Callable:
        if path == "bare":
            raise OSError("no preprocessor_config.json")
        return lambda image, return_tensors: {"pixel_values": torch.full((1, 3, 2, 2), 5.0)}

    architecture = SimpleNamespace(from_pretrained=lambda path, **args: nn.Linear(2, args.get("num_labels", 3)))
    config = SimpleNamespace(from_pretrained=lambda path: SimpleNamespace(architectures=[known(path) and "Little"]))
    fake = SimpleNamespace(
        AutoConfig=config, Little=architecture, AutoImageProcessor=SimpleNamespace(from_pretrained=processor)
    )
    monkeypatch.setitem(sys.modules, "transformers", fake)
    return fake


@pytest.mark.parametrize("ann", [NET, "./nets_here.py:tiny", "nets_here:tiny"])
def test_the_users_own(folder: Path, ann: str) -> None:
    found = load_model(ann, ModelOptions())
    assert isinstance(found.network[0], nn.Conv2d) and not found.network.training
    assert found.name == "tiny" and found.preparation is None


def test_names_for_files(folder: Path, transformers: SimpleNamespace) -> None:
    (folder / "here").mkdir()
    assert load_model("hf:./here/../here", ModelOptions()).name == "here"
    assert load_model("torchvision:squeezenet1_1", ModelOptions("random")).name == "squeezenet1_1"


def test_arguments_and_modules_as_they_are(folder: Path) -> None:
    assert load(NET, classes=7)[-1].out_features == 7
    assert load("nets_here.py:instance")[-1].out_features == 3


def test_files_that_are_called_like_libraries_or_have_neighbours(folder: Path) -> None:
    (folder / "torch.py").write_text("import nets_here\ndef net(): return nets_here.tiny(5)\n")
    assert load("torch.py:net")[-1].out_features == 5
    assert sys.modules["torch"] is torch


def test_torchvision(folder: Path) -> None:
    net = load("torchvision:squeezenet1_1", "random", num_classes=4)
    assert isinstance(net, zoo.SqueezeNet) and net.num_classes == 4 and not net.training


def test_weights_by_name_bring_their_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(zoo, "get_model", lambda name, weights: asked.append((name, weights)) or nn.Identity())
    weights = zoo.ResNet50_Weights
    # 64 * 232 / 224 and 64 * 256 / 224
    cases = {"DEFAULT": (weights.IMAGENET1K_V2, 66), "IMAGENET1K_V1": (weights.IMAGENET1K_V1, 73)}
    for name, (expected, resize) in cases.items():
        found = load_model("torchvision:resnet50", ModelOptions(name))
        assert asked[-1] == ("resnet50", expected)
        image = Image.effect_mandelbrot((300, 260), (-2, -1, 1, 1), 50).convert("RGB")
        prepared = found.preparation(ImageOptions())
        assert torch.equal(prepared.transform(image), expected.transforms()(image)) and str(expected) in prepared.words
        changed = found.preparation(ImageOptions(image_size=64, interpolation="bicubic", mean=[0, 0, 0]))
        settings = {"interpolation": InterpolationMode.BICUBIC, "mean": [0, 0, 0]}
        other = expected.transforms(crop_size=64, resize_size=resize, **settings)
        assert torch.equal(changed.transform(image), other(image))
        assert "--image-size, --interpolation, --mean" in changed.words


def test_images_of_other_tasks_take_no_flags() -> None:
    prepare = of_torchvision(zoo.segmentation.FCN_ResNet50_Weights.DEFAULT)
    assert prepare(ImageOptions()).words == "as for FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"
    with pytest.raises(ConfigError, match=r"FCN_ResNet50_Weights\S+ cannot be prepared with --image-size"):
        prepare(ImageOptions(image_size=64))


def test_timm(timm: SimpleNamespace, folder: Path) -> None:
    found = load_model("timm:little", ModelOptions("DEFAULT", {"num_classes": 5}))
    assert found.network.made == ("little", True, {"num_classes": 5})
    settings = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9, "is_training": False}
    assert found.preparation(ImageOptions()).transform(None) == settings
    given = {"input_size": (3, 32, 32), "crop_pct": 0.8, "interpolation": "bicubic", "std": (1.0,) * 3}
    changed = found.preparation(ImageOptions(32, 40, "bicubic", std=[1.0] * 3))
    assert changed.transform(None) == settings | given
    untrained = load_model("timm:little", ModelOptions("random"))
    assert untrained.network.made == ("little", False, {}) and untrained.preparation is None


def test_transformers(transformers: SimpleNamespace, folder: Path) -> None:
    found = load_model("hf:here", ModelOptions(None, {"num_labels": 2}))
    assert found.network.out_features == 2 and found.name == "here"
    assert found.preparation(ImageOptions()).transform(None).tolist() == torch.full((3, 2, 2), 5.0).tolist()
    with pytest.raises(ConfigError, match="--mean: hf:here prepares images by its own"):
        found.preparation(ImageOptions(mean=[0.5]))
    with pytest.raises(ConfigError, match=r"does not say how images are prepared: give data as module:loader"):
        load_model("hf:bare", ModelOptions()).preparation(ImageOptions())


@pytest.mark.parametrize("form", ["plain", "checkpoint", "parallel", "compiled", "safetensors"])
def test_state_dicts(folder: Path, form: str) -> None:
    state = state_dict()
    prefix = {"parallel": "module.", "compiled": "_orig_mod."}.get(form, "")
    renamed = {prefix + name: value for name, value in state.items()}
    file = "w.safetensors" if form == "safetensors" else "w.pth"
    if form == "safetensors":
        save_file(renamed, file)
    else:
        torch.save({"epoch": 3, "state_dict": renamed} if form == "checkpoint" else renamed, file)
    loaded = load(NET, file).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_weights_of_a_model_of_torchvision_from_a_file(folder: Path) -> None:
    state = zoo.squeezenet1_1().state_dict()
    torch.save(state, "s.pt")
    found = load_model("torchvision:squeezenet1_1", ModelOptions("s.pt"))
    assert torch.equal(found.network.state_dict()["classifier.1.bias"], state["classifier.1.bias"])
    assert found.preparation is None


WRONG = {
    ("resnet18",): "model 'resnet18' is unknown: give torchvision:NAME, timm:NAME, hf:PATH",
    ("",): "model '' is unknown",
    ("torchvision:",): "model 'torchvision:' is unknown",
    ("torchvision:resnet81", "random"): "torchvision has no model 'resnet81': do you mean resnet18",
    ("torchvision:resnet18",): "torchvision:resnet18 is untrained: give --weights FILE, or --weights DEFAULT",
    ("torchvision:resnet18", "BEST"): "torchvision:resnet18 has no weights 'BEST': IMAGENET1K_V1 or DEFAULT",
    ("timm:litle", "random"): "timm has no model 'litle': do you mean little",
    ("timm:little",): "timm:little is untrained",
    ("timm:little", "V1"): "timm:little has no weights 'V1': DEFAULT, or a file",
    ("hf:gone",): "hf:gone cannot be loaded: gone is not a local folder",
    ("hf:here", "DEFAULT"): "hf:here has its own weights: leave out --weights DEFAULT, or give a file",
    ("gone.py:net",): "model: there is no file gone.py",
    ("gone.module:net",): "model: there is no module 'gone.module' here or among the installed ones",
    ("nets_here.py:gone",): "model 'nets_here.py:gone': nets_here.py has no 'gone'",
    ("nets_here.py:Tiny",): "nets_here.py has no 'Tiny': do you mean tiny?",
    ("nets_here.py:number",): "model 'nets_here.py:number' is of type int, and neither a model nor what makes one",
    ("nets_here.py:a_number",): "model 'nets_here.py:a_number' gives something of type int, and no torch.nn.Module",
    ("nets_here.py:tiny", "DEFAULT"): "--weights DEFAULT: there is no such file, and nets_here.py:tiny has no weights",
}


@pytest.mark.parametrize("given", WRONG)
def test_wrong_models(folder: Path, timm: object, transformers: object, given: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        load(*given)
    assert WRONG[given] in str(error.value)


def test_wrong_arguments(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be made with --model-args {'depth': 3}: .*'depth'"):
        load(NET, depth=3)
    Path("by_name.py").write_text("from nets_here import tiny\ndef make(name): return {'tiny': tiny}[name]()\n")
    with pytest.raises(ConfigError, match=r"cannot be made with --model-args {'name': 'large'}: 'large'"):
        load("by_name.py:make", name="large")


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, install in (("torchvision", r"'sj-parallel-conversion\[cli\]'"), ("timm", "timm")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=rf"{name}:x needs the library {name}: pip install {install}"):
            load(f"{name}:x")


def test_a_module_that_lacks_another_says_so(folder: Path) -> None:
    (folder / "lacking.py").write_text("import not_there\n")
    for ann in ("lacking:net", "lacking.py:net"):
        with pytest.raises(ModuleNotFoundError, match="not_there"):
            load(ann)


def test_wrong_weights(folder: Path) -> None:
    state = state_dict()
    cases = {
        "gone.pt": "gone.pt: there is no such file",
        "whole.pt": "whole.pt is no state dict: it is damaged, or holds Python objects",
        "list.pt": "list.pt holds no state dict but a list",
        "empty.pt": "empty.pt cannot be read as a state dict",
        "text.safetensors": "text.safetensors cannot be read as a state dict",
        "lacks.pt": "lacks.pt does not fit Sequential: it lacks 0.bias",
        "more.pt": "more.pt does not fit Sequential: the network has no a, b, c and 1 more",
        "shape.pt": "shape.pt does not fit Sequential: other shapes: 4.bias [5] for [3]",
    }
    torch.save(nn.Linear(2, 2), "whole.pt")
    torch.save([1], "list.pt")
    Path("empty.pt").touch()
    Path("text.safetensors").write_text("text")
    torch.save({name: value for name, value in state.items() if name != "0.bias"}, "lacks.pt")
    torch.save(state | dict.fromkeys("abcd", torch.ones(1)), "more.pt")
    torch.save(state | {"4.bias": torch.ones(5)}, "shape.pt")
    for file, message in cases.items():
        with pytest.raises(FileError) as error:
            load(NET, file)
        assert message in str(error.value)


def test_errors_of_a_factory(sjpc: Commands, folder: Path) -> None:
    done = sjpc("convert", "nets_here.py:broken", "train.npz")
    assert done == (1, "", "sjpc: RuntimeError: the factory is broken (--traceback shows where)\n")
    with pytest.raises(RuntimeError, match="the factory\nis broken"):
        sjpc("convert", "nets_here.py:broken", "train.npz", "--traceback")
    (folder / "c.yaml").write_text("ann: nets_here.py:broken\ndata: train.npz\ntraceback: true\n")
    with pytest.raises(RuntimeError, match="the factory\nis broken"):
        sjpc("convert", "--config", "c.yaml")
