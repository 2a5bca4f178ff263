"""Quantisers: levels by integer arithmetic, gradients by finite differences of the clipped line."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sj_parallel_conversion.functional import clip_relu, clip_to_bytes, clip_to_levels, da_qcfs, level, qcfs
from sj_parallel_conversion.functional.quantise import full_precision

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
dyadic = st.integers(-256, 256).map(lambda n: n / 32)  # exact in every dtype, and so are sums and halves of them
powers = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])


def exact_level(x: float, theta: float, levels: int, psi: float) -> int:
    """Rational arithmetic: no rounding anywhere."""
    k = math.floor((Fraction(x) * levels + Fraction(psi)) / Fraction(theta))
    return min(max(k, 0), levels)


def line(x: torch.Tensor, theta: torch.Tensor, levels: int, shift, amplitude, psi) -> torch.Tensor:
    """DA-QCFS without floor: what the gradients are of."""
    psi = theta / 2 if psi is None else psi
    amplitude = theta if amplitude is None else amplitude
    return ((x + shift) * levels + psi).div(theta).clamp(0, levels) * amplitude / levels


@pytest.mark.parametrize("dtype", DTYPES)
@given(x=dyadic, theta=powers, levels=st.integers(1, 64), psi=st.one_of(st.none(), dyadic))
def test_level_is_exact_ties_included(dtype: torch.dtype, x: float, theta: float, levels: int, psi: float) -> None:
    threshold = full_precision(torch.tensor(theta, dtype=dtype))
    y = qcfs(torch.tensor([x], dtype=dtype), threshold, levels, None if psi is None else torch.tensor(psi))
    k = exact_level(x, theta, levels, theta / 2 if psi is None else psi)
    assert y.dtype == dtype
    assert y.item() == pytest.approx(k * theta / levels, rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("theta", [0.5, 1.0, 8.0])
def test_ties_go_up(theta: float, levels: int) -> None:
    k = torch.arange(1, levels + 1, dtype=torch.float32)
    tie = (k - 0.5) * theta / levels
    assert torch.equal(qcfs(tie, torch.tensor(theta), levels), k * theta / levels)
    below = tie - theta / levels / 1024
    assert torch.equal(qcfs(below, torch.tensor(theta), levels), (k - 1) * theta / levels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_stays_in_its_range(dtype: torch.dtype) -> None:
    x = torch.tensor([-math.inf, -1e4, -0.0, 0.0, 1e4, math.inf], dtype=dtype)
    assert qcfs(x, torch.tensor(3.0), 4).tolist() == [0, 0, 0, 0, 3, 3]
    assert qcfs(torch.tensor([math.nan]), torch.tensor(3.0), 4).isnan().all()


def test_da_qcfs_without_corrections_is_qcfs() -> None:
    x = torch.linspace(-2, 6, 401)
    assert torch.equal(da_qcfs(x, torch.tensor(4.0), 8), qcfs(x, torch.tensor(4.0), 8))


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_da_qcfs_equation(levels: int) -> None:
    x = torch.linspace(-2, 6, 1001, dtype=torch.float64)
    theta, shift, phi = 3.3, 0.21, -0.4
    expected = (theta + phi) / levels * torch.clip(torch.floor(((x + shift) * levels + theta / 2) / theta), 0, levels)
    actual = da_qcfs(x, torch.tensor(theta).double(), levels, shift, torch.tensor(theta + phi).double())
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("given_psi", [False, True])
@pytest.mark.parametrize("levels", [1, 4, 7])
def test_gradients_are_those_of_the_clipped_line(levels: int, given_psi: bool) -> None:
    """Central differences in float64 of the line, at points that are not on its two corners."""
    values = {
        "x": torch.linspace(-1.013, 3.017, 60).double().view(5, 4, 3),
        "theta": torch.tensor([0.7, 1.3, 2.1, 3.1]).double().view(4, 1),
        "shift": torch.tensor([0.1, -0.2, 0.03, 0.0]).double().view(4, 1),
        "amplitude": torch.tensor([0.9, 1.2, 2.4, 3.0]).double().view(4, 1),
        "psi": torch.tensor(0.37).double() if given_psi else None,
    }
    weights = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    wanted = [name for name, value in values.items() if value is not None]
    leaves = {n: v if v is None else v.clone().requires_grad_() for n, v in values.items()}
    x, theta, shift, amplitude, psi = leaves.values()
    (da_qcfs(x, theta, levels, shift, amplitude, psi) * weights).sum().backward()

    def loss(**changed: torch.Tensor) -> torch.Tensor:
        x, theta, shift, amplitude, psi = (values | changed).values()
        return (line(x, theta, levels, shift, amplitude, psi) * weights).sum()

    for name in wanted:
        value, step = values[name], 1e-6
        numeric = torch.zeros_like(value)
        for i in range(value.numel()):
            delta = torch.zeros(value.numel(), dtype=torch.float64)
            delta[i] = step
            delta = delta.view_as(value)
            difference = loss(**{name: value + delta}) - loss(**{name: value - delta})
            numeric.view(-1)[i] = difference / (2 * step)
        torch.testing.assert_close(leaves[name].grad, numeric, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_threshold_gradient_of_qcfs_by_hand() -> None:
    """theta reaches the output three times: as divisor, as amplitude, and through psi = theta / 2."""
    x = torch.tensor([-1.0, 0.5, 1.0, 5.0])
    theta = torch.tensor(2.0, requires_grad=True)
    for i, expected in enumerate([0.0, 0.125, 0.125, 1.0]):  # 1 / (2 levels) on the slope, 1 where clipped
        (grad,) = torch.autograd.grad(qcfs(x, theta, 4)[i], theta)
        assert grad.item() == pytest.approx(expected)


@given(x=dyadic, theta=powers, levels=st.integers(1, 16))
def test_value_does_not_depend_on_gradients(x: float, theta: float, levels: int) -> None:
    x = torch.tensor([x, -x, x / 3])
    with_grad = qcfs(x.clone().requires_grad_(), torch.tensor(theta, requires_grad=True), levels)
    assert torch.equal(with_grad, qcfs(x, torch.tensor(theta), levels))


@pytest.mark.parametrize("frozen", ["x", "theta"])
def test_one_of_the_arguments_may_be_frozen(frozen: str) -> None:
    x = torch.linspace(-1, 3, 9).requires_grad_(frozen != "x")
    theta = torch.tensor(2.0).requires_grad_(frozen != "theta")
    qcfs(x, theta, 4).sum().backward()
    assert (x.grad is None) == (frozen == "x") and (theta.grad is None) == (frozen == "theta")


def test_inputs_are_not_written_to() -> None:
    x, theta, psi = torch.linspace(-1, 3, 9), torch.tensor(2.0), torch.tensor(0.5)
    before = [v.clone() for v in (x, theta, psi)]
    da_qcfs(x, theta, 4, 0.0, theta, psi)
    level(x, theta, psi, 4)
    level(x, 1.0, 0.0, 4)
    clip_relu(x, theta)
    assert all(torch.equal(a, b) for a, b in zip((x, theta, psi), before, strict=True))


@given(total=dyadic, theta=powers, psi=dyadic, top=st.integers(1, 64), signed=st.booleans())
def test_level_of_signed_and_unsigned_codes(total: float, theta: float, psi: float, top: int, signed: bool) -> None:
    low = -top if signed else 0
    k = min(max(math.floor((Fraction(total) + Fraction(psi)) / Fraction(theta)), low), top)
    assert level(torch.tensor([total]), theta, psi, top, low).item() == k


@pytest.mark.parametrize("max_level", [1, 32, 127, 128, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("overwrite", [False, True])
def test_bytes_are_levels(max_level: int, dtype: torch.dtype, overwrite: bool) -> None:
    ends = [-1e30, -300.0, -0.5, -0.0, 0.0, 0.999, 1.0, 31.999, 32.0, 254.999, 255.0, 256.0, 300.5, 70000.0, 1e30]
    line = torch.cat([torch.tensor([*ends, -math.inf, math.inf], dtype=dtype), torch.linspace(-3, 300, 999).to(dtype)])
    given, expected = line.clone(), clip_to_levels(line, max_level)
    found = clip_to_bytes(given, max_level, overwrite)
    assert found.dtype == torch.uint8 and torch.equal(found.to(dtype), expected)
    assert overwrite or torch.equal(given, line)


def test_level_gradient() -> None:
    total = torch.tensor([-1.0, 0.6, 1.7, 9.0], requires_grad=True)
    (grad,) = torch.autograd.grad(level(total, torch.tensor(2.0), 0.5, 3).sum(), total)
    assert grad.tolist() == [0, 0.5, 0.5, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_relu(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1.0, 0.5, 9.0], [0.0, 2.0, 3.0]], dtype=dtype)
    y = clip_relu(x, torch.tensor([1.0, 1.5, 4.0]))
    assert y.dtype == dtype and y.tolist() == [[0, 0.5, 4.0], [0.0, 1.5, 3.0]]


def test_clip_relu_gradient() -> None:
    x = torch.linspace(-1.03, 3.01, 12, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip_relu, (x, theta))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
def test_full_precision(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert full_precision(torch.zeros(2, dtype=dtype)).dtype == expected
