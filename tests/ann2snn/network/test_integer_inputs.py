"""Sequences of integers and bools: their mean frame is shown, exactly where they stay the same, or they are refused."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

T = 4
EXECUTIONS = {"css": ["spikes", "packed", "stepwise", "serial"], "parallel": ["spikes", "packed", "stepwise"]}
RUNS = [(mode, execution) for mode, executions in EXECUTIONS.items() for execution in executions]


class Events(nn.Module):
    """Counts of events become floats in the forward, as usual for frames on disk."""

    def __init__(self, to_float=Tensor.float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_float = to_float
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

    def forward(self, events: Tensor) -> Tensor:
        return self.body(self.to_float(events))


class WithScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.events = Events()

    def forward(self, events: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.events(events) * scale, "scale": scale}


class Tokens(nn.Module):
    def __init__(self, use) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.use, self.embedding = use, nn.Embedding(12, 8)
        self.body = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.use(self, ids))


def frames(dtype: torch.dtype) -> Tensor:
    """The first frame is empty, as often in recordings of events."""
    x_seq = torch.randint(0, 2 if dtype == torch.bool else 6, (T, 3, 2, 6, 6), generator=torch.manual_seed(1))
    x_seq[0] = 0
    return x_seq.to(dtype)


def convert(ann: nn.Module, *batches: object, mode: str = "css") -> sjpc.SpikingNetwork:
    options = {"calibration": "none", "threshold": "max", "show_progress": False}
    return sjpc.ParallelConverter(list(batches), mode=mode, time_steps=T, **options).convert(ann.eval())


@torch.no_grad()
def decoded(snn: sjpc.SpikingNetwork, *args: Tensor, **kwargs: Tensor) -> object:
    functional.set_step_mode(snn, "m")
    return snn.decode(snn(*args, **kwargs))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize(("mode", "execution"), RUNS)
def test_changing_integers_are_shown_as_their_mean_frame(mode: str, execution: str, dtype: torch.dtype) -> None:
    x_seq = frames(dtype)
    snn = convert(Events(), x_seq.flatten(0, 1), mode=mode)
    snn.execution = execution
    y, mean = decoded(snn, x_seq), x_seq.float().mean(0)
    torch.testing.assert_close(y, decoded(snn, x_seq.float()), rtol=0, atol=0)
    torch.testing.assert_close(y, snn.predict(mean), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y, decoded(snn, x_seq.flip(0)), rtol=1e-4, atol=1e-5)  # whichever frame is first


@pytest.mark.parametrize("execution", EXECUTIONS["css"])
@pytest.mark.parametrize("copied", [True, False])
def test_integers_that_stay_the_same_stay_integers(execution: str, copied: bool) -> None:
    ids = torch.randint(0, 12, (5, 3))
    ann = Tokens(lambda m, ids: m.embedding(ids))
    snn = convert(ann, ids)
    snn.execution = execution
    x_seq = ids.expand(T, *ids.shape)
    y = decoded(snn, x_seq.clone() if copied else x_seq)
    torch.testing.assert_close(y, snn.predict(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "to_float",
    [lambda x: x / 255, lambda x: x.flatten(2).unflatten(2, (6, 6)).float(), lambda x: (x * 2 - 3).log1p().nan_to_num(),
     lambda x: x.clamp(max=4) * 0.5],
    ids=["quotient", "moved", "function", "clamped"],
)  # fmt: skip
@pytest.mark.parametrize("execution", ["spikes", "stepwise"])
def test_ways_to_become_floats(to_float, execution: str) -> None:
    x_seq = frames(torch.int64)
    snn = convert(Events(to_float), x_seq.flatten(0, 1))
    snn.execution = execution
    torch.testing.assert_close(decoded(snn, x_seq), snn.predict(x_seq.float().mean(0)), rtol=1e-4, atol=1e-5)


def test_a_network_that_was_calibrated_on_floats_takes_integers() -> None:
    x_seq = frames(torch.uint8)
    snn = convert(Events(), x_seq.flatten(0, 1).float())
    assert torch.equal(decoded(snn, x_seq), decoded(snn, x_seq.float()))


@pytest.mark.parametrize("execution", ["spikes", "packed", "stepwise"])
def test_several_inputs_of_which_one_is_of_integers(execution: str) -> None:
    x_seq, scale = frames(torch.uint8), torch.rand(3, 1)
    snn = convert(WithScale(), {"events": x_seq[1], "scale": scale})
    snn.execution = execution
    y = decoded(snn, events=x_seq, scale=scale.expand(T, 3, 1))
    expected = snn.predict(events=x_seq.float().mean(0), scale=scale)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


USES = {
    "indices": lambda m, ids: m.embedding(ids),
    "cast before": lambda m, ids: m.embedding(ids.long() + 1),
    "index": lambda m, ids: m.embedding.weight[ids],
    "mask": lambda m, ids: torch.zeros(8).expand(*ids.shape, 8).masked_fill((ids > 0).unsqueeze(-1), 1.0),
    "where": lambda m, ids: torch.where(ids.bool().unsqueeze(-1), m.embedding.weight[0], 0.0),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("execution", ["spikes", "packed", "serial"])
def test_changing_ids_and_masks_are_refused(use: str, execution: str) -> None:
    ids = torch.randint(0, 10, (T, 5, 3), dtype=torch.int32)
    snn = convert(Tokens(USES[use]), ids[0])
    snn.execution = execution
    with pytest.raises(sjpc.DataError, match=r"'ids' changes from step to step.*torch.int32.*snn.predict"):
        decoded(snn, ids)


def test_a_part_names_the_mean_of_integers_too() -> None:
    x_seq = frames(torch.uint8)
    converter = sjpc.ParallelConverter([x_seq[1]], time_steps=T, show_progress=False)
    snn = converter.convert(Events().eval(), submodules=["body"])
    with pytest.raises(sjpc.DataError, match=r"x_seq.float\(\).mean\(0\)"):
        snn(x_seq)


def test_integers_in_an_output_decode_to_themselves_or_to_their_mean() -> None:
    snn = convert(Events(), frames(torch.uint8)[1])
    same = torch.full((T, 3), 7)
    assert torch.equal(snn.decode(same), same[0]) and snn.decode(same).dtype == torch.int64
    assert torch.equal(snn.decode(torch.arange(T).view(T, 1)), torch.tensor([1.5]))
