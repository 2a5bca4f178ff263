"""
What calibration images and thresholds do to trained detectors: a YOLOv8n that finds faces and parts of people, a text
detector, and the small network that proposes faces in MTCNN.

Each is calibrated with images of any kind, with images that show what it finds, and with the test images themselves. No
value is then unknown to the calibration, so that what is lost is rounded or clipped by choice.

    python -m pip install --no-deps nudenet rapidocr-onnxruntime onnx2torch facenet-pytorch
    python -m pip install ultralytics
    python benchmarks/detectors.py --images DIR          # DIR holds calibration/*/*.jpg and test/*/*.jpg

The wheels hold the weights. The images may be any photographs, such as those of ImageNet. For the text
detector, words are drawn on them. ``--only yolo`` runs one of the three.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

SETTINGS = [
    {"mode": "parallel", "time_steps": 8},
    {"mode": "parallel", "time_steps": 32},
    {"mode": "spikepack", "time_steps": 6},
    {"mode": "spikepack", "time_steps": 8},
]
_IMAGES = 64  # for a calibration
_FOUND = 0.25  # a score of at least so much is an object
_TEXT = 0.3  # and a pixel of at least so much is text, as the two projects have it
_FACE = 0.6  # and a place a face, as MTCNN has it
Network = Callable[[Tensor], Tensor]


def wheel_file(package: str, path: str) -> Path:
    """:return: a file that an installed package brings"""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: see the head of this file")
    return Path(spec.submodule_search_locations[0], path)


def photographs(folder: Path, number: int, size: int, draw: Callable[[Image.Image], None]) -> Tensor:
    """:return: ``[N, 3, size, size]`` from 0 to 1, on a black square, after ``draw`` has added to each"""
    found = []
    for path in sorted(folder.glob("*/*.jpg"))[:number]:
        with Image.open(path) as file:
            picture = file.convert("RGB")
        square = Image.new("RGB", (max(picture.size),) * 2)
        square.paste(picture)
        square = square.resize((size, size), Image.Resampling.BILINEAR)
        draw(square)
        found.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255)
    if not found:
        raise SystemExit(f"{folder} has no */*.jpg")
    return torch.stack(found)


def words(seed: int) -> Callable[[Image.Image], None]:
    """:return: draws up to three words on a picture, in random sizes and colours"""
    rng = random.Random(seed)

    def draw(picture: Image.Image) -> None:
        for _ in range(rng.randint(0, 3)):
            word = "".join(rng.choice(string.ascii_letters + " ") for _ in range(rng.randint(4, 10)))
            place, colour = (rng.randint(0, 150), rng.randint(0, 220)), tuple(rng.randint(0, 255) for _ in range(3))
            ImageDraw.Draw(picture).text(place, word, fill=colour, font=ImageFont.load_default(rng.randint(12, 26)))

    return draw


def run(network: Network, images: Tensor) -> Tensor:
    """:return: all outputs, in batches of 16"""
    with torch.no_grad():
        return torch.cat([network(part) for part in images.split(16)])


class Yolo:
    """The highest score that the ANN gives in an image, and the score of a spiking network in the same place."""

    title = "mean score where the ANN finds something (at least 0.25)"

    def __init__(self, folder: Path) -> None:
        from ultralytics.nn.modules import Conv
        from ultralytics.nn.tasks import DetectionModel

        file = onnx.load(wheel_file("nudenet", "320n.onnx"))
        weights = {w.name: torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in file.graph.initializer}
        self.ann = DetectionModel("yolov8n.yaml", nc=18, verbose=False).eval()
        for block in [module for module in self.ann.modules() if isinstance(module, Conv)]:
            block.conv.bias, block.bn = nn.Parameter(torch.zeros(block.conv.out_channels)), nn.Identity()
        self.ann.load_state_dict({name: weights.get(name, old) for name, old in self.ann.state_dict().items()})
        any_kind, images = (photographs(folder / part, 320, 320, lambda _: None) for part in ("calibration", "test"))
        with_objects = any_kind[run(self.scores(self.ann), any_kind).amax(1) > _FOUND]
        self.calibration = {"any": any_kind[:_IMAGES], "with objects": with_objects[:_IMAGES]}
        scores, places = run(self.scores(self.ann), images).max(1)
        found = scores > _FOUND
        self.images, self.best, self.places = images[found], scores[found], places[found]
        self.calibration["tested"] = self.images

    @staticmethod
    def scores(network: Callable) -> Network:
        """:return: gives the scores of all places and classes, ``[N, places * classes]``"""
        return lambda x: network(x)[0][:, 4:].flatten(1)

    def measure(self, snn: sjpc.SpikingNetwork) -> str:
        """:return: the two means"""
        same = run(self.scores(snn.predict), self.images).gather(1, self.places.unsqueeze(1))
        return f"{same.mean():.3f} (ANN {self.best.mean():.3f})"


class Text:
    """How far the pixels that are text to the ANN and to a spiking network agree."""

    title = "intersection over union of the text's pixels"

    def __init__(self, folder: Path) -> None:
        import onnx2torch

        file = onnx.load(wheel_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"))
        for node in [node for node in file.graph.node if node.op_type == "Constant"]:  # onnx2torch wants them listed
            node.attribute[0].t.name = node.output[0]
            file.graph.initializer.append(node.attribute[0].t)
            file.graph.node.remove(node)
        self.ann = onnx2torch.convert(file).eval()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        plain, written, self.images = (
            (photographs(folder / part, _IMAGES, 256, draw) - mean) / std
            for part, draw in (("calibration", lambda _: None), ("calibration", words(0)), ("test", words(1)))
        )
        self.calibration = {"any": plain, "with objects": written, "tested": self.images}
        self.text = run(self.ann, self.images) > _TEXT

    def measure(self, snn: sjpc.SpikingNetwork) -> str:
        """:return: the share"""
        return overlap(run(snn.predict, self.images) > _TEXT, self.text)


class Faces:
    """How far the places that are faces to the ANN and to a spiking network agree."""

    title = "intersection over union of the faces' places"

    def __init__(self, folder: Path) -> None:
        weights = torch.load(wheel_file("facenet_pytorch", "data/pnet.pt"), weights_only=True)
        self.ann = nn.ModuleDict({
            "conv1": nn.Conv2d(3, 10, 3), "prelu1": nn.PReLU(10), "pool1": nn.MaxPool2d(2, 2, ceil_mode=True),
            "conv2": nn.Conv2d(10, 16, 3), "prelu2": nn.PReLU(16), "conv3": nn.Conv2d(16, 32, 3),
            "prelu3": nn.PReLU(32), "conv4_1": nn.Conv2d(32, 2, 1),
        })  # fmt: skip
        self.ann.load_state_dict({name: value for name, value in weights.items() if not name.startswith("conv4_2")})
        self.ann = nn.Sequential(*self.ann.values(), nn.Softmax(1)).eval()
        seen, images = (2 * photographs(folder / part, 320, 96, lambda _: None) - 1 for part in ("calibration", "test"))
        faces, here = (run(self.faces(self.ann), x).flatten(1).any(1) for x in (seen, images))
        self.images = images[here]
        self.calibration = {"any": seen[:_IMAGES], "with objects": seen[faces][:_IMAGES], "tested": self.images}
        self.found = run(self.faces(self.ann), self.images)

    @staticmethod
    def faces(network: Callable) -> Network:
        """:return: tells for each place whether there is a face"""
        return lambda x: network(x)[:, 1] > _FACE

    def measure(self, snn: sjpc.SpikingNetwork) -> str:
        """:return: the share"""
        return overlap(run(self.faces(snn.predict), self.images), self.found)


def overlap(a: Tensor, b: Tensor) -> str:
    """:return: intersection over union"""
    return f"{(a & b).sum() / (a | b).sum():.3f}"


DETECTORS = {"yolo": Yolo, "text": Text, "faces": Faces}


def lines(detector: Yolo | Text) -> Iterator[str]:
    """:return: the table, a line at a time"""
    columns = [(images, threshold) for images in detector.calibration for threshold in ("mse", "max")]
    yield f"| {detector.title} | " + " | ".join(f"{images}, `{threshold}`" for images, threshold in columns) + " |"
    yield "|---" * (1 + len(columns)) + "|"
    for setting in SETTINGS:
        cells = []
        for images, threshold in columns:
            batches = list(detector.calibration[images].split(16))
            options = setting | {"threshold": threshold, "show_progress": False}
            snn = sjpc.ParallelConverter(batches, **options).convert(detector.ann)
            cells.append(detector.measure(snn))
        yield f"| `{setting['mode']}`, T={setting['time_steps']} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", choices=list(DETECTORS), help="one of them")
    options = parser.parse_args(arguments)
    for name in [options.only] if options.only else DETECTORS:
        for line in lines(DETECTORS[name](options.images)):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
