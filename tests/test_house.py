"""The package's house is in order. Each check reads a folder's code, and is shown to fail on a folder that is not."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sj_parallel_conversion"

# Lowest first. A module may import from its own room and from those before it. A folder is one room; that of the
# package and that of ann2snn hold rooms, so there only the __init__ is one.
ROOMS = (
    "version", "errors", "user_warnings", "ranks", "atomic_file", "hooks", "torch_inplace", "torch_compat", "compat",
    "parameters", "functional", "kernels", "neuron",
    "ann2snn.config", "ann2snn.data", "ann2snn.graph", "ann2snn.placement", "ann2snn.calibration", "ann2snn.folding",
    "ann2snn.network", "ann2snn.cpu", "ann2snn.__init__", "analysis", "ann2snn.draft", "ann2snn.choice",
    "ann2snn.prepared", "ann2snn.recipe", "ann2snn.converter", "suggestion",
    "training", "files", "export", "converter_modes", "registration", "__init__", "cli", "__main__",
)  # fmt: skip
MOST_LINES = 300
MAY_IMPORT_SPIKINGJELLY = {"compat", "registration"}
# Private modules and functions of torch that are used outside torch_compat. Take out what is gone; add nothing.
PRIVATE_TORCH = {
    "torch_inplace": {"torch._ops"},
    "ann2snn.cpu.prepack": {
        "torch.ops.mkldnn._convolution_pointwise", "torch.ops.mkldnn._reorder_convolution_weight",
    },
    "ann2snn.graph.build": {"torch.ops.aten._to_copy"},
}  # fmt: skip


def modules(folder: Path) -> dict[str, ast.Module]:
    """The code of a package, by names such as ``ann2snn.graph.affine`` and ``ann2snn.__init__``."""
    paths = sorted(folder.rglob("*.py"))
    return {".".join(p.relative_to(folder).with_suffix("").parts): ast.parse(p.read_text()) for p in paths}


def imports(folder: Path, name: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """
    All imports of a module, those in functions and under TYPE_CHECKING, too.

    :param folder: the package
    :param name: of the module
    :param tree: its code
    :return: the name that the module uses, and the full name, such as ``F`` and ``torch.nn.functional``
    """
    package = [folder.name, *name.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0], alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*start, *filter(None, [node.module])])
            yield from ((alias.asname or alias.name, f"{source}.{alias.name}") for alias in node.names)


def own_imports(folder: Path) -> dict[str, set[str]]:
    """For each module of a package, which of the package's modules it imports."""
    trees = modules(folder)

    def module_of(full: str) -> str:
        parts = full.split(".")[1:]
        while parts:  # what is imported may be a module, a package, or something in one of them
            for name in (".".join(parts), ".".join([*parts, "__init__"])):
                if name in trees:
                    return name
            parts.pop()
        return "__init__"

    return {
        name: {module_of(full) for _, full in imports(folder, name, tree) if full.split(".")[0] == folder.name}
        for name, tree in trees.items()
    }


def room(name: str) -> int | None:
    """The place of a module's room in :data:`ROOMS`; ``None`` if it has no room."""
    return next((i for i, r in enumerate(ROOMS) if name == r or name.startswith(f"{r}.")), None)


def homeless(folder: Path) -> list[str]:
    """The modules that are in no room."""
    return [name for name in modules(folder) if room(name) is None]


def upward(folder: Path) -> list[str]:
    """The imports from a room above a module's own."""
    pairs = [(name, other) for name, others in own_imports(folder).items() for other in sorted(others)]
    housed = [(a, b) for a, b in pairs if room(a) is not None and room(b) is not None]
    return [f"{a} imports {b}" for a, b in housed if room(b) > room(a)]


def circle(folder: Path) -> list[str]:
    """Modules that import each other in a circle; empty if there are none."""
    try:
        TopologicalSorter(own_imports(folder)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def too_long(folder: Path) -> list[str]:
    """The files that have too many lines."""
    return [path.name for path in folder.rglob("*.py") if len(path.read_text().splitlines()) > MOST_LINES]


def spikingjelly_users(folder: Path) -> set[str]:
    """The modules that import SpikingJelly."""
    each = ((name, full) for name, tree in modules(folder).items() for _, full in imports(folder, name, tree))
    return {name for name, full in each if full.split(".")[0] == "spikingjelly"}


def private_torch(folder: Path) -> dict[str, set[str]]:
    """
    The private modules and functions of torch that modules use, in imports and as attributes. Base classes such as
    ``_ConvNd`` are left out: they stand in public modules. So is torch_compat, whose task this is.
    """
    found = {}
    for name, tree in modules(folder).items():
        imported = list(imports(folder, name, tree))
        # `import torch.nn` makes the name torch stand for torch, not for torch.nn.
        meaning = {local: local if full.startswith(f"{local}.") else full for local, full in imported}
        used = {full for _, full in imported}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                first, _, rest = ast.unparse(node).partition(".")
                used.add(f"{meaning.get(first)}.{rest}")
        private = {match[0] for match in map(re.compile(r"torch(\.\w+)*?\._[a-z]\w*").match, used) if match}
        if private and name != "torch_compat":
            found[name] = private
    return found


def calibrations(folder: Path) -> tuple[set[str], set[str]]:
    """The names that the option ``calibration`` takes, and those that stand in the table of algorithms."""

    def value(path: str) -> ast.expr:
        for node in ast.parse((folder / path).read_text()).body:
            if re.match(r"CALIBRATIONS\b", ast.unparse(node)):
                return node.value
        raise LookupError(f"{path} has no CALIBRATIONS")

    names = ast.literal_eval(value("ann2snn/config.py"))
    table = value("ann2snn/calibration/__init__.py")
    return set(names), {ast.literal_eval(key) for key in table.keys}


def write(folder: Path, **files: str) -> Path:
    """
    :param folder: where to put a made-up package
    :param files: its modules, with ``__`` for the dots in their names, and their code
    :return: the package
    """
    package = folder / "sj_parallel_conversion"
    for name, code in files.items():
        path = package.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return package


def test_every_module_is_in_a_room(tmp_path: Path) -> None:
    assert len(modules(PACKAGE)) > 50 and homeless(PACKAGE) == []
    package = write(tmp_path, errors="", errors_of_all="", ann2snn__graph__new="", ann2snn__new="")
    assert homeless(package) == ["ann2snn.new", "errors_of_all"]


def test_no_import_goes_upward(tmp_path: Path) -> None:
    assert upward(PACKAGE) == []
    package = write(
        tmp_path,
        errors="",
        kernels__launch="from ..errors import ConfigError\nfrom .fused import run\nimport torch.nn",
        kernels__fused="def run():\n    from ..neuron import SpikingNode",
        neuron__base="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..ann2snn.config import MODES",
        ann2snn__config="from .. import analysis",
        ann2snn__graph__units="import sj_parallel_conversion.registration as r",
        registration="from sj_parallel_conversion import unregister",
        analysis__macs="from ..ann2snn import config",
    )
    for name in ("__init__", "neuron/__init__", "analysis/__init__"):
        (package / f"{name}.py").touch()
    assert upward(package) == [
        "ann2snn.config imports analysis.__init__",
        "ann2snn.graph.units imports registration",
        "kernels.fused imports neuron.__init__",
        "neuron.base imports ann2snn.config",
        "registration imports __init__",
    ]


def test_no_imports_in_a_circle(tmp_path: Path) -> None:
    assert circle(PACKAGE) == []
    package = write(
        tmp_path,
        neuron__base="from . import serial",
        neuron__serial="def late():\n    from .tsa import TSANode",
        neuron__tsa="from sj_parallel_conversion.neuron.base import SpikingNode",
    )
    assert set(circle(package)) == {"neuron.base", "neuron.serial", "neuron.tsa"}


def test_wheels_have_all_files() -> None:
    settings = ConfigParser()
    settings.read(PACKAGE.parent / "setup.cfg")
    patterns = settings["options.package_data"]["sj_parallel_conversion"].split(",")
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern.strip())}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert packed == files and len(files) >= 3


def test_no_file_is_too_long(tmp_path: Path) -> None:
    assert too_long(PACKAGE) == []
    assert too_long(write(tmp_path, errors="\n" * 300, hooks="\n" * 301)) == ["hooks.py"]


def test_the_options_are_the_algorithms(tmp_path: Path) -> None:
    names, algorithms = calibrations(PACKAGE)
    assert names == algorithms
    package = write(tmp_path, ann2snn__config='CALIBRATIONS = ("none", "new")', ann2snn__calibration__all="")
    (package / "ann2snn/calibration/__init__.py").write_text('CALIBRATIONS: dict[str, object] = {"none": none}')
    assert calibrations(package) == ({"none", "new"}, {"none"})


def test_few_modules_import_spikingjelly(tmp_path: Path) -> None:
    assert spikingjelly_users(PACKAGE) <= MAY_IMPORT_SPIKINGJELLY
    package = write(
        tmp_path,
        compat="from spikingjelly.activation_based import neuron",
        hooks="def late():\n    import spikingjelly.activation_based as sj",
        errors="from spikingjelly_tools import x\nfrom .spikingjelly import y",
    )
    assert spikingjelly_users(package) == {"compat", "hooks"}


def test_private_parts_of_torch(tmp_path: Path) -> None:
    assert private_torch(PACKAGE) == PRIVATE_TORCH
    package = write(
        tmp_path,
        compat="import torch\nimport torch.nn as nn\ndef f(x):\n    torch._assert(x, '')\n    nn.Module._call_impl(x)",
        hooks="from torch.utils import _pytree\nimport torch._dynamo.config",
        errors="from torch.nn.modules.conv import _ConvNd\nimport torch\ntorch.__version__\nx._buffers",
        torch_compat="from torch.utils._pytree import tree_map",
    )
    assert private_torch(package) == {
        "compat": {"torch._assert", "torch.nn.Module._call_impl"},
        "hooks": {"torch.utils._pytree", "torch._dynamo"},
    }


def repeated_basenames(folder: Path) -> list[str]:
    """Names that two test files have. pytest imports a test file by its name alone, so it stops at the second one."""
    names = Counter(path.name for path in folder.rglob("test_*.py"))
    return [name for name, times in names.items() if times > 1]


def test_no_two_test_files_have_one_name() -> None:
    assert not repeated_basenames(Path(__file__).parent)


def test_two_test_files_of_one_name_are_found(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test_same.py").touch()
    assert repeated_basenames(tmp_path) == ["test_same.py"]
