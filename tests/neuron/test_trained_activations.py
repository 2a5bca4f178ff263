"""QCFS, DAQCFS and ClipReLU: any rank, any channel axis, trainable, and refused arguments."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc

THETA = torch.tensor([0.5, 1.0, 3.0])


def _da_qcfs(theta: torch.Tensor, channel_dim: int) -> sjpc.DAQCFS:
    corrections = (theta / 8, theta / 16) if isinstance(theta, torch.Tensor) else ()
    return sjpc.DAQCFS(4, theta, *corrections, channel_dim=channel_dim)


ACTIVATIONS = [
    pytest.param(lambda theta, dim: sjpc.QCFS(4, theta, channel_dim=dim), id="QCFS"),
    pytest.param(_da_qcfs, id="DAQCFS"),
    pytest.param(lambda theta, dim: sjpc.ClipReLU(theta, channel_dim=dim), id="ClipReLU"),
]


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2


@pytest.mark.parametrize("make", ACTIVATIONS)
@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((2, 3), 1), ((2, 3, 5), 1), ((2, 3, 4, 5), 1), ((2, 3, 2, 4, 5), 1), ((2, 5, 3), -1), ((2, 4, 5, 3), -1)],
)
def test_channel_thresholds_are_scalar_thresholds_of_each_channel(make, shape, channel_dim: int) -> None:
    x = some(*shape)
    y = make(THETA, channel_dim)(x)
    assert y.shape == x.shape
    for c, theta in enumerate(THETA):
        assert torch.equal(y.select(channel_dim, c), make(theta, channel_dim)(x.select(channel_dim, c)))


@pytest.mark.parametrize("make", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("module_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_of_the_input_is_kept(make, dtype: torch.dtype, module_dtype: torch.dtype) -> None:
    x = some(4, 3).to(dtype)
    for theta in (THETA, THETA[2]):
        y = make(theta, 1).to(module_dtype)(x)
        assert y.dtype == dtype
        reference = make(theta, 1).double()(x.double())
        torch.testing.assert_close(y.double(), reference, atol=0, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("make", ACTIVATIONS)
@pytest.mark.parametrize("theta", [THETA, THETA[2]])
def test_every_parameter_learns(make, theta: torch.Tensor) -> None:
    activation = make(theta, 1)
    x = some(16, 3).requires_grad_()
    activation(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    for name, parameter in activation.named_parameters():
        assert parameter.grad.shape == parameter.shape, name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("make", ACTIVATIONS)
def test_gradients_on_the_module_are_those_of_the_line(make) -> None:
    """In float64, against central differences of the same module with very many levels."""
    activation = make(torch.tensor([0.7, 1.3, 3.1]), 1).double()
    x = (some(40, 3).double() + 0.0123).requires_grad_()
    weights = some(40, 3).double()
    (activation(x) * weights).sum().backward()

    def line(x: torch.Tensor) -> torch.Tensor:
        theta = activation.v_threshold
        if isinstance(activation, sjpc.ClipReLU):
            return (torch.minimum(x.relu(), theta) * weights).sum()
        shift, phi = (getattr(activation, name, torch.zeros(())) for name in ("shift", "phi"))
        return (((x + shift) * 4 + theta / 2).div(theta).clamp(0, 4) * (theta + phi) / 4 * weights).sum()

    with torch.no_grad():
        for tensor in [x, *activation.parameters()]:
            flat, grad = tensor.view(-1), tensor.grad.view(-1)
            for i in range(flat.numel()):
                here, step = flat[i].item(), 1e-6
                flat[i] = here + step
                above = line(x)
                flat[i] = here - step
                assert grad[i].item() == pytest.approx(((above - line(x)) / (2 * step)).item(), abs=1e-5)
                flat[i] = here


@pytest.mark.parametrize("initial", [0.3, 1.8])
def test_gradient_descent_finds_the_range_of_the_data(initial: float) -> None:
    x = torch.linspace(-1, 2, 301)
    activation = sjpc.QCFS(8, initial)
    optimiser = torch.optim.SGD(activation.parameters(), lr=0.5)
    for _ in range(60):
        optimiser.zero_grad()
        (activation(x) - x.clamp(0, 1)).square().mean().backward()
        optimiser.step()
    assert activation.v_threshold.item() == pytest.approx(1.0, abs=0.02)


def test_psi() -> None:
    x = some(4, 3)
    assert torch.equal(sjpc.QCFS(4, THETA)(x), sjpc.QCFS(4, THETA, psi=THETA / 2)(x))
    assert not torch.equal(sjpc.QCFS(4, THETA)(x), sjpc.QCFS(4, THETA, psi=0.0)(x))
    assert sjpc.QCFS(4).psi is None and sjpc.QCFS(4).v_threshold.item() == 8.0


def test_default_corrections_are_none() -> None:
    x = some(4, 3)
    assert torch.equal(sjpc.DAQCFS(4, THETA)(x), sjpc.DAQCFS(4, THETA, 0.0, 0.0, THETA / 2)(x))
    assert torch.equal(sjpc.DAQCFS(4, THETA)(x), sjpc.QCFS(4, THETA)(x))
    assert {act.v_threshold.item() for act in (sjpc.QCFS(4), sjpc.DAQCFS(4), sjpc.ClipReLU())} == {8.0}
    maps = some(4, 3, 2)
    for make in (sjpc.ClipReLU, lambda *args: sjpc.QCFS(4, *args), lambda *args: sjpc.DAQCFS(4, *args)):
        assert torch.equal(make(THETA)(maps)[:, 1:2], make(THETA[1:2])(maps[:, 1:2]))


@pytest.mark.parametrize("make", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3), (3,)])
def test_wrong_channels(make, shape: tuple[int, ...]) -> None:
    activation = make(THETA, 1)
    with pytest.raises(sjpc.DataError, match=f"{type(activation).__name__} has parameters for 3 channels") as error:
        activation(torch.zeros(shape))
    assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize("cls", [sjpc.QCFS, sjpc.DAQCFS])
@pytest.mark.parametrize("levels", [0, -1, 2.5, True, "4", None])
def test_levels_that_are_refused(cls: type[nn.Module], levels: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"{cls.__name__}: levels must be an integer >= 1"):
        cls(levels)


@pytest.mark.parametrize("make", ACTIVATIONS)
@pytest.mark.parametrize("theta", [0, -1.0, float("nan"), float("inf"), "x", torch.ones(2, 2), torch.tensor([1.0, 0])])
def test_thresholds_that_are_refused(make, theta: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"(QCFS|DAQCFS|ClipReLU): v_threshold must be"):
        make(theta, 1)


@pytest.mark.parametrize("name", ["shift", "phi", "psi"])
def test_other_parameters_that_are_refused(name: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"DAQCFS: {name} must be"):
        sjpc.DAQCFS(4, **{name: float("nan")})


@pytest.mark.parametrize("make", ACTIVATIONS)
def test_pickle_deepcopy_and_state_dict(make) -> None:
    x, activation = some(4, 3), make(THETA, 1)
    fresh = make(torch.ones(3), 1)
    fresh.load_state_dict(activation.state_dict())
    for other in (copy.deepcopy(activation), pickle.loads(pickle.dumps(activation)), fresh):
        assert torch.equal(other(x), activation(x))
        assert repr(other) == repr(activation)


def test_repr() -> None:
    assert repr(sjpc.QCFS(4)) == "QCFS(levels=4, channels=any, channel_dim=1)"
    assert repr(sjpc.ClipReLU(THETA, -1)) == "ClipReLU(channels=3, channel_dim=-1)"
