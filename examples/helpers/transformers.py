"""Small transformers, text that comes with Python, and a training loop for both."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from tqdm import tqdm

_MODULES = (
    "argparse", "ast", "asyncio", "base64", "bisect", "calendar", "cmath", "collections", "concurrent.futures",
    "configparser", "contextlib", "copy", "csv", "datetime", "decimal", "difflib", "dis", "email.message", "enum",
    "fractions", "functools", "glob", "gzip", "hashlib", "heapq", "html", "http.client", "inspect", "io", "itertools",
    "json", "locale", "logging", "math", "mimetypes", "multiprocessing", "operator", "os", "pathlib", "pickle",
    "platform", "pprint", "queue", "random", "re", "sched", "shelve", "shutil", "signal", "socket", "sqlite3",
    "statistics", "string", "struct", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time", "tkinter",
    "token", "trace", "traceback", "types", "typing", "unittest", "urllib.request", "uuid", "warnings", "weakref",
    "xml.dom.minidom", "zipfile",
)  # fmt: skip


def small_vit(size: int, patch: int, channels: int, classes: int = 10) -> VisionTransformer:
    """
    :param size: of an image
    :param patch: size of a patch
    :param channels: of an image
    :param classes: number of classes
    :return: torchvision's vision transformer with 4 blocks of 96 features
    """
    model = VisionTransformer(size, patch, 4, 4, 96, 192, num_classes=classes)
    model.conv_proj = nn.Conv2d(channels, 96, patch, patch)
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


class Block(nn.Module):
    """
    Causal attention and an MLP.

    :param features: of a token
    :param heads: of the attention
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.proj = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.mlp = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, length, features]``. :return: the same shape"""
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.ln_1(x)).chunk(3, 2))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class SmallGPT(nn.Module):
    """
    A language model in the form of GPT-2.

    :param tokens: size of the vocabulary
    :param context: the longest text
    :param features: of a token
    :param blocks: their number
    """

    def __init__(self, tokens: int, context: int = 64, features: int = 96, blocks: int = 3) -> None:
        super().__init__()
        self.context = context
        self.wte, self.wpe = nn.Embedding(tokens, features), nn.Embedding(context, features)
        self.blocks = nn.Sequential(*(Block(features, 4) for _ in range(blocks)))
        self.ln_f, self.head = nn.LayerNorm(features), nn.Linear(features, tokens, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """:param ids: ``[N, length]``. :return: logits ``[N, length, tokens]``"""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.ln_f(self.blocks(x)))


def text_of_python() -> str:
    """
    :return: the documentation strings of modules that come with Python
    """
    found: dict[str, None] = {}
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:  # some builds leave modules out
            continue
        for thing in (module, *vars(module).values()):
            members = vars(thing).values() if inspect.isclass(thing) else ()
            found |= dict.fromkeys(doc for part in (thing, *members) if (doc := _doc(part)))
    return "\n\n".join(found).encode("ascii", "ignore").decode()


def _doc(thing: object) -> str | None:
    doc = getattr(thing, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) and len(doc) > 40 else None


def encoded(text: str) -> tuple[Tensor, str]:
    """
    :param text: any text
    :return: the numbers of its characters ``[length]``, and all characters in order
    """
    characters = "".join(sorted(set(text)))
    return torch.tensor([characters.index(c) for c in text]), characters


def windows(ids: Tensor, length: int, count: int, seed: int = 0) -> Tensor:
    """:return: ``[count, length]`` pieces of a text ``[...]``, from random places"""
    starts = torch.randint(len(ids) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return ids[starts.unsqueeze(1) + torch.arange(length)]


def train(model: nn.Module, loss: Callable[[int], Tensor], steps: int, rate: float = 1e-3) -> None:
    """
    :param model: trained in place
    :param loss: of the step with this number
    :param steps: how many
    :param rate: the largest learning rate
    """
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for step in tqdm(range(steps), desc="train"):
        optimiser.zero_grad()
        loss(step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """:return: ``[N, C, H, W]`` shifted by up to four pixels, and half of them mirrored"""
    size = images.shape[-1]
    padded = F.pad(images, (4, 4, 4, 4))
    places = torch.randint(9, (len(images), 2), generator=generator).tolist()
    moved = torch.stack([x[:, a : a + size, b : b + size] for x, (a, b) in zip(padded, places, strict=True)])
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, moved.flip(3), moved)


def batches(count: int, size: int, seed: int = 0) -> Iterator[Tensor]:
    """:return: numbers of ``size`` samples out of ``count``, again and again in another order"""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(size)
