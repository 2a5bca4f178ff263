"""Files go to processes that have neither the code of the model nor the device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from saved import change, same, small

import sj_parallel_conversion as sjpc

LOADER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchvision", "transformers", "nets", "saved"):
            raise ImportError(name)

def watch(event, args):
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "ctypes.dlopen"):
        raise AssertionError(event)

sys.meta_path.insert(0, Refuse())
import torch
import sj_parallel_conversion as sjpc
x = torch.load(sys.argv[2], weights_only=True)
sys.addaudithook(watch)
snn = sjpc.load(sys.argv[1])
with torch.no_grad():
    for execution in ("spikes", "packed", "stepwise"):
        snn.execution = execution
        torch.save(snn.predict(x), sys.argv[2] + execution)
"""


@torch.no_grad()
def test_another_process_without_the_code_of_the_model(tmp_path: Path) -> None:
    snn, x = small()
    sjpc.save(snn, tmp_path / "network")
    torch.save(x, tmp_path / "x")
    root = Path(sjpc.__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", LOADER, str(tmp_path / "network"), str(tmp_path / "x")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path)
    for execution in ("spikes", "packed", "stepwise"):
        snn.execution = execution
        assert same(torch.load(tmp_path / f"x{execution}", weights_only=True), snn.predict(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
@torch.no_grad()
def test_a_network_of_the_cuda_kernel_runs_on_torch_without_one(tmp_path: Path) -> None:
    snn, x = small()
    sjpc.save(snn, tmp_path / "network.sjpc")

    def as_on_a_gpu(structure: dict) -> None:
        structure["network"]["config"]["backend"] = "cupy"
        structure["device"] = "cuda:7"
        for record in structure["network"]["modules"]:
            if "backend" in record.get("attributes", {}):
                record["attributes"]["backend"] = "cupy"

    change(tmp_path / "network.sjpc", as_on_a_gpu)
    with pytest.warns(UserWarning, match="run on torch"):
        other = sjpc.load(tmp_path / "network.sjpc")
    assert other.backend == "torch" and same(snn.predict(x), other.predict(x))
