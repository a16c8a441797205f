"""Where the values of the settings come from.

A flag wins over an environment variable, that over the TOML file, and that over the default. The
setting ``fetch.timeout_s`` is the flag ``--fetch-timeout-s``, the variable
``CLIPSEARCH_FETCH_TIMEOUT_S`` and, in TOML, ``timeout_s`` in the table ``[fetch]``. What is a list
in TOML is a text with commas elsewhere. This is the only module that reads the environment, and it
reads it from an argument.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import FilePath, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from clipsearch_server.errors import StartupError
from clipsearch_server.settings import Group, Settings

ENV_PREFIX = "CLIPSEARCH_"


def load_settings(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:  # noqa: TID251
    """Reads the settings from flags, environment and the TOML file that ``--config`` names.

    Raises StartupError naming the source, the value and what was expected. Like argparse, exits on
    ``--help``, ``--version`` and unknown flags.
    """
    leaves = list(_leaves(Settings))
    flags = vars(_parser(leaves).parse_args(argv))
    config = flags["config"] or environ.get(ENV_PREFIX + "CONFIG")
    values = _read_toml(Path(config)) if config else {}
    origins: dict[tuple[str, ...], str] = {}
    for path, _ in leaves:
        flag, variable = _flag(path), _variable(path)
        given = flags["_".join(path)]
        if given is not None:
            _set(values, path, given if isinstance(given, str) else ",".join(given))
            origins[path] = flag
        elif variable in environ:
            _set(values, path, environ[variable])
            origins[path] = variable
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise StartupError(_explain(error, origins, config)) from error
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


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:  # noqa: TID251
    """Returns the variables that look like settings of the server and are none: often a typo."""
    known = {_variable(path) for path, _ in _leaves(Settings)}
    # The file; the variables of the client's command.
    ours_too = {ENV_PREFIX + name for name in ("CONFIG", "SERVER", "API_KEY")}
    return sorted(
        name
        for name in environ.keys() - known - ours_too
        if name.startswith(ENV_PREFIX) and not name.startswith(ENV_PREFIX + "TEST_")
    )


def _leaves(group: type[Group]) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from (((name, *path), leaf) for path, leaf in _leaves(field.annotation))
        else:
            yield (name,), field


def _flag(path: tuple[str, ...]) -> str:
    return "--" + "-".join(path).replace("_", "-")


def _variable(path: tuple[str, ...]) -> str:
    return ENV_PREFIX + "_".join(path).upper()


def _parser(leaves: Sequence[tuple[tuple[str, ...], FieldInfo]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipsearch-server",
        description="Finds images by describing them: the gRPC server.",
        epilog="Each setting may also come from the environment (--fetch-timeout-s as "
        "CLIPSEARCH_FETCH_TIMEOUT_S) or from the TOML file (timeout_s in [fetch]); a flag wins "
        "over the environment, and that over the file.",
    )
    version = importlib.metadata.version("clipsearch-server")
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    sections: dict[tuple[str, ...], argparse._ArgumentGroup] = {}
    sections[()] = parser.add_argument_group("settings")
    for path, field in leaves:
        if path[:-1] not in sections:
            group = Settings.model_fields[path[0]].annotation
            assert group is not None
            assert group.__doc__ is not None
            sections[path[:-1]] = parser.add_argument_group(path[0], group.__doc__.splitlines()[0])
        # A flag alone switches on: --insecure, --triton-tls.
        optional: dict[str, Any] = {"nargs": "?", "const": "true"}
        sections[path[:-1]].add_argument(
            _flag(path),
            dest="_".join(path),
            action="append" if get_origin(field.annotation) is tuple else "store",
            **(optional if field.annotation is bool else {}),
            metavar=_metavar(field.annotation),
            help=f"{field.description} [{_shown(path, field.default)}]",
        )
    return parser


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if get_origin(annotation) is tuple:
        return "A,B,..."
    if annotation == FilePath | None:
        return "FILE"
    return {bool: "true|false", int: "N", float: "X", Path: "DIR", SecretStr: "KEY"}.get(
        annotation, "TEXT"
    )


def _shown(path: tuple[str, ...], default: Any) -> str:
    if path == ("model_dir",):
        return "demo"
    if default in (None, "", (), SecretStr("")):
        return "none"
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


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


def _explain(
    error: ValidationError, origins: Mapping[tuple[str, ...], str], config: str | None
) -> str:
    problem = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in problem["loc"])
    if path not in origins:  # of an item of a list, the list's
        path = next((leaf for leaf, _ in _leaves(Settings) if path[: len(leaf)] == leaf), path)
    origin = origins.get(path, f"{config}: {'.'.join(path)}")
    if problem["type"] == "extra_forbidden":
        return f"{origin}: there is no such setting; clipsearch-server --help lists them"
    secrets = {
        leaf for leaf, field in _leaves(Settings) if field.annotation is SecretStr or not field.repr
    }
    shown = "***" if path[:2] in secrets else repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{origin}={shown}: {message}"
