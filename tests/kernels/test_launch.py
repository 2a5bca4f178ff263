"""The launch: compiling for GPUs without one, and what CuPy is asked to do."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from forms import DTYPES
from host_kernel import launch_on_host

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import CODES
from sj_parallel_conversion.kernels import fused, launch


def compile_for_gpu(macros: tuple[str, ...], architecture: str) -> str:
    """The PTX of node.cu. NVRTC comes with every torch for CUDA and needs no GPU."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC (cuda-bindings, as in a torch for CUDA)")
    try:
        nvrtc.nvrtcVersion()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"needs NVRTC: {error}")
    _, program = nvrtc.nvrtcCreateProgram(launch.source().encode(), b"node.cu", 0, [], [])
    options = [*launch.COMPILER_OPTIONS, *(f"-D{macro}" for macro in macros), f"--gpu-architecture={architecture}"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    ptx = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.decode()


@pytest.mark.parametrize("code", fused.CODES)
@pytest.mark.parametrize("emitted", [None, torch.int8])
@pytest.mark.parametrize("stored", DTYPES)
def test_compiles_for_gpus(code: str, stored: torch.dtype, emitted: torch.dtype | None) -> None:
    widest = fused.BYTES_PER_LOAD // stored.itemsize
    for vector, wide, architecture in ((widest, False, "compute_90"), (1, True, "compute_75")):
        macros = fused._macros(stored, emitted or stored, CODES[code], vector, wide)
        ptx = compile_for_gpu(macros, architecture)
        assert all(f".visible .entry {entry}(" in ptx for entry in ("spike_train", "decoded_level"))
        assert "fma." not in ptx, "a product and a sum were contracted"
        if vector * stored.itemsize == 16:
            assert "ld.global.v" in ptx, "not read 16 bytes at once"


def test_source_names_what_it_cannot_compile() -> None:
    macros = ("STORED=float", "COMPUTE=float", "EMITTED=float", "CODE=Ternary", "VECTOR=1", "INDEX=uint32")
    with pytest.raises(AssertionError, match="Ternary"):
        compile_for_gpu(macros, "compute_90")


class Entered:
    """A context manager that notes when it is entered."""

    def __init__(self, log: list, *what: object) -> None:
        self.log, self.what = log, what

    def __enter__(self) -> None:
        self.log.append(self.what)

    def __exit__(self, *error: object) -> None:
        self.log.append(("left", *self.what))


@pytest.fixture
def log(compiler: None, monkeypatch: pytest.MonkeyPatch) -> list:
    """What a stand-in for CuPy, with the host in the place of a GPU, was asked to do."""
    log = []
    monkeypatch.setattr(launch, "check_device", lambda owner, x, parameters: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    stream = SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)

    class RawKernel:
        def __init__(self, code: str, name: str, options: tuple[str, ...]) -> None:
            assert code == launch.source() and options[:2] == launch.COMPILER_OPTIONS
            log.append(("compiled", name))
            self.name, self.macros = name, tuple(option.removeprefix("-D") for option in options[2:])

        def __call__(self, grid: tuple, block: tuple, arguments: tuple) -> None:
            log.append(("launched", self.name))
            assert block == (launch.THREADS_PER_BLOCK,) and len(grid) == 1
            launch_on_host(self.name, self.macros, arguments, grid[0] * block[0], torch.device("cpu"))

    cuda = SimpleNamespace(
        Device=lambda index: Entered(log, "device", index),
        ExternalStream=lambda pointer, index: Entered(log, "stream", pointer),
        Stream=SimpleNamespace(),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawKernel=RawKernel, cuda=cuda))
    launch._compiled.cache_clear()
    yield log
    launch._compiled.cache_clear()


def test_runs_on_torch_s_device_and_stream_and_compiles_once(log: list) -> None:
    node, x = sjpc.TSANode(4, torch.tensor([0.5, 1.0, 2.0]), backend="cupy"), torch.randn(5, 3)
    spikes = node(x.expand(4, 5, 3))
    assert log == [
        ("device", None),
        ("stream", 77),
        ("compiled", "spike_train"),
        ("launched", "spike_train"),
        ("left", "stream", 77),
        ("left", "device", None),
    ]
    assert torch.equal(node(x.expand(4, 5, 3)), spikes)
    assert [entry[0] for entry in log].count("compiled") == 1
    node.backend = "torch"
    assert torch.equal(node(x.expand(4, 5, 3)), spikes)


def test_takes_the_stream_protocol_where_there_is_one(log: list, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(__cuda_stream__=lambda: (0, 78))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    from_external = lambda external: Entered(log, "stream", external.__cuda_stream__()[1])  # noqa: E731
    monkeypatch.setattr(sys.modules["cupy"].cuda.Stream, "from_external", from_external, raising=False)
    sjpc.ParallelConversionNode(2, backend="cupy")(torch.ones(2, 3))
    assert ("stream", 78) in log


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_batches_launch_nothing(log: list, shape: tuple[int, ...]) -> None:
    node = sjpc.ParallelConversionNode(4, backend="cupy")
    assert node(torch.zeros(4, *shape)).shape == (4, *shape)
    assert node.decoded(torch.zeros(shape)).shape == shape
    assert log == []
