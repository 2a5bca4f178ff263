"""
Random networks through the whole conversion: each converts, or is refused with this project's own error. The same 50
in every run; ``pytest --fuzz`` looks at 2,000 new ones.
"""

from __future__ import annotations

import copy
import pickle

import torch
from hypothesis import assume, event, given, note, settings
from hypothesis import strategies as st
from random_nets import BATCH, Inputs, each, networks, run
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData
from sj_parallel_conversion.ann2snn.graph import graph_of
from sj_parallel_conversion.functional import encode
from sj_parallel_conversion.neuron import SpikingNode

PLAIN = {"threshold": "max", "calibration": "none", "show_progress": False}
MODES = st.sampled_from(["parallel", "spikepack", "css"])
CALIBRATIONS = st.sampled_from(["none", "none", "da_qcfs", "least_squares", "weights"])
SHORTCUTS = st.sampled_from(["auto", "membrane"])
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16])

share_of_budget = settings(max_examples=settings().max_examples // 4 + 1)  # four tests
asked = {"converts": 0, "is refused": 0}


def equal(outputs: object, others: object) -> bool:
    pairs = zip(tree_leaves(outputs), tree_leaves(others), strict=True)
    return all(torch.equal(y, z) for y, z in pairs)


def in_dtype(net: tuple[nn.Module, Inputs], dtype: torch.dtype) -> tuple[nn.Module, Inputs]:
    ann, x = net[0].to(dtype), each(net[1], lambda value: value.to(dtype))
    note(str(ann))
    note(str([step for module in ann.modules() for step in getattr(module, "plan", [])]))
    try:
        run(ann, x)
    except NotImplementedError:  # torch has no average pooling of bfloat16 volumes
        assume(False)
    return ann, x


def runs_on_one_sample(ann: nn.Module, x: Inputs) -> bool:
    """Torch normalises no group that has one value, which a group of one sample may have."""
    try:
        run(ann, each(x, lambda value: value[:1]))
    except ValueError as error:
        assert "Expected more than 1 value per channel" in str(error)
        return False
    return True


def relative_error(outputs: object, reference: object) -> float:
    """
    Of all outputs together, squared; relative to 1e-5 at least, because an output that is 0 but for rounding (of the
    normalisation of a single value, say) has no digits to agree with.
    """
    pairs = list(zip(tree_leaves(outputs), tree_leaves(reference), strict=True))
    error = sum((y.double() - z.double()).square().sum() for y, z in pairs)
    smallest = 1e-10 * sum(z.numel() for _, z in pairs)
    return float(error / sum(z.double().square().sum() for _, z in pairs).clamp_min(smallest))


def converted(ann: nn.Module, x: Inputs, **options: object) -> sjpc.SpikingNetwork | None:
    """The spiking network, or ``None`` if it is refused; the ANN must be what it was."""
    before = copy.deepcopy(ann)
    try:
        snn = sjpc.ParallelConverter([x], **PLAIN | options).convert(ann)
    except sjpc.SJPCError as error:
        event(f"refused: {str(error)[:30]}")
        snn = None
    asked["is refused" if snn is None else "converts"] += 1
    for (name, now), then in zip(ann.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(now, then), name
    assert equal(run(ann, x), run(before, x))
    assert [m.training for m in ann.modules()] == [m.training for m in before.modules()]
    return snn


def assert_trains_are_code_words(snn: sjpc.SpikingNetwork, x: Inputs) -> None:
    checked = []

    def check(node: SpikingNode, inputs: tuple[Tensor], train: Tensor) -> None:
        level = node.level(inputs[0][0])
        assert level.abs().max() <= node.code.max_level(node.T) and torch.equal(level, level.round())
        assert node.signed or level.min() >= 0
        assert torch.equal(train.to(level.dtype), encode(level, node.code, node.T, node.signed))
        assert set(train.unique().tolist()) <= set(map(float, node.symbols))
        checked.append(node)

    hooks = [site.node.register_forward_hook(check) for site in snn.neurons()]
    run(snn.predict, x)
    for hook in hooks:
        hook.remove()
    assert len(checked) == len(snn.neurons())


@share_of_budget
@given(
    net=networks(), mode=MODES, T=st.integers(1, 8), calibration=CALIBRATIONS, dtype=DTYPES, per_channel=st.booleans(),
    shortcut=SHORTCUTS,
)  # fmt: skip
@torch.no_grad()
def test_executions_codes_and_round_trips(
    net: tuple[nn.Module, Inputs], mode: str, T: int, calibration: str, dtype: torch.dtype, per_channel: bool,
    shortcut: str,
) -> None:  # fmt: skip
    ann, x = in_dtype(net, dtype)
    options = {"calibration": calibration, "per_channel": per_channel, "shortcut": shortcut}
    snn = converted(ann, x, mode=mode, time_steps=T, **options)
    if snn is None:
        return
    spikes = run(snn.predict, x)
    assert all(torch.isfinite(y).all() for y in tree_leaves(spikes))
    assert_trains_are_code_words(snn, x)
    blank = copy.deepcopy(snn)
    for tensor in (*blank.parameters(), *blank.buffers()):
        tensor.zero_()
    blank.load_state_dict(snn.state_dict())
    for twin in (pickle.loads(pickle.dumps(snn)), copy.deepcopy(snn), blank):
        assert equal(run(twin.predict, x), spikes)
    snn.execution = "packed"
    assert equal(run(snn.predict, x), spikes)


@share_of_budget
@given(
    net=networks(), mode=st.sampled_from(["spikepack", "css"]), dtype=st.sampled_from([torch.float32, torch.float64])
)
@torch.no_grad()
def test_eight_weighted_steps_are_near_the_ann_and_more_are_nearer(
    net: tuple[nn.Module, Inputs], mode: str, dtype: torch.dtype
) -> None:
    """
    Within 5 % at T = 8. A network that amplifies rounding (LayerNorms of two nearly equal features, say) may be
    further off, but then it comes nearer as the levels get finer: 64 times as fine is 4,096 times as near.
    """
    ann, x = in_dtype(net, dtype)
    snn = converted(ann, x, mode=mode, time_steps=8)
    if snn is None:
        return
    expected = run(ann, x)
    error = relative_error(run(snn.predict, x), expected)
    if error > 1e-6:
        later = relative_error(run(converted(ann, x, mode=mode, time_steps=14).predict, x), expected)
        assert later < error
    if error > 0.05:
        event("more than 5 % off at T = 8")
        assert later < error / 200


@share_of_budget
@given(net=networks(), mode=MODES, T=st.sampled_from([1, BATCH, 4]), shortcut=SHORTCUTS)
@torch.no_grad()
def test_time_and_batch_are_never_mixed_up(net: tuple[nn.Module, Inputs], mode: str, T: int, shortcut: str) -> None:
    """In float64, where the size of a batch does not move values across a step of the quantiser."""
    ann, x = in_dtype(net, torch.float64)
    snn = converted(ann, x, mode=mode, time_steps=T, shortcut=shortcut)
    if snn is None:
        return
    expected = run(snn.predict, x)
    close = {"rtol": 1e-6, "atol": 1e-9}
    for i in range(BATCH) if runs_on_one_sample(ann, x) else ():
        alone = run(snn.predict, each(x, lambda value, i=i: value[i : i + 1]))
        torch.testing.assert_close(alone, _select(expected, i), **close)
    larger = each(x, lambda value: torch.cat([value, value]))
    torch.testing.assert_close(_select(run(snn.predict, larger), BATCH), _select(expected, 0), **close)
    snn.step_mode = "m"
    sequence = each(x, lambda value: value.expand(T, *value.shape))
    torch.testing.assert_close(snn.decode(run(snn, sequence)), expected, **close)
    snn.step_mode = "s"
    outputs = [run(snn, x) for _ in range(T)]
    total = [sum(steps) for steps in zip(*map(tree_leaves, outputs), strict=True)]
    torch.testing.assert_close([y / T for y in total], tree_leaves(expected), **close)


@share_of_budget
@given(net=networks())
@torch.no_grad()
def test_the_graph_is_the_ann(net: tuple[nn.Module, Inputs]) -> None:
    """Captured on two samples, in float64: what it gives for one sample and for three is the ANN's, whole or alone."""
    ann, x = in_dtype(net, torch.float64)
    data = CalibrationData([each(x, lambda value: value[:2])], ann, torch.device("cpu"), torch.float64, False)
    model, signature = graph_of(ann, data, torch.device("cpu"))
    for rows in (slice(None), slice(1)):
        inputs = each(x, lambda value, rows=rows: value[rows])
        batch = signature.batch((), inputs) if isinstance(inputs, dict) else signature.batch((inputs,), {})
        found, expected = signature.build(model(*batch.tensors)), run(ann, inputs)
        assert type(found) is type(expected)
        torch.testing.assert_close(tree_leaves(found), tree_leaves(expected), rtol=1e-9, atol=1e-11)


def test_nearly_all_convert() -> None:
    """Of the networks of the tests above: what has no activation at all is refused, and rightly."""
    total = sum(asked.values())
    assert total == 0 or asked["converts"] >= 0.95 * total, asked


def _select(outputs: object, i: int) -> object:
    return torch.utils._pytree.tree_map(lambda y: y[i : i + 1], outputs)
