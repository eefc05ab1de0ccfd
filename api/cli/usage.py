"""Messages for a wrong command line: unknown commands and options, missing arguments, values of the wrong type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lcl_core.common.errors import suggestion

JSON_OPTION = "--json"


def move_json_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--json``, which is accepted anywhere, before the command; after ``--`` it is a word."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [word for word in arguments[:end] if word != JSON_OPTION]
    return [*([JSON_OPTION] if len(options) < end else []), *options, *arguments[end:]]


def usage_message(error: Any) -> str:
    """An error of typer's parser in plain words, with the command whose help lists what there is."""
    context = error.ctx
    path = context.command_path if context else "lcl"
    return f"{_problem(error, context)} ({path} --help)"


def _problem(error: Any, context: Any) -> str:
    """Dispatched on the names of typer's exceptions, which it keeps in a private module."""
    match type(error).__name__:
        case "NoSuchOption":
            return f"there is no option {error.option_name}{suggestion(error.option_name, _options(context))}"
        case "MissingParameter":
            return f"{_parameter_name(error.param)} is missing"
        case "BadOptionUsage":
            return f"{error.option_name} needs a value" if "requires" in error.message else _plain(error.message)
        case "BadParameter":
            return f"{_parameter_name(error.param)}: {_value_problem(error)}"
    if found := re.match(r"No such command '([^']*)'", error.message):
        return f"there is no command {found[1]!r}{suggestion(found[1], getattr(context.command, 'commands', ()))}"
    if found := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", error.message):
        return f"{found[1]!r} is more than the command takes"
    return _plain(error.message)


def _value_problem(error: Any) -> str:
    cause = error.__cause__
    if cause is None or not hasattr(cause, "errors"):
        return _plain(error.message)
    from lcl_core.specs.validation_messages import describe_error  # with pydantic, which the error has loaded anyway

    first = cause.errors()[0]
    return f"{_plain(describe_error(first))} (got {first['input']!r})"


def _plain(message: str) -> str:
    if found := re.fullmatch(r"(?:Value error, )?'.*' is not one of (.*)\.", message):
        return f"choose from {found[1]}"
    return message.rstrip(".")


def _parameter_name(parameter: Any) -> str:
    if parameter is None:
        return "the command line"
    return max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.name.upper()


def _options(context: Any) -> list[str]:
    return [] if context is None else [name for parameter in context.command.params for name in parameter.opts]
