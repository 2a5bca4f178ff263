"""Replacing the ReLUs of an ANN by trainable activations, to fine-tune before converting."""

from __future__ import annotations

import copy
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import reduce
from itertools import count
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..ann2snn import graph
from ..ann2snn.data.batches import CalibrationData
from ..ann2snn.data.source import Source
from ..ann2snn.graph.side_effects import undone
from ..errors import ConfigError, ConversionError, DataError, SJPCError
from ..neuron.activations import DAQCFS, QCFS, ClipReLU
from ..user_warnings import warn
from .interceptor import ActivationInPlace, ActivationPerCall, Calls, Interceptor, calls_for_its_caller
from .making import check_arguments, make_activation
from .relus import SPELLINGS, ReLUCall, is_relu, modules_of, named, names_in, prepare_layers_of_torch, upper_of
from .start import Placed, StartOptions, has_no_start, start_from_data

_CHILDREN = {"children", "named_children", "modules", "named_modules", "_modules"}
# Makes an activation for the module of this name, with this training flag, for a ReLU that cuts at this value.
Make = Callable[[str, bool, float], nn.Module]
# Of a ReLU: the name of the ReLU module that makes it, if one does, the function, and the value at which it cuts.
SeenCall = tuple[str | None, str, float]
Forwards = list[list[SeenCall]]  # the calls in each forward of a module


def replace_activations(
    ann: nn.Module,
    activation: Callable[..., nn.Module],
    dataloader: Iterable[Any] | None = None,
    threshold: str = "mse",
    per_channel: bool = False,
    max_batches: int | None = 32,
    distributed: bool | None = None,
    **kwargs: object,
) -> nn.Module:
    """
    Put trainable activations in the places of the ReLUs of ``ann``. The network keeps its classes, its code, and what
    they do in training mode (auxiliary outputs, say). A ReLU module that is called once is replaced by its activation.
    A module that calls ReLUs as functions or methods gets the activations as children, which are called in the ReLUs'
    places. One ReLU module that is called several times becomes a list of activations, one for each call.

    Thresholds start from the data, by the rule of a conversion to as many levels. They stay at a ``v_threshold`` that
    is given, and at the default of the activation without a ``dataloader``.

    The calls of a module are told apart by their order in one ``forward``. They are found by running copies of ``ann``
    on the first batch, in evaluation and in training mode. Another number of calls later is an error that names the
    module, and so is a ReLU in a function that is given to ``torch.utils.checkpoint``. ReLUs of parameters, in hooks
    and inside a ``torch.autograd.Function`` stay.

    :param ann: a network with ReLUs (modules, functions or methods); it is left as it was
    :param activation: what to put in their places: :class:`~sj_parallel_conversion.QCFS`, ``DAQCFS``, ``ClipReLU``,
        or any callable that makes a module. Activations other than ReLU, ReLU6 and their like stay, with a warning
    :param dataloader: batches as for a conversion. It can be left out where all ReLUs are modules, each called once
    :param threshold: how thresholds are chosen from the data, as in a conversion: ``"mse"`` (the least squared error of
        the rounded activation), ``"max"`` or a percentile such as ``"99.9%"``. ``ClipReLU`` rounds nothing, so that its
        ``"mse"`` is ``"max"``
    :param per_channel: one threshold a channel along ``channel_dim``, or one a layer, as in the paper
    :param max_batches: how many batches are read; ``None``: all
    :param distributed: whether the thresholds start from the data of all processes of ``torch.distributed``, each of
        which gives its share. ``None``: if a process group is initialised
    :param kwargs: handed to each ``activation(...)``, such as ``levels=4``
    :return: a network with the same parameters and training flags
    :raises ConversionError: if ``ann`` has no ReLU to replace, or calls one where nothing can be put
    :raises ConfigError: if ``activation`` cannot be called with ``kwargs``, or a ``dataloader`` is needed
    :raises DataError: if ``ann`` does not run on the first batch
    """
    if not callable(activation) or isinstance(activation, nn.Module):
        raise ConfigError(f"activation must be a class such as sj_parallel_conversion.QCFS, got {activation!r}")
    check_arguments(activation, kwargs)
    options = StartOptions(threshold, per_channel, max_batches)
    options.check()
    unset = has_no_start(activation, kwargs)
    measured = unset and dataloader is not None
    if not measured:
        options.check_unused()
    with ranks.together(distributed, "replace_activations"):
        result, others = _with_activations(ann, activation, dataloader, options, unset, kwargs)
    if unset and not measured:
        warn(
            "replace_activations without data: thresholds start at the default of 8.0, whatever the activations are. "
            "Give dataloader=..., or v_threshold=..."
        )
    if others is not None:
        _warn_of_others(others)
    return result


def _with_activations(
    ann: nn.Module,
    activation: Callable[..., nn.Module],
    dataloader: Iterable[Any] | None,
    options: StartOptions,
    unset: bool,
    kwargs: dict[str, object],
) -> tuple[nn.Module, dict[str, set[str]] | None]:
    """:return: a copy of ``ann`` with activations, and the other activations that its modules call, by their names"""
    model, made = graph.plain_copy(ann), []

    def make(name: str, training: bool, upper: float) -> nn.Module:
        near = (p for part in (model.get_submodule(name), model) for p in part.parameters() if p.is_floating_point())
        made.append(Placed(make_activation(activation, kwargs).to(next(near, torch.empty(0))).train(training), upper))
        return made[-1].activation

    prepare_layers_of_torch(model)
    if dataloader is None:
        _check_without_data(model)
        result, data, others = _swap_modules(model, set(), make), None, None
    else:
        _give_each_name_its_own_relu(model)
        data = _data_for(model, dataloader, options.max_batches)
        result, others = _replaced(model, data, make)
    if not made:
        _refuse_without_relus(model)
    elif unset and data is not None:
        start_from_data(result, made, data, options, "channel_dim" in kwargs)
    return result, others


def _replaced(model: nn.Module, data: CalibrationData, make: Make) -> tuple[nn.Module, dict[str, set[str]]]:
    """:return: ``model`` with activations, and the other activations that its modules call, by the module's name"""
    owners, (forwards, others) = modules_of(model), _forwards_of(model, data)
    several = _called_several_times(forwards)
    result = _swap_modules(model, several, make)
    for name in forwards:
        _intercept(model, name, owners[name], _same_calls(named(name, owners[name]), forwards[name], several), make)
    return result, others


def _refuse_without_relus(model: nn.Module) -> None:
    """:raises ConversionError: if there is no trainable activation in ``model`` either, from an earlier call"""
    if any(isinstance(module, (QCFS, DAQCFS, ClipReLU)) for module in model.modules()):
        return
    others = {type(module).__name__ for module in model.modules() if type(module).__module__ == nn.ReLU.__module__}
    found = f"; its activations are {', '.join(sorted(others))}" if others else ""
    raise ConversionError(f"nothing to replace: {type(model).__name__} has no ReLU that works on its inputs{found}")


def _check_without_data(model: nn.Module) -> None:
    modules = [(named(name, module), module) for name, module in modules_of(model).items()]
    words = [(name, sorted(names_in(module) & SPELLINGS)) for name, module in modules]
    doubts = [f"the code of {name} names {', '.join(found)}" for name, found in words if found]
    uses = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    doubts += [f"{name} has several names" for name, module in modules if is_relu(module) and uses[module] > 1]
    if doubts:
        more = f", and {len(doubts) - 3} more" if len(doubts) > 3 else ""
        raise ConfigError(
            f"replace_activations needs data to see where ReLUs are called: {'; '.join(doubts[:3])}{more}. Give "
            "batches as dataloader=..., of which the first is used"
        )


def _give_each_name_its_own_relu(model: nn.Module) -> None:
    seen: set[nn.Module | None] = set()
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() names a module that is there twice once
            if child is not None and child in seen and is_relu(child):
                parent._modules[name] = copy.deepcopy(child)
            seen.add(child)


def _swap_modules(model: nn.Module, several: set[str], make: Make) -> nn.Module:
    """Put an activation in the place of each ReLU module; for those called several times, a list that is empty yet."""
    for name, relu in modules_of(model).items():
        parent, _, own = name.rpartition(".")
        if not is_relu(relu):
            continue
        new: nn.Module
        if name in several:
            new = ActivationPerCall(named(name, relu), relu.inplace)
        else:
            new = make(parent, relu.training, upper_of(relu))
        if relu.inplace and name not in several:
            new = ActivationInPlace(new)
        vars(new).update({key: value for key, value in vars(relu).items() if "hook" in key})
        new.train(relu.training)
        if not name:
            return new
        model.get_submodule(parent)._modules[own] = new
    return model


class _Recorder(Interceptor):
    """Notes the calls of ReLUs in each forward of a module of a copy, which is thrown away."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__(module, name, [])
        self.forwards: list[Calls] = []
        self.others: set[str] = set()

    def answer(self, call: ReLUCall, calls: Calls) -> None:
        """The ReLU computes."""

    def note(self, other: str) -> None:
        self.others.add(other)

    def finish(self, calls: Calls) -> None:
        self.forwards.append(calls)


def _data_for(model: nn.Module, dataloader: Iterable[Any], max_batches: int | None) -> CalibrationData:
    like = max((p for p in model.parameters() if p.is_floating_point()), key=Tensor.numel, default=torch.empty(0))
    source = Source(dataloader, max_batches, seed=0)  # each reading gives the same batches
    return CalibrationData(source, model, like.device, like.dtype if like.numel() else None, False)


@torch.no_grad()
def _forwards_of(model: nn.Module, data: CalibrationData) -> tuple[dict[str, Forwards], dict[str, set[str]]]:
    """
    The calls of ReLUs that each module makes on the first batch, in evaluation and then in training mode, and the other
    activations that modules call as functions, by the module's name in words.
    """
    device = data.first().tensors[0].device
    cuda = [device] if device.type == "cuda" else []
    found: dict[str, Forwards] = defaultdict(list)
    others: dict[str, set[str]] = defaultdict(set)
    for training in (False, True):
        probe = copy.deepcopy(model).train(training)
        modules = modules_of(probe)
        names: dict[nn.Module | None, str] = {module: name for name, module in modules.items()}
        args, kwargs = data.form.call(data.first().clone().tensors)
        try:
            with warnings.catch_warnings(), undone(probe), torch.random.fork_rng(cuda):
                warnings.simplefilter("ignore")  # about a run that nobody asked for
                recorders = {n: _Recorder(m, named(n, m)) for n, m in modules.items() if not calls_for_its_caller(m)}
                probe(*args, **kwargs)
        except SJPCError:
            raise
        except Exception as error:
            if training:  # such as a loss that wants targets, or a BatchNorm that wants more samples
                break
            raise DataError(f"dataloader: {type(model).__name__} does not run on the first batch: {error}") from error
        for owner, recorder in recorders.items():
            found[owner] += [[(names.get(r), name, cut) for r, name, cut in calls] for calls in recorder.forwards]
            if recorder.others:
                others[recorder.name] |= recorder.others
    return found, others


def _warn_of_others(others: dict[str, set[str]]) -> None:
    stay = [f"{name} calls {', '.join(sorted(functions))}" for name, functions in others.items()]
    if stay:
        more = f", and {len(stay) - 5} more" if len(stay) > 5 else ""
        warn(
            f"not replaced, as these activations are no ReLUs: {'; '.join(stay[:5])}{more}. A conversion puts neurons "
            "there that were not trained, so its logits are not exactly those of the network"
        )


def _called_several_times(forwards: dict[str, Forwards]) -> set[str]:
    """The ReLU modules that one module calls several times in a forward, or that several modules call."""
    most: Counter[str] = Counter()
    for own in forwards.values():
        each = (Counter(relu for relu, *_ in calls if relu is not None) for calls in own)
        most.update(reduce(or_, each, Counter()))  # of counters, | has the larger counts
    return {relu for relu, number in most.items() if number > 1}


def _same_calls(name: str, forwards: Forwards, several: set[str]) -> list[SeenCall]:
    """The calls in each forward of a module, without those of ReLU modules that are called once."""
    kept = [[call for call in calls if call[0] is None or call[0] in several] for calls in forwards]
    ways = {tuple((relu, function) for relu, function, _ in calls) for calls in kept}
    if len(ways) > 1:
        found = " or ".join(sorted(", ".join(function for _, function in way) or "none" for way in ways))
        raise ConversionError(
            f"{name} does not call the same ReLUs each time, or in both modes ({found}), so that their order would not "
            "tell which is which. Write those that are not always called as nn.ReLU modules of their own"
        )
    return [max(same) for same in zip(*kept, strict=True)]  # which differ in where they cut, if at all


def _intercept(model: nn.Module, name: str, owner: nn.Module, calls: list[SeenCall], make: Make) -> None:
    places = []
    for relu, function, upper in calls:
        holder = owner if relu is None else model.get_submodule(relu)
        if relu is None and (isinstance(owner, (nn.Sequential, nn.ModuleList)) or names_in(owner) & _CHILDREN):
            raise ConversionError(
                f"{named(name, owner)} calls a ReLU ({function}) and goes over its own children, so that an activation "
                "among them would be called as one of its layers. Write that ReLU as a nn.ReLU of its own"
            )
        free = (f"{function}_{i}" if i else function for i in count())
        place = next(n for n in free if not hasattr(owner, n)) if relu is None else str(len(holder._modules))
        holder.add_module(place, make(name, holder.training, upper))
        places.append((holder, place))
    # what the batch did not come to must not pass in silence
    if places or names_in(owner) & SPELLINGS - owner._modules.keys():
        Interceptor(owner, named(name, owner), places)
