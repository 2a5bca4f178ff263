"""The options: defaults, and what is refused with the valid ones listed."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration import CALIBRATIONS
from sj_parallel_conversion.ann2snn.config import MODES


def test_defaults() -> None:
    assert sjpc.ConversionConfig().as_dict() == {
        "mode": "parallel",
        "time_steps": 8,
        "threshold": "mse",
        "calibration": "least_squares",
        "per_channel": True,
        "fold": True,
        "show_progress": True,
        "backend": "torch",
        "input_encoding": "analogue",
        "spiking_inputs": False,
        "strict": False,
        "max_batches": None,
        "max_memory": None,
        "distillation_epochs": None,
        "shortcut": "auto",
        "free_sizes": None,
        "seed": 0,
        "keep": (),
        "output_neurons": True,
        "filled_levels": 1.0,
        "frame_tau": 1.0,
        "distributed": None,
    }


@pytest.mark.parametrize(
    ("option", "value", "listed"),
    [
        ("mode", "paralel", list(MODES)),
        ("mode", None, list(MODES)),
        ("mode", ["parallel"], list(MODES)),
        ("calibration", "da-qcfs", list(CALIBRATIONS)),
        ("calibration", None, list(CALIBRATIONS)),
        ("threshold", "min", ["'mse'", "'max'", "'99.9%'"]),
        ("threshold", "0%", ["'mse'", "'max'"]),
        ("threshold", "101%", ["'mse'", "'max'"]),
        ("threshold", "nan%", ["'mse'", "'max'"]),
        ("threshold", "99.9", ["'mse'", "'max'"]),
        ("threshold", "%", ["'mse'", "'max'"]),
        ("threshold", "mse ", ["'mse'", "'max'"]),
        ("threshold", "", ["'mse'", "'max'"]),
        ("threshold", ["mse"], ["'mse'", "'max'"]),
        ("threshold", 0.5, ["'mse'", "'max'"]),
        ("threshold", None, ["'mse'", "'max'"]),
        ("threshold", torch.tensor([1.0, 2.0]), ["'mse'", "'max'"]),
        ("time_steps", 0, ["integer >= 1"]),
        ("time_steps", -1, ["integer >= 1"]),
        ("time_steps", 2.5, ["integer >= 1"]),
        ("time_steps", 8.0, ["integer >= 1"]),
        ("time_steps", True, ["integer >= 1"]),
        ("time_steps", "4", ["integer >= 1"]),
        ("time_steps", None, ["integer >= 1"]),
        ("time_steps", 10**30, ["is too long", "fewer time-steps"]),
        ("per_channel", 1, ["True or False"]),
        ("fold", None, ["True or False"]),
        ("show_progress", "yes", ["True or False"]),
        ("max_memory", -1, ["GiB >= 0"]),
        ("max_memory", "1GB", ["GiB >= 0"]),
        ("max_memory", float("nan"), ["GiB >= 0"]),
        ("max_batches", 0, ["None or an integer >= 1"]),
        ("max_batches", 2.0, ["None or an integer >= 1"]),
        ("max_batches", True, ["None or an integer >= 1"]),
        ("distillation_epochs", -1, ["None or an integer >= 0"]),
        ("distillation_epochs", 2.0, ["None or an integer >= 0"]),
        ("distillation_epochs", True, ["None or an integer >= 0"]),
        ("seed", -1, ["integer from 0"]),
        ("seed", 2**63, ["integer from 0"]),
        ("seed", 1.0, ["integer from 0"]),
        ("seed", True, ["integer from 0"]),
        ("seed", None, ["integer from 0"]),
        ("backend", "triton", ["'torch'", "'cupy'"]),
        ("backend", None, ["'torch'", "'cupy'"]),
        ("backend", ["cupy"], ["'torch'", "'cupy'"]),
        ("input_encoding", "rate", ["'analogue'", "'spikes'"]),
        ("input_encoding", None, ["'analogue'", "'spikes'"]),
        ("shortcut", "current", ["'auto'", "'spikes'", "'membrane'"]),
        ("shortcut", None, ["'auto'", "'spikes'", "'membrane'"]),
        ("shortcut", True, ["'auto'", "'spikes'", "'membrane'"]),
        ("output_neurons", None, ["True or False"]),
        ("filled_levels", 0, ["above 0", "at most 1"]),
        ("filled_levels", 1.5, ["above 0", "at most 1"]),
        ("filled_levels", True, ["above 0", "at most 1"]),
        ("filled_levels", "0.67", ["above 0", "at most 1"]),
        ("frame_tau", 0.5, ["number >= 1"]),
        ("frame_tau", True, ["number >= 1"]),
        ("frame_tau", float("nan"), ["number >= 1"]),
        ("frame_tau", 1e9, ["too large for T=8", "smaller base"]),
    ],
)
@pytest.mark.parametrize("make", ["config", "recipe", "converter"])
def test_refused(make: str, option: str, value: object, listed: list[str]) -> None:
    def build() -> object:
        if make == "config":
            return sjpc.ConversionConfig(**{option: value})
        cls = sjpc.ParallelConversionRecipe if make == "recipe" else sjpc.ParallelConverter
        return cls([], **{option: value})

    with pytest.raises(sjpc.ConfigError, match=option) as error:
        build()
    assert repr(value) in str(error.value)
    assert all(valid in str(error.value) for valid in listed)


def test_strict_and_analogue_outputs_exclude_each_other() -> None:
    with pytest.raises(sjpc.ConfigError, match=r"strict=True.*output_neurons=False"):
        sjpc.ConversionConfig(strict=True, output_neurons=False)


@pytest.mark.parametrize("mode", ["spikepack", "css"])
@pytest.mark.parametrize("time_steps", [25, 64, 1000])
def test_weighted_codes_have_a_longest_train(mode: str, time_steps: int) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"mode='{mode}' with time_steps={time_steps}: .*T <= 24"):
        sjpc.ParallelConverter([], mode=mode, time_steps=time_steps)
    assert sjpc.ParallelConverter([], mode=mode, time_steps=24).recipe.config.time_steps == 24
    assert sjpc.ParallelConverter([], time_steps=time_steps).recipe.config.time_steps == time_steps


@pytest.mark.parametrize("threshold", ["mse", "max", "99.9%", "100%", "0.5%", "50 %"])
def test_thresholds_that_are_taken(threshold: str) -> None:
    assert sjpc.ConversionConfig(threshold=threshold).threshold == threshold


@pytest.mark.parametrize(
    "make", [sjpc.ConversionConfig.from_options, lambda **options: sjpc.ParallelConversionRecipe([], **options)]
)
def test_unknown_options_are_refused_and_the_known_listed(make) -> None:
    with pytest.raises(sjpc.ConfigError, match="'steps'") as error:
        make(steps=8)
    assert all(name in str(error.value) for name in sjpc.ConversionConfig().as_dict())


def test_is_plain_data() -> None:
    config = sjpc.ConversionConfig(time_steps=4, threshold="99%")
    assert sjpc.ConversionConfig(**json.loads(json.dumps(config.as_dict()))) == config
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    with pytest.raises(AttributeError):
        config.time_steps = 8


def test_errors_are_value_errors() -> None:
    """So that code which catches what SpikingJelly raises goes on working."""
    assert issubclass(sjpc.SJPCError, ValueError)
    for error in (sjpc.ConfigError, sjpc.DataError, sjpc.ConversionError, sjpc.RegistrationError):
        assert issubclass(error, sjpc.SJPCError)


def test_numbers_of_any_kind() -> None:
    numbers = {"time_steps": np.int64(4), "distillation_epochs": torch.tensor(2), "max_memory": np.float32(1)}
    config = sjpc.ConversionConfig(**numbers)
    assert config.time_steps == 4 and config.distillation_epochs == 2
    assert type(config.time_steps) is type(config.distillation_epochs) is int
    with pytest.raises(sjpc.ConfigError, match="time_steps must be an integer"):
        sjpc.ConversionConfig(time_steps=np.True_)
