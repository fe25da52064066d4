"""A run, described: TOML tables into frozen dataclasses, every value checked, every unknown key named.

Used for recipes (`fathom train recipe.toml --set train.lr=3e-4`) and, with JSON, for a model's `config.json`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from fathom.errors import ConfigError

T = TypeVar("T")
MAX_FILE_BYTES = 4 << 20  # a config.json is about 2 kB; more than this is another file


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """An instance of the frozen dataclass `cls` from a TOML or JSON table; tables inside become dataclasses inside.

    Values are checked against the field types: an int serves as a float, a list as a tuple, nothing else bends.

    Args:    where: what the table is, for messages: "recipes/nano.toml", "recipes/nano.toml: train".
    Raises:  ConfigError: a key is unknown (the nearest known one is named) or missing, or a value does not fit.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}; it must be a table.")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), fields)}; known: {', '.join(fields)}.")
    required = [name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in table]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given; add {'it' if len(missing) == 1 else 'them'}.")
    hints = typing.get_type_hints(cls)
    values = {key: _fit(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _fit(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, or a ConfigError that says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments, where)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise ConfigError(f"{where} is {value!r}; it must be one of {', '.join(map(repr, arguments))}.")
    if origin is tuple:
        return _fit_tuple(value, arguments, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)  # type: ignore[arg-type]
    if origin is dict or hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is float and type(value) in (int, float):
        if math.isfinite(value):
            return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is Any or type(value) is hint:
        return value
    raise ConfigError(f"{where} is {value!r}; it must be {_kind(hint)}.")


def _fit_union(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    for position, choice in enumerate(choices):
        try:
            return _fit(value, choice, where)
        except ConfigError:
            if len(choices) == 1:
                raise
            if position == len(choices) - 1:
                kinds = " or ".join(_kind(choice) for choice in choices)
                raise ConfigError(f"{where} is {value!r}; it must be {kinds}.") from None
    raise ConfigError(f"{where} is {value!r}; it must be left out.")


def _fit_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}; it must be a list.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where} has {len(value)} items; it must have {len(arguments)}.")
    pairs = zip(value, arguments, strict=True)
    return tuple(_fit(item, hint, f"{where}[{index}]") for index, (item, hint) in enumerate(pairs))


def _kind(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", dict: "a table"}
    if typing.get_origin(hint) is tuple:
        return "a list"
    if dataclasses.is_dataclass(hint):
        return "a table"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known name most like `name`, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def read_json(path: Path) -> Any:
    """What the JSON file `path` holds."""
    try:
        return json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); fetch it again from where it came from.") from None


def read_toml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The table in the TOML file `path`, with overrides such as "train.lr=3e-4" (values in TOML, or bare words)."""
    try:
        table = tomllib.loads(_read_text(Path(path)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    return override(table, overrides)


def override(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`table`, changed by overrides such as "train.lr=3e-4"."""
    for each in overrides:
        _override(table, each)
    return table


def settings(cls: type[T], section: str, overrides: Sequence[str]) -> T:
    """The frozen dataclass `cls` with overrides such as "sft.lr=3e-4", all of one section."""
    table: dict[str, Any] = {}
    for override in overrides:
        _override(table, override)
    for name in table:
        if name != section:
            raise ConfigError(f"--set {name!r} is no section here; write {section}.key=value.")
    return build(cls, table.get(section, {}), f"--set {section}")


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or "\n" in text or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in path):
        raise ConfigError(f"--set {override!r} is not of the form section.key=value; for example train.lr=3e-4.")
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {part} is a value, not a section.")
    try:
        table[path[-1]] = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        if text.strip()[:1] in ("", "[", "{", '"', "'"):
            raise ConfigError(f"--set {override!r}: {text!r} is not a TOML value.") from None
        table[path[-1]] = text.strip()


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is {size:,} bytes; a configuration has at most {MAX_FILE_BYTES:,}.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}.") from None
