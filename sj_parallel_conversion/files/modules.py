"""A tree of modules as JSON and back: a flat list, the outer modules first."""

from __future__ import annotations

from torch import nn

from ..ann2snn.graph.plain import PlainGraph
from ..ann2snn.graph.registry import FunctionActivation
from ..ann2snn.network.standing_for import OF_ANY_MODULE
from ..errors import FileError
from .classes import NAMES, ROWS
from .nodes import decode_nodes, encode_nodes, is_path
from .own import decode_function_activation, decode_own, encode_function_activation, encode_own, is_own
from .tensors import TensorReader, TensorWriter
from .values import Record, decode, encode, need

_DEEPEST = 60  # modules in modules

def encode_modules(root: nn.Module, tensors: TensorWriter) -> list[Record]:
    """
    :param root: a graph module
    :param tensors: takes the parameters and buffers
    :return: the modules as JSON
    :raises FileError: if one of them cannot be saved; the message names it
    """
    names: dict[int, str] = {}
    records = []
    repeated: list[str] = []
    for path, module in root.named_modules(remove_duplicate=False):
        if any(path.startswith(f"{outer}.") for outer in repeated):
            continue
        if id(module) in names:
            repeated.append(path)
            records.append({"path": path, "same": names[id(module)]})
            continue
        names[id(module)] = path
        try:
            need(not path or is_path(path), "its name has characters that a graph cannot hold")
            records.append({"path": path, **_encode_module(module, path, tensors)})
        except FileError as error:
            raise FileError(f"layer {path!r} ({type(module).__name__}): {error}") from error
    for record in records:
        if "same" not in record:
            source = getattr(root.get_submodule(record["path"]), "source", ())
            if isinstance(source, tuple) and len(source) == 1 and id(source[0]) in names:
                record["source"] = names[id(source[0])]
    return records


def _encode_module(module: nn.Module, path: str, tensors: TensorWriter) -> Record:
    record: Record = {**_encode_class(module), "training": module.training}
    own = {**module._parameters, **module._buffers}
    record["tensors"] = {}
    for name, value in own.items():
        if value is not None:
            entry = tensors.put(f"{path}.{name}".lstrip("."), value)
            if name in module._non_persistent_buffers_set:
                entry["persistent"] = False
            record["tensors"][name] = entry
    return record


def _encode_class(module: nn.Module) -> Record:
    if isinstance(module, PlainGraph):
        return {"nodes": encode_nodes(module.graph)}
    if type(module) is FunctionActivation:
        return encode_function_activation(module)
    row = ROWS.get(type(module))
    if row is None and is_own(module):
        return encode_own(module)
    if row is None:
        raise FileError("no file holds modules of this class, and it is not registered (register_leaf)")
    attributes = {name: getattr(module, name) for name in row.attributes}
    record: Record = {"class": type(module).__name__}
    if attributes:
        record["attributes"] = {name: encode(value) for name, value in attributes.items()}
    given = {**module._parameters, **module._buffers}
    shapes = {name: value.detach().to("meta") for name, value in given.items() if value is not None}
    children = {name: child for name, child in module._modules.items() if child is not None}
    _compare(module, row.build(attributes, shapes, {} if row.container else children))
    return record


def _compare(module: nn.Module, twin: nn.Module) -> None:
    """:raises FileError: if somebody has set something on ``module`` that its twin would not have"""
    for name, value in vars(module).items():
        if name not in OF_ANY_MODULE and _is_setting(value) and vars(twin).get(name) != value:
            raise FileError(f"its attribute {name!r} has been set to {value!r}, which a file does not keep")


def _is_setting(value: object) -> bool:
    try:
        encode(value)
    except FileError:  # tensors and modules, which are looked at elsewhere, and what is made of them
        return False
    return True


class ModuleReader:
    """
    Builds the modules of a list.

    :param records: of :func:`encode_modules`, from a file that may be damaged
    :param tensors: has the parameters and buffers
    """

    def __init__(self, records: list[Record], tensors: TensorReader) -> None:
        self._tensors = tensors
        self._records: dict[str, Record] = {}
        self._children: dict[str, list[str]] = {}
        self._built: dict[str, nn.Module | None] = {}
        for record in records:
            path = record["path"]
            need(path == "" or is_path(path), "the name of a module is damaged")
            need(path.count(".") < _DEEPEST, "its modules are nested too deep")
            need(path not in self._records, f"the module {path!r} is there twice")
            self._records[path] = record
            if path:
                parent, _, name = path.rpartition(".")
                need(parent in self._records, f"the module {path!r} is in no other")
                self._children.setdefault(parent, []).append(name)

    def root(self) -> PlainGraph:
        """:return: the graph module. :raises FileError: if a module is damaged; the message names it"""
        root = self._build("")
        if not isinstance(root, PlainGraph):
            raise FileError("its graph is missing")
        for path, record in self._records.items():
            if "source" in record:
                need(record["source"] in self._built, f"layer {path!r} is damaged")
                root.get_submodule(path).source = (self._built[record["source"]],)
        return root

    def _build(self, path: str) -> nn.Module:
        if path in self._built:
            built = self._built[path]
            if built is None:
                raise FileError(f"the module {path!r} is a part of itself")
            return built
        record = self._records[path]
        self._built[path] = None
        if "same" in record:
            need(record["same"] in self._records, f"the module {path!r} is damaged")
            built = self._build(record["same"])
        else:
            names = self._children.get(path, [])
            children = {name: self._build(f"{path}.{name}".lstrip(".")) for name in names}
            try:
                built = self._module(record, children)
            except FileError as error:
                raise FileError(f"layer {path!r}: {error}" if path else str(error)) from error
        self._built[path] = built
        return built

    def _module(self, record: Record, children: dict[str, nn.Module]) -> nn.Module:
        entries, training = record["tensors"], record["training"]
        need(isinstance(training, bool), "it is damaged")
        module: nn.Module
        if "nodes" in record:
            root = nn.Module()
            for name, child in children.items():
                root.add_module(name, child)
            self._tensors.fill(root, entries, any_name=True)
            module = decode_nodes(record["nodes"], root)
        elif "own" in record:
            module = decode_own(record, children)
            self._tensors.fill(module, entries, any_name=True)
        elif "function" in record:
            module = decode_function_activation(record)
        else:
            need(record["class"] in NAMES, f"it is a {str(record['class'])[:80]}, which this version does not know")
            row = ROWS[NAMES[record["class"]]]
            attributes = {name: decode(value) for name, value in record.get("attributes", {}).items()}
            module = row.build(attributes, self._tensors.shapes(entries), children)
            self._tensors.fill(module, entries, any_name=row.container)
        module.training = training
        return module
