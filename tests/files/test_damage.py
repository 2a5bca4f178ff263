"""Files that are damaged, altered, of another version, or hostile: each is an error of its own, and none runs code."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from saved import change, module_of, same, small
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.files import container
from sj_parallel_conversion.files.conditions import check_condition
from sj_parallel_conversion.files.operators import decode_function
from sj_parallel_conversion.files.values import decode, encode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a small network."""
    sjpc.save(small()[0], tmp_path / "network.sjpc")
    return tmp_path / "network.sjpc"


def refused(path: Path, words: str) -> None:
    """Loading is an error with these words, and with the file's name."""
    with pytest.raises(sjpc.FileError, match=words) as caught:
        sjpc.load(path)
    assert str(path) in str(caught.value)


def with_metadata(path: Path, **entries: str) -> None:
    """Change words of the header, and nothing else."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= entries
    words = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + content[8 + length :])


def test_each_kind_of_damage_has_its_message(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    refused(tmp_path / "none", "no such file")
    refused(tmp_path, "no such file")
    path.write_bytes(b"")
    refused(path, "no header of safetensors")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(path, "no file of a network")
    path.write_bytes(whole[:100])
    refused(path, "cut off: it ends before its header")
    path.write_bytes(whole[:-10])
    refused(path, "cut off: .* bytes are needed")
    path.write_bytes(whole[:-10] + b"0123456789")
    refused(path, "altered")
    path.write_bytes(whole + b"more")
    refused(path, "altered")
    path.write_bytes(struct.pack("<Q", 2**62) + whole[8:])
    refused(path, "no header")
    path.write_bytes(struct.pack("<Q", 20_000) + b"[" * 20_000)
    refused(path, "no JSON|tensors alone")
    save_file({"x": torch.ones(2)}, path)
    refused(path, "tensors alone")
    save_file({"x": torch.ones(2)}, path, {"format": "pt"})
    refused(path, "not made by sjpc.save")


def test_a_newer_format_and_what_it_brings(path: Path) -> None:
    with_metadata(path, version="2", package="9.9")
    refused(path, r"format 2, which sj_parallel_conversion 9.9 .* install a newer one")
    with_metadata(path, version="1; import os")
    refused(path, "version is no number")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s["network"]["config"].update(colour=3), "option 'colour', which this version does not know"),
        (lambda s: s["network"]["config"].update(time_steps=0), "time_steps must be"),
        (lambda s: s["network"]["config"].update(time_steps=4), "another number of steps"),
        (lambda s: operator(s, "cat").update(target="aten::no_such"), "operator 'aten::no_such', which this version"),
        (lambda s: operator(s, "cat").update(target="aten::cat.none"), "which torch .* lacks"),
        (lambda s: operator(s, "cat").update(target="aten::from_file"), "does not know"),
        (lambda s: operator(s, "cat").update(target="aten::add_.Tensor"), "does not know"),
        (lambda s: operator(s, "cat").update(target="aten::add.out"), "lacks"),
        (lambda s: operator(s, "cat").update(target="os.system"), "does not know"),
        (lambda s: operator(s, "cat").update(target="aten::__class__"), "does not know"),
        (lambda s: operator(s, "cat").update(target="aten::cat.__call__"), "lacks"),
        (lambda s: operator(s, "cat").update(name="x): import os #"), "no name of its own"),
        (lambda s: operator(s, "cat").update(name="import"), "no name of its own"),
        (lambda s: operator(s, "cat").update(kwargs={"dict": [["a=1, b", 1]]}), "names that are none"),
        (lambda s: operator(s, "cat").update(args={"tuple": [{"node": "later"}]}), "not there"),
        (lambda s: operator(s, "cat").update(target="construct", args={"tuple": [1, "from_file"]}), "does not know"),
        (lambda s: s["network"]["modules"][0]["nodes"].pop(), "no end"),
        (lambda s: module_of(s, "a").update({"class": "Popen"}), "layer 'a': it is a Popen"),
        (lambda s: module_of(s, "a").update({"class": None, "own": "os.system"}), "layer 'a': .*register_leaf"),
        (lambda s: module_of(s, "a")["attributes"].update(out_channels=10**12), "layer 'a': the file has a tensor"),
        (lambda s: module_of(s, "a")["attributes"].update(colour=1), "layer 'a': it has other settings"),
        (lambda s: module_of(s, "a")["tensors"].pop("weight"), "layer 'a': the file lacks its tensors weight"),
        (lambda s: module_of(s, "a")["tensors"]["weight"].update(name="none"), "the tensor 'none' is missing"),
        (lambda s: module_of(s, "a")["tensors"].update(forward={"name": "a.weight"}), "the layer has none"),
        (lambda s: s["network"]["modules"].append({"path": "z", "same": "z"}), "a part of itself"),
        (lambda s: s["network"]["modules"].append({"path": 'z"]', "same": "a"}), "name of a module"),
        (lambda s: s["network"]["modules"].append({"path": "a"}), "there twice"),
        (lambda s: s["network"].update(modules=[]), "damaged"),
        (lambda s: s["network"].update(execution="eval"), "execution"),
        (lambda s: condition(s, "__import__('os').system('true')"), "more than arithmetic"),
        (lambda s: s["network"]["signature"]["sizes"].update(batch="x.y"), "sizes of its inputs"),
        (lambda s: s["network"]["signature"]["sample"].clear(), "form of its inputs"),
        (lambda s: s["network"]["signature"]["outputs"].update(structure={"tuple": [1]}), "outputs"),
        (lambda s: s.clear(), "damaged"),
    ],
)  # fmt: skip
def test_hostile_structures(path: Path, edit: Callable[[dict], None], words: str) -> None:
    change(path, lambda structure: None)
    sjpc.load(path)
    change(path, edit)
    refused(path, words)


def operator(structure: dict, name: str) -> dict:
    """A node of the graph."""
    return next(node for node in structure["network"]["modules"][0]["nodes"] if node["name"] == name)


def condition(structure: dict, text: str) -> None:
    """Put a condition on sizes into a file."""
    structure["network"]["signature"]["sizes"]["conditions"] = [[text, []]]


def test_nested_and_endless_values(path: Path) -> None:
    def nest(structure: dict) -> None:
        value: list = []
        for _ in range(400):
            value = [value]
        operator(structure, "cat")["args"] = {"tuple": value}

    change(path, nest)
    refused(path, "nested too deep")
    with_metadata(path, network="[" * 100_000)
    refused(path, "altered")
    paths = [".".join(["z"] * depth) for depth in range(1, 100)]
    records = [{"path": name, "class": "Module", "training": False, "tensors": {}} for name in paths]
    sjpc.save(small()[0], path)
    change(path, lambda s: s["network"]["modules"].extend(records))
    refused(path, "its modules are nested too deep")
    sjpc.save(small()[0], path)
    lstm = {"num_layers": 10**9, "input_size": 2, "hidden_size": 2, "bias": True, "batch_first": True, "dropout": 0.0,
            "bidirectional": False, "proj_size": 0}  # fmt: skip
    record = {"path": "lstm", "class": "LSTM", "training": False, "tensors": {}, "attributes": lstm}
    change(path, lambda s: s["network"]["modules"].append(record))
    refused(path, "1000000000 layers")


@pytest.mark.parametrize(
    "text",
    ["s0 < 5 and not (s1 % 2 == 0)", "max(1, s0 // 2) >= 3 or s0 - 1 != s1", "math.floor(s0 / 2) <= -1 + abs(s1)"],
)
def test_conditions_on_sizes(text: str) -> None:
    check_condition(text, {"s0", "s1"})


@pytest.mark.parametrize(
    "text",
    ["s2 < 5", "().__class__", "math.factorial(9)", "max(s0, key=abs)", "[s0 for s0 in (1,)]", "lambda: 1", "9**9**9",
     "s0 if s1 else 2", "'a' * 3", "1 << 99", "(" * 500 + "1" + ")" * 500, "-" * 9_000 + "1", "1\x00", "min",
     "(s0 := 1)", "s0.real", "print(1)", "-" * 50_000 + "1", "f'{s0}'", "math.inf", "1 < 2 ** 5", 3],
)  # fmt: skip
def test_conditions_that_are_more(text: object) -> None:
    with pytest.raises(sjpc.FileError):
        check_condition(text, {"s0", "s1"})


def test_values() -> None:
    values = [
        None, True, 3, -2.5, float("inf"), "word", (1, [2, (3,)]), {"a": (1,), 2: None}, slice(1, None, 2), 1 + 2j,
        torch.float16, torch.channels_last, torch.device("cuda:1"), torch.Size([1, 2]), ..., torch.strided, [], (),
    ]  # fmt: skip
    again = decode(json.loads(json.dumps(encode(values))))
    assert again == values and list(map(type, again)) == list(map(type, values))
    for damaged in ({"dtype": "Tensor"}, {"device": "a b"}, {"float": "1"}, {"node": "x"}, {}, {"tuple": 1, "dict": 2}):
        with pytest.raises(sjpc.FileError):
            decode(damaged)
    with pytest.raises(sjpc.FileError, match="object cannot be saved"):
        encode(object())


def test_no_operator_reaches_beyond_tensors() -> None:
    for name in (
        "aten::save", "aten::from_file", "aten::_print", "aten::set_.source_Tensor", "prim::Print", "aten::wait",
        "aten::resize_", "c10d::broadcast", "eval", "__import__", "aten::add.Tensor\n", None, 3,
    ):  # fmt: skip
        with pytest.raises(sjpc.FileError):
            decode_function(name)


def test_a_crash_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    snn, x = small()
    for place in ("fsync", "replace", "chmod"):
        with monkeypatch.context() as patched:
            patched.setattr(container.os, place, fail)
            with pytest.raises(KeyboardInterrupt):
                sjpc.save(snn, path)
        assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(sjpc.FileError, match=r"network cannot be saved: there is no folder .*no_folder$"):
        sjpc.save(snn, path.parent / "no_folder" / "network")
    with pytest.raises(sjpc.FileError, match="it is a folder"):
        sjpc.save(snn, path.parent)
    link = path.parent / "link"
    link.symlink_to(path)
    os.chmod(path, 0o640)
    sjpc.save(snn, link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert same(sjpc.load(path).predict(x), snn.predict(x))


def fail(*args: object) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_saved_is_named(path: Path) -> None:
    before = path.read_bytes()
    snn, _ = small()
    with pytest.raises(sjpc.ConfigError, match="save takes a converted network, got Linear"):
        sjpc.save(nn.Linear(2, 2), path)
    snn.net.a.padding_mode = "circular"
    sjpc.save(snn, path)
    snn.net.a.extra = 3
    with pytest.raises(sjpc.FileError, match=r"layer 'a' \(Conv2d\): its attribute 'extra' has been set to 3"):
        sjpc.save(snn, path)
    del snn.net.a.extra
    snn.net.a = nn.utils.parametrizations.weight_norm(snn.net.a)
    with pytest.raises(sjpc.FileError, match=r"layer 'a' \(ParametrizedConv2d\): no file holds"):
        sjpc.save(snn, path)
    assert path.read_bytes() != before
