"""What a user would run in the place of a converted network on a CPU: compilers and other runtimes, float and int8."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

Function = Callable[[Tensor], object]


def rivals(ann: nn.Module, snn: sjpc.SpikingNetwork, x: Tensor, folder: Path) -> dict[str, Function]:
    """
    :param ann: the network as it was given
    :param snn: what it was converted to
    :param x: an input, whose batch size the files have
    :param folder: for files
    :return: functions of ``x``, by name. What is not installed is left out, with a word
    """
    found: dict[str, Function] = {"ANN, torch.compile": torch.compile(ann)}
    if not _installed("onnx", "onnxscript", "onnxruntime"):
        return found
    file = folder / "ann.onnx"
    torch.onnx.export(ann, (x,), file, input_names=["x"], dynamo=True, external_data=False, verbose=False)
    int8 = _quantised(file, x)
    sjpc.export_onnx(snn, folder / "integers.onnx", integers=True)
    found["ANN, ONNX Runtime, float"] = onnx_runtime(file)
    found["ANN, ONNX Runtime, int8 (static, QDQ, per channel)"] = onnx_runtime(int8)
    found["parallel, export_onnx(integers=True), ONNX Runtime"] = onnx_runtime(folder / "integers.onnx")
    if _installed("openvino"):
        found["ANN, OpenVINO, int8 (the same file)"] = openvino(int8)
    return found


def onnx_runtime(file: Path) -> Function:
    """:param file: with one input. :return: a function that runs it, on as many threads as torch"""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})[0]


def openvino(file: Path) -> Function:
    """:param file: with one input. :return: a function that runs it, on as many threads as torch"""
    from openvino import Core

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = Core().compile_model(str(file), "CPU", options)
    return lambda x: model([x.numpy()])[0]


def _quantised(file: Path, x: Tensor) -> Path:
    """The same network with int8 weights and activations, as ONNX Runtime's documentation advises for CPUs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, np.ndarray]] = iter([{"x": x.numpy()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared, int8 = file.with_suffix(".prepared.onnx"), file.with_suffix(".int8.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(int8), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return int8


def _installed(*names: str) -> bool:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out, because it is not installed: {', '.join(missing)}")
    return not missing
