"""Reads the settings from flags, environment and file; the only reader of the environment."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from clipsearch_server.configuration.command_line import parse, parser
from clipsearch_server.configuration.names import (
    ENV_PREFIX,
    Setting,
    no_such_setting,
    settings_of,
    unknown_variables,
    variable,
)
from clipsearch_server.errors import StartupError
from clipsearch_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of a setting comes from: a flag, a variable or a file by its name."""

    kind: Literal["default", "file", "env", "flag"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in effect, and the origin of each by its dotted name."""

    settings: Settings
    origins: Mapping[str, Origin]


def load_settings(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:  # noqa: TID251
    """Reads the settings of a server that is started with these arguments.

    Raises StartupError naming the source, the value and what was expected. Like argparse, exits on
    ``--help``, ``--version`` and unknown flags.
    """
    flags = parse(parser("clipsearch-server", "Finds images by describing them: the server."), argv)
    return load(flags, environ).settings


def load(flags: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Loaded:  # noqa: TID251
    """Reads the settings from flags that are parsed, the environment, and the TOML file that one of
    these names. Raises StartupError."""
    for name in unknown_variables(environ):
        raise StartupError(f"{name}: {no_such_setting(name, variable)}")
    config = flags.config or environ.get(ENV_PREFIX + "CONFIG")
    values = _read_toml(Path(config)) if config else {}
    origins = {}
    for setting in settings_of():
        origins[setting.name] = _origin(setting, flags, environ, config, values)
        match origins[setting.name].kind:
            case "flag":
                given = getattr(flags, setting.name)
                _set(values, setting.path, given if isinstance(given, str) else ",".join(given))
            case "env":
                _set(values, setting.path, environ[setting.variable])
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise StartupError(_explain(error, origins, config)) from error
    return Loaded(_with_absolute_folders(settings), origins)


def _origin(
    setting: Setting,
    flags: argparse.Namespace,
    environ: Mapping[str, str],
    config: str | None,
    values: Mapping[str, Any],
) -> Origin:
    if getattr(flags, setting.name) is not None:
        return Origin("flag", setting.flag)
    if setting.variable in environ:
        return Origin("env", setting.variable)
    node: Any = values
    for name in setting.path:
        if not isinstance(node, dict) or name not in node:
            return Origin("default")
        node = node[name]
    return Origin("file", config or "")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}; --config names the settings file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"{file}: is not TOML: {error}") from error


def _set(values: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    for name in path[:-1]:
        child = values.setdefault(name, {})
        if not isinstance(child, dict):
            return  # the file has a value where a table belongs; validation says so
        values = child
    values[path[-1]] = value


def _with_absolute_folders(settings: Settings) -> Settings:
    try:
        folders = {
            "data_dir": settings.data_dir.expanduser().absolute(),
            "model_dir": settings.model_dir.expanduser().absolute(),
            "extra_model_dirs": tuple(
                path.expanduser().absolute() for path in settings.extra_model_dirs
            ),
        }
    except RuntimeError as error:  # there is no such user, or this one has no home
        raise StartupError(
            f"{error}; name data_dir={settings.data_dir}, model_dir={settings.model_dir} and "
            "extra_model_dirs without ~"
        ) from error
    return settings.model_copy(update=folders)


def _explain(error: ValidationError, origins: Mapping[str, Origin], config: str | None) -> str:
    problem = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in problem["loc"])
    # Of an item of a list, the list's.
    setting = next((it for it in settings_of() if path[: len(it.path)] == it.path), None)
    name = setting.name if setting else ".".join(path)
    origin = origins.get(name, Origin("file", config or ""))
    source = origin.name if origin.kind in {"flag", "env"} else f"{config}: {name}"
    if setting is None and problem["type"] == "value_error":  # of several that do not go together
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{source}: {no_such_setting(name, str)}"
    # What stands in the wrong place is not shown: there may be a secret in it.
    if setting is None:
        return f"{source}: expected a table, [{name}]"
    if isinstance(problem["input"], dict if setting.is_list else dict | list):
        return f"{source}: expected a value, not a table or several"
    shown = "***" if setting.is_secret else repr(problem["input"])
    return f"{source}={shown}: {problem['msg'].removeprefix('Value error, ')}"
