"""Several processes, each with its share of the data, against one that has all of it."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from in_processes import in_processes
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import ranks
from sj_parallel_conversion.ann2snn.data.sharing import SharedFirst

pytestmark = pytest.mark.timeout(1800)  # six processes on a busy machine
SHARES = {1: [144], 2: [100, 44], 4: [72, 0, 64, 8]}  # images of each process
BATCH = 36


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)).eval()


def images() -> Tensor:
    x = torch.randn(144, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return torch.cat([x[:-2], 0.1 * x[:1], x[:1]])  # one image is there twice, in two processes


def loader(world: int, rank: int) -> list[tuple[Tensor, Tensor]]:
    shares = images().split(SHARES[world])
    return [(x, network()(x).argmax(1)) for x in shares[rank].split(BATCH) if len(x)]


def converted(data: list, calibration: str, ann: nn.Module | None = None, **options: object) -> nn.Module:
    options = {"time_steps": 4, "show_progress": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about calibrations that do no better than others
        return sjpc.ParallelConverter(data, calibration=calibration, **options).convert(ann or network())


def tensors(snn: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in snn.state_dict().items() if isinstance(x, Tensor)}


def error_of(snn: nn.Module) -> float:
    target = network()(images()).detach()
    return float((snn.predict(images()) - target).square().mean() / target.var())


def some_results(world: int, rank: int) -> tuple[dict[str, object], nn.Module]:
    """What is the same for one process and for many, and a network that all have."""
    data, snn = loader(world, rank), converted(images().split(BATCH), "none", distributed=False)
    networks = {c: converted(data, c) for c in ("none", "da_qcfs", "weights")}
    found: dict[str, object] = {c: tensors(each) for c, each in networks.items()}
    found["error"] = error_of(networks["weights"])
    scores = sjpc.evaluate(snn, data, network(), metrics={"mean": lambda y, t: y.mean()}, show_progress=False)
    found["scores"] = (scores.images, scores.accuracy, scores.agreement, scores.metrics["mean"])
    return found, snn


def results(world: int, rank: int) -> dict[str, object]:
    """All that is."""
    data, (found, shared) = loader(world, rank), some_results(world, rank)
    found["least_squares"] = tensors(converted(data, "least_squares"))
    snn = converted(data, "reconstruction")
    found["reconstruction"], found["reconstruction error"] = tensors(snn), error_of(snn)
    found["max"] = tensors(converted(data, "none", threshold="max", input_encoding="spikes"))
    found["operations"] = sjpc.count_operations(shared, data, show_progress=False).rows
    found["errors"] = sjpc.layer_errors(shared, network(), data, show_progress=False).rows
    qat = sjpc.replace_activations(network(), sjpc.QCFS, data, levels=4)
    found["thresholds"] = {name: p.detach() for name, p in qat.named_parameters() if "v_threshold" in name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may find nothing better
        found["losses"] = sjpc.fine_tune(shared, network(), data, epochs=2, show_progress=False).losses
    found["tuned"] = tensors(shared)
    prepared = sjpc.ParallelConverter(data, show_progress=False).prepare(network())
    found["prepared"] = tensors(prepared.convert(time_steps=4, calibration="da_qcfs"))
    return found


def raised(act: Callable[[], object]) -> str:
    """The class and the words of what ``act`` raises."""
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def broken() -> Iterator[Tensor]:
    yield images()[:BATCH]
    raise OSError("the disk is gone")


def of_two(rank: int) -> dict[str, object]:
    return results(2, rank)


def of_four(rank: int) -> dict[str, object]:
    return some_results(4, rank)[0]


def failing(rank: int) -> dict[str, str]:
    """What each process raises where one of them has a failure, or another task."""
    data, found = loader(2, rank), {}
    found["broken"] = raised(lambda: converted(broken() if rank else data, "least_squares"))
    found["empty"] = raised(lambda: converted([], "none"))
    found["other network"] = raised(lambda: converted(data, "none", ann=network(seed=rank)))
    scores = partial(sjpc.evaluate, network(), data, show_progress=False)
    found["other call"] = raised(scores if rank else partial(converted, data, "none"))
    found["alone"] = raised(partial(converted, data, "none", distributed=False)) if rank else "nothing"
    return found


def speaking(rank: int) -> dict[str, object]:
    """What the functions that speak with the others return."""
    with ranks.together(None, "test"):
        means = [torch.full((2,), float(rank)), torch.full((1, 1), 10.0 * rank)]
        ranks.average(means, 1 + 2 * rank)
        with ranks.alone():
            alone = ranks.count(), ranks.total_of(1.0)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            SharedFirst([torch.ones(2)])
            SharedFirst([torch.full((2,), float(rank))])
        return {
            "warned": [str(each.message)[:42] for each in warned],
            "gather": ranks.gather(torch.arange(rank * 3)).tolist(),
            "gather flags": ranks.gather(torch.tensor([rank == 0])).tolist(),
            "before": ranks.before(5 + rank),
            "steps": list(ranks.in_step("ab" if rank else "c")),
            "average": [x.tolist() for x in means],
            "total": ranks.total(torch.tensor([1, 2]) * (rank + 1)).tolist(),
            "largest": ranks.largest_in_rows(torch.ones(2, 3 * rank)).tolist(),
            "from first": ranks.from_first(torch.tensor(rank)).item(),
            "alone": alone,
        }


def documented(rank: int) -> str:
    """What the example of the docs prints."""
    page = Path(__file__).parents[1] / "docs/howto/several-processes.md"
    code = page.read_text().partition("```python\n")[2].partition("```")[0]
    names, printed = {"__name__": "convert"}, io.StringIO()
    exec(code.replace("    distributed.destroy_process_group()\n", ""), names)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        names["main"]()
        return printed.getvalue() + " ".join(os.listdir())


def dying(rank: int) -> str:
    """What the other process raises where one ends in the midst of a conversion."""

    def last() -> Iterator[Tensor]:
        yield images()[:BATCH]
        os._exit(1)

    return raised(lambda: converted(last() if rank else loader(2, rank), "none"))


@pytest.fixture(scope="module")
def two() -> dict[str, list]:
    works = (of_two, failing, speaking, documented, dying)
    return dict(zip([work.__name__ for work in works], in_processes(2, *works), strict=True))


@pytest.fixture(scope="module")
def many(two: dict[str, list]) -> dict[int, list[dict]]:
    return {2: two["of_two"], 4: in_processes(4, of_four)[0]}


@pytest.fixture(scope="module")
def one() -> dict[str, object]:
    return results(1, 0)


def test_all_processes_have_the_same_bits(many: dict[int, list[dict]]) -> None:
    for found in many.values():
        for other in found[1:]:
            for what, value in found[0].items():
                if isinstance(value, dict):
                    assert all(torch.equal(x, other[what][name]) for name, x in value.items()), what
                else:
                    assert value == other[what], what


@pytest.mark.parametrize("world", [2, 4])
def test_they_find_what_one_process_finds(world: int, many: dict[int, list[dict]], one: dict[str, object]) -> None:
    found = many[world][0]
    for name, x in one["max"].items() if world == 2 else ():
        assert torch.equal(found["max"][name], x), name  # maxima, exactly
    # with "weights"; of four, one of which has no data, the sampled places are others, and here better ones
    assert found["error"] < 1.05 * one["error"] and (world == 4 or found["error"] > 0.95 * one["error"])
    if world == 2:
        assert found["reconstruction error"] < 1.2 * one["reconstruction error"]  # other images in each step
    # with an empty share the order of the images is another, and so are the sampled places
    for what in ("none", "least_squares", "weights", "thresholds") if world == 2 else ("none",):
        for name, x in one[what].items():
            torch.testing.assert_close(found[what][name], x, rtol=1e-5, atol=1e-5 * float(x.abs().max()))
    assert found["scores"][:3] == one["scores"][:3] and found["scores"][3] == pytest.approx(one["scores"][3], rel=1e-5)
    for what in {"operations", "errors"} & found.keys():
        for row, other in zip(found[what], one[what], strict=True):
            numbers = [x for x in astuple(other) if not isinstance(x, str)]
            assert [x for x in astuple(row) if not isinstance(x, str)] == pytest.approx(numbers, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("world", [2, 4])
def test_da_qcfs_takes_a_batch_of_each_process_at_a_step(world: int, many: dict[int, list[dict]]) -> None:
    shares = [[x for x, _ in loader(world, rank)] for rank in range(world)]
    if world == 4:  # the process without a batch has the last image of the first one's first batch
        shares[1], shares[0][0] = [shares[0][0][-1:]], shares[0][0][:-1]
    steps = [torch.cat([x for x in each if x is not None]) for each in zip_longest(*shares)]
    for name, x in tensors(converted(steps, "da_qcfs")).items():
        torch.testing.assert_close(many[world][0]["da_qcfs"][name], x, rtol=1e-5, atol=1e-6)
        if world == 2:
            assert torch.equal(many[2][0]["prepared"][name], many[2][0]["da_qcfs"][name])


def test_fine_tuning_of_all_processes(many: dict[int, list]) -> None:
    losses = many[2][0]["losses"]
    assert min(losses) < losses[0]


def test_a_failure_ends_all_processes(two: dict[str, list]) -> None:
    first, second = two["failing"]
    assert second["broken"].startswith("OSError: the disk is gone")
    assert first["broken"].startswith("RankError") and "process 1: OSError: the disk is gone" in first["broken"]
    for found in (first, second):
        assert found["empty"].startswith("DataError: dataloader is empty")
        assert found["other network"].startswith("RankError") and "'net." in found["other network"]
        assert found["other call"].startswith("RankError: the processes do not do the same")
        assert found["alone"] == "nothing"
    assert two["dying"][0].startswith("RankError: another process has not answered") and two["dying"][1] is None


def test_the_example_of_the_docs(two: dict[str, list]) -> None:
    first, second = two["documented"]
    assert first.startswith("256 samples, accuracy ") and first.endswith("\nsnn.sjpc") and second == ""


def test_what_processes_tell_each_other(two: dict[str, list]) -> None:
    first, second = two["speaking"]
    assert first.pop("before") == (0, 11) and second.pop("before") == (5, 11)
    assert first.pop("steps") == ["c", None] and second.pop("steps") == ["a", "b"]
    assert first.pop("warned") == ["all processes have the same first batch, s"] and second.pop("warned") == []
    expected = {"gather": [0, 1, 2], "gather flags": [True, False], "average": [[0.75, 0.75], [[7.5]]], "total": [3, 6]}
    assert first == second == expected | {"largest": [1.0, 1.0], "from first": 0, "alone": (1, [1.0])}


def test_without_a_process_group() -> None:
    assert raised(lambda: converted([images()], "none", distributed=True)).startswith("ConfigError: distributed=True")
    assert raised(lambda: converted([images()], "none", distributed=1)).startswith("ConfigError: distributed must be")
    with ranks.together(None, "test"):
        assert (ranks.count(), ranks.number(), ranks.leads()) == (1, 0, True)
        assert ranks.objects("a") == ["a"] and list(ranks.in_step("ab")) == ["a", "b"]
