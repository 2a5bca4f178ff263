"""The seed decides every random choice of a conversion, and the global generator is left alone."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc

OPTIONS = {"time_steps": 4, "show_progress": False}


@pytest.fixture(scope="module")
def ann() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(160, 1, 14, 14, generator=torch.Generator().manual_seed(1))


class Augmented(TensorDataset):
    """Adds noise of torch's global generator, as random crops would."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(x + 0.1 * torch.randn(x.shape) for x in super().__getitem__(index))


def converted(ann: nn.Module, loader: object, **options: object) -> list[Tensor]:
    snn = sjpc.ParallelConverter(loader, **OPTIONS, **options).convert(ann)
    return [value.clone() for value in snn.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
def test_the_same_seed_gives_the_same_network(ann: nn.Module, images: Tensor, calibration: str) -> None:
    networks = []
    for state in (3, 4):  # of the global generator, which must not matter
        torch.manual_seed(state)
        loader = DataLoader(Augmented(images), 32, shuffle=True)
        networks.append(converted(ann, loader, calibration=calibration, seed=5))
    assert equal(*networks)


@pytest.mark.parametrize("calibration", ["least_squares", "weights"])
def test_another_seed_takes_other_samples(ann: nn.Module, images: Tensor, calibration: str) -> None:
    networks = [converted(ann, list(images.split(32)), calibration=calibration, seed=seed) for seed in (0, 1)]
    assert not equal(*networks)


@pytest.mark.parametrize("submodules", [None, ["0", "2"]])
def test_the_global_generator_is_left_as_it_was(
    ann: nn.Module, images: Tensor, submodules: list[str] | None
) -> None:
    ann = nn.Sequential(ann[:2], nn.Identity(), ann[2:]) if submodules else ann
    loader = DataLoader(Augmented(images), 32, shuffle=True)
    before = torch.get_rng_state()
    options = OPTIONS | {"calibration": "weights"}
    sjpc.ParallelConverter(loader, **options).convert(ann, submodules=submodules)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_that_fails_leaves_it_too(ann: nn.Module, images: Tensor) -> None:
    class Failing(Augmented):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            if torch.rand(()) < 0.1:
                raise OSError("file is gone")
            return super().__getitem__(index)

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="file is gone"):
        converted(ann, DataLoader(Failing(images), 32))
    assert torch.equal(torch.get_rng_state(), before)


def test_conversions_beside_each_other_draw_what_they_draw_alone(ann: nn.Module, images: Tensor) -> None:
    def convert(seed: int) -> list[Tensor]:
        return converted(ann, DataLoader(Augmented(images), 32, shuffle=True), calibration="none", seed=seed)

    results: dict[int, list[Tensor]] = {}
    threads = [threading.Thread(target=lambda s=s: results.update({s: convert(s)})) for s in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, network in results.items():
        # torch turns oneDNN off for the whole process while it captures, so that the other thread's sums are rounded in
        # another way. Other random numbers change values by per cents.
        for value, alone in zip(network, convert(seed), strict=True):
            torch.testing.assert_close(value, alone, rtol=1e-5, atol=1e-6)
    assert len(results) == 2
