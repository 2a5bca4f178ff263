"""Conversions in threads, beside each other and beside inference: a web server converts while it serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from in_parts import PARTS, detector, same
from nets import IMAGES
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

OPTIONS = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}
TOKENS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Whole(nn.Module):
    """Registered as a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if len(x) else x


class Model(nn.Module):
    """Has all that a capture puts something in the place of: a function, a leaf, ``len``, buffers, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.whole, self.dropout = Whole(), nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.whole(swish(self.a(x)) * self.scale.item())
        return self.c(self.dropout(torch.relu(self.b(y)))).view(len(x), 3)


def images() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 5)]
    return nn.Sequential(*layers).eval()


def convert(ann: nn.Module, x: Tensor, submodules: list[str] | None = None, **options: object) -> nn.Module:
    return sjpc.ParallelConverter([x], **OPTIONS | options).convert(ann, submodules=submodules)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    sjpc.register_activation(swish, lower=-0.3)
    sjpc.register_leaf(Whole)
    patched = nn.Module.__call__, nn.Module.__getattr__, swish, Whole.forward
    yield
    assert (nn.Module.__call__, nn.Module.__getattr__, globals()["swish"], Whole.forward) == patched
    assert "len" not in globals(), "nothing stays in the user's file"
    sjpc.unregister_activation(swish)
    sjpc.unregister_leaf(Whole)


def in_threads(*jobs: Callable[[], object]) -> list[object]:
    """The results of jobs that run at the same time; an error in one of them is raised."""
    results: list[object] = [None] * len(jobs)
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        try:
            start.wait()
            results[i] = jobs[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@contextmanager
def serving(model: nn.Module, x: Tensor) -> Iterator[list[Tensor]]:
    """Within it, another thread calls the model again and again, and at least once."""
    stop, outputs, errors = threading.Event(), [], []

    def serve() -> None:
        try:
            while not stop.is_set() or not outputs:
                with torch.no_grad():
                    outputs.append(model(x))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield outputs
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


def assert_all_close(found: list[Tensor], expected: Tensor) -> None:
    """Up to rounding: torch chooses other kernels for convolutions while another thread captures."""
    for y in found:
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_conversions_beside_each_other() -> None:
    models = [Model().eval(), images(), Model().eval(), images()]  # made before: they seed torch's one generator
    inputs = [TOKENS, IMAGES, TOKENS, IMAGES]
    alone = [convert(model, x).predict(x) for model, x in zip(models[:2], inputs, strict=False)]
    found = in_threads(*(lambda m=m, x=x: convert(m, x).predict(x) for m, x in zip(models, inputs, strict=True)))
    for i, y in enumerate(found):
        assert torch.equal(y, alone[i % 2])


@torch.no_grad()
def test_one_model_converted_by_several_threads() -> None:
    ann = Model().eval()
    expected, before = convert(ann, TOKENS).predict(TOKENS), ann(TOKENS)
    for y in in_threads(*[lambda: convert(ann, TOKENS).predict(TOKENS)] * 3):
        assert torch.equal(y, expected)
    assert torch.equal(ann(TOKENS), before)


@pytest.mark.parametrize("make", [Model, images])
@torch.no_grad()
def test_the_model_serves_while_it_is_converted(make: Callable[[], nn.Module]) -> None:
    ann = make().eval()
    x = TOKENS if make is Model else IMAGES
    expected, alone = ann(x), convert(ann, x).predict(x)
    with serving(ann, x) as outputs:
        snn = convert(ann, x)
    assert_all_close(outputs, expected)
    assert torch.equal(snn.predict(x), alone)


@torch.no_grad()
def test_another_model_serves_with_gradients_and_without() -> None:
    other, grads = images(), []
    expected = other(IMAGES)

    def trains() -> None:
        with torch.enable_grad():
            for _ in range(20):
                other.zero_grad()
                other(IMAGES).sum().backward()
                grads.append(other[0].weight.grad.clone())

    ann = Model().eval()
    with serving(other, IMAGES) as outputs:
        in_threads(trains, *[lambda: convert(ann, TOKENS)] * 2)
    assert_all_close(outputs, expected)
    assert_all_close(grads, grads[0])
    assert grads[0].abs().sum() > 0


@torch.no_grad()
def test_conversions_in_parts_beside_each_other() -> None:
    expected, models = convert(detector(), IMAGES, PARTS)(IMAGES), [detector(), detector()]
    jobs = [lambda model=model: convert(model, IMAGES, PARTS)(IMAGES) for model in models]
    one, other, names = in_threads(*jobs, lambda: sjpc.convertible_submodules(models[0], [IMAGES]))
    assert same(one, expected) and same(other, expected) and names == PARTS


@pytest.mark.parametrize("execution", ["spikes", "packed", "stepwise"])
@torch.no_grad()
def test_one_network_predicts_in_several_threads(execution: str) -> None:
    snn = convert(Model().eval(), TOKENS)
    snn.execution = execution
    parts = [TOKENS[:4], TOKENS[4:9], TOKENS[9:]]
    expected = [snn.predict(x) for x in parts]
    found = in_threads(*(lambda x=x: [snn.predict(x) for _ in range(10)] for x in parts))
    assert all(torch.equal(y, z) for ys, z in zip(found, expected, strict=True) for y in ys)


@torch.no_grad()
def test_refusals_leave_nothing_behind() -> None:
    class Branching(Model):
        """Cannot be captured."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if swish(x).sum() > -1e9 else x

    ann, branching = Model().eval(), Branching().eval()

    def refused() -> str:
        with pytest.raises(sjpc.ConversionError) as error:
            convert(branching, TOKENS)
        return str(error.value)

    expected = convert(ann, TOKENS).predict(TOKENS)
    one, other, y = in_threads(refused, refused, lambda: convert(ann, TOKENS).predict(TOKENS))
    assert one == other and "cannot capture it" in one and torch.equal(y, expected)
