"""The parser: each command is a function, and its parameters are the flags and the keys of a YAML file."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, Namespace

from ..version import __version__

_COLUMNS = 78
_KINDS = {"int": "an integer", "float": "a number", "bool": "true, false", "NoneType": "null"}
_MARKUP = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`|``(.+?)``")  # :func:`~a.b.c` and ``code`` in docstrings


class Call(NamedTuple):
    """
    What a command line asks for.

    :param function: to be called
    :param arguments: with these
    :param traceback: whether an error is to be shown in full
    """

    function: Callable[..., None]
    arguments: dict[str, object]
    traceback: bool


class UsageError(Exception):
    """A command line that cannot be understood."""


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples, and does not say that what has no default has the default null."""

    def _expand_help(self, action: argparse.Action) -> str:
        return re.sub(r"( \| null)?, default: null\)$", ")", super()._expand_help(action))


class _Parser(ArgumentParser):
    """Its errors are exceptions of one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """:raises UsageError: always"""
        raise UsageError(_explained(message)) from ex


class Command:
    """
    A command.

    :param function: runs it. Parameters whose type is a dataclass are groups of flags; others are flags, or, without a
        default, arguments by position
    :param examples: command lines with it, as they stand in its help
    :param without: fields of these dataclasses that are no flags of this command, and keep their defaults
    """

    def __init__(self, function: Callable[..., None], examples: Sequence[str], without: Sequence[str] = ()) -> None:
        self.function, self.examples, self.without = function, examples, without
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
        self.groups = {name: hints[name] for name in parameters if is_dataclass(hints[name])}

    def parser(self) -> ArgumentParser:
        """A parser for this command alone."""
        examples = "\n".join(["examples:", *(f"  sjpc {example}" for example in self.examples)])
        parser = _Parser(description=_wrapped(_summary(self.function)), epilog=examples, usage=self._usage())
        parser.add_argument("--config", action="config", help="a YAML file with any of these arguments by name")
        parser.add_argument("--traceback", action="store_true", help="show where in the code an error came up")
        _add(parser.add_argument, self.function, skip=self.groups)
        for group in self.groups.values():
            title, _, more = _summary(group).partition(". ")
            under_title = parser.add_argument_group(title.rstrip("."), _wrapped(more) or None)
            _add(under_title.add_argument, group, skip=self.without)
        return parser

    def arguments(self, values: Namespace) -> dict[str, object]:
        """
        :param values: that were parsed
        :return: the arguments of the function, with its dataclasses
        :raises ConfigError: if one of these does not take its values
        """
        own = {name: values[name] for name in inspect.signature(self.function).parameters if name not in self.groups}
        of_groups = {
            name: group(**{key: values[key] for key in inspect.signature(group).parameters if key not in self.without})
            for name, group in self.groups.items()
        }
        return own | of_groups

    def _usage(self) -> str:
        parameters = inspect.signature(self.function).parameters.values()
        places = [p.name for p in parameters if p.default is p.empty and p.name not in self.groups]
        return " ".join(["sjpc", self.function.__name__, *map(str.upper, places), "[options]"])


def make_parser(commands: Mapping[str, Command]) -> ArgumentParser:
    """
    :param commands: by name
    :return: the parser of ``sjpc``
    """
    parser = _Parser(
        prog="sjpc",
        description="Convert trained networks into spiking ones, and look at the result.",
        version=__version__,
    )
    subcommands = parser.add_subcommands(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, command in commands.items():
        subcommands.add_subcommand(name, command.parser(), help=_summary(command.function))
    return parser


def read_call(parser: ArgumentParser, commands: Mapping[str, Command], words: Sequence[str]) -> Call:
    """
    :param parser: of :func:`make_parser`
    :param commands: the same
    :param words: what follows ``sjpc``
    :return: what they ask for
    :raises UsageError: if the words cannot be understood
    :raises ConfigError: if a value is out of range
    """
    values = parser.parse_args([_with_dashes(word) for word in words])
    command, of_command = commands[values.command], values[values.command]
    return Call(command.function, command.arguments(of_command), of_command.traceback)


def _add(add: Callable[..., Any], source: Callable[..., Any], skip: Iterable[str] = ()) -> None:
    """A flag or a position for each parameter of a function or a dataclass."""
    hints = get_type_hints(source if inspect.isfunction(source) else source.__init__)
    words = {p.arg_name: p.description for p in parse_docstring(inspect.getdoc(source)).params}
    for name, parameter in inspect.signature(source).parameters.items():
        if name in skip:
            continue
        flag = f"--{name.replace('_', '-')}"
        settings: dict[str, Any] = {"help": _plain(words.get(name) or "")}
        kind = hints[name]
        if parameter.default is parameter.empty:
            add(name, type=kind, metavar=name.upper(), **settings)
        elif kind is bool:
            add(flag, action=ActionYesNo(no_prefix="no-"), default=parameter.default, **settings)
        elif (item := _item(kind)) is not None:
            default = None if parameter.default is None else list(parameter.default)
            add(flag, type=item, nargs="*", default=default, **settings)
        else:
            add(flag, type=kind, default=parameter.default, **settings)


def _item(kind: object) -> type | None:
    """``str`` of ``Sequence[str]`` and of ``Sequence[str] | None``; ``None`` for what is no sequence."""
    for choice in (kind, *get_args(kind)):
        if get_origin(choice) is Sequence:
            return get_args(choice)[0]
    return None


def _summary(thing: object) -> str:
    """What a docstring says before its parameters."""
    found = parse_docstring(inspect.getdoc(thing))
    return _plain(" ".join(filter(None, (found.short_description, found.long_description))))


def _plain(text: str) -> str:
    """A docstring's text for a terminal."""
    return _MARKUP.sub(lambda match: match[1] or match[2], " ".join(text.split()))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _COLUMNS)


def _with_dashes(word: str) -> str:
    """``--time_steps`` is understood as well: options are called so in Python and in YAML."""
    flag = re.match(r"--(?!print_config)\w+", word)
    return word if flag is None else flag[0].replace("_", "-") + word[flag.end() :]


def _explained(message: str) -> str:
    """A message of jsonargparse as one line, in the words of a user of flags."""
    key = re.match(r'Parser key "([^"]+)"( element \d+)?', message)
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    if "are required" in message:
        return re.sub(r"(?<= )\w+\.(?=\w)", "", message)  # the command before each name
    if key is None or given is None:
        return re.sub(r'^Parser key "(\w+)":', r"--\1:", message)
    types = re.findall(r"Expected a (?:<class '|typing\.)(?:\w+\.)*(\w+(?:\[.*?\])?)", message)
    kinds = " or ".join(dict.fromkeys(_in_words(name) for name in types)) or "another value"
    return f"--{key[1].replace('_', '-')} takes {kinds}, got {given[1]!r}"


def _in_words(kind: str) -> str:
    name, _, values = kind.partition("[")
    return f"one of {values.rstrip(']')}" if name == "Literal" else _KINDS.get(name, name)
