"""The settings one by one: how each is named, what it takes, and which name was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from clipsearch_server.settings import Group, Settings

ENV_PREFIX = "CLIPSEARCH_"

# What is said at the name of a setting that went. The new names are dotted.
RENAMED = {
    "fetch.allow_private": ("fetch.allow_cidrs",),
    "image.decode_threads": ("image.decode_workers",),
    "max_in_flight": ("admission.max_queries", "admission.max_ingest", "admission.max_bulk"),
}

# Variables of ours that are no settings: the file, what the command `clipsearch` reads, and tests.
_OTHER_VARIABLES = re.compile(rf"{ENV_PREFIX}(CONFIG|SERVER|API_KEY|TEST_.*)")
# Kubernetes tells every pod of each service there is, under the service's name, which may be ours.
_KUBERNETES_VARIABLES = re.compile(
    rf"{ENV_PREFIX}(.*_)?"
    r"(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=).*"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its place in the tree, and what pydantic knows of it."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """As it is written in a document: ``fetch.timeout_s``."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        return flag(self.name)

    @property
    def variable(self) -> str:
        return variable(self.name)

    @property
    def is_list(self) -> bool:
        return get_origin(self.field.annotation) is tuple

    @property
    def is_switch(self) -> bool:
        return self.field.annotation is bool

    @property
    def is_secret(self) -> bool:
        """Whether its value is shown to nobody, or not before what may be secret is cut out."""
        return self._has(SecretStr) or not self.field.repr

    @property
    def takes(self) -> str:
        """What its value looks like, for ``--help``."""
        annotation: Any = self.field.annotation
        members = get_args(annotation)
        if type(None) in members and len(members) == 2:  # or nothing
            annotation = _bare(next(it for it in members if it is not type(None)))
        if get_origin(annotation) is Literal:
            return "|".join(map(str, get_args(annotation)))
        if self.is_list:
            return "A,B,..."
        if self._has(Path):
            return "FILE" if type(None) in members else "DIR"
        if self._has(SecretStr):
            return "KEY"
        return {bool: "true|false", int: "N", float: "X"}.get(annotation, "TEXT")

    @property
    def default(self) -> str:
        """The default, for ``--help``."""
        default = self.field.default
        if self.path == ("model_dir",):
            return "demo"
        if default in (None, "", (), SecretStr("")):
            return "none"
        if isinstance(default, tuple):
            return ",".join(map(str, default))
        return str(default).lower() if isinstance(default, bool) else str(default)

    def _has(self, kind: type) -> bool:
        annotation: Any = self.field.annotation
        return any(
            isinstance(it, type) and issubclass(it, kind)
            for it in (annotation, *map(_bare, get_args(annotation)))
        )


def settings_of(group: type[Group] = Settings) -> Iterator[Setting]:
    """Returns every setting: those of a group itself, then each group's in it, as TOML has it."""
    groups = []
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            groups.append((name, field.annotation))
        else:
            yield Setting((name,), field)
    for name, inner in groups:
        for it in settings_of(inner):
            yield Setting((name, *it.path), it.field)


def group_of(path: tuple[str, ...]) -> type[Group]:
    """Returns the group that a setting is in."""
    group: type[Group] = Settings
    for name in path[:-1]:
        annotation = group.model_fields[name].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Group)
        group = annotation
    return group


def flag(name: str) -> str:
    return "--" + name.replace(".", "-").replace("_", "-")


def variable(name: str) -> str:
    return ENV_PREFIX + name.replace(".", "_").upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Returns the variables that look like settings of the server and are none."""
    known = {it.variable for it in settings_of()}
    return sorted(
        name
        for name in environ.keys() - known
        if name.startswith(ENV_PREFIX)
        and not _OTHER_VARIABLES.fullmatch(name)
        and not _KUBERNETES_VARIABLES.match(f"{name}={environ[name]}")
    )


def no_such_setting(given: str, spelling: Callable[[str], str]) -> str:
    """Says that there is no such setting, and which was meant. ``spelling`` makes of a dotted name
    what it is where the wrong one was given."""
    for old, new in RENAMED.items():
        if given == spelling(old):
            return f"there is no such setting any more; set {', '.join(map(spelling, new))}"
    prefix = spelling("")  # which all have in common
    known = [spelling(it.name).removeprefix(prefix) for it in settings_of()]
    if meant := difflib.get_close_matches(given.removeprefix(prefix), known, n=1):
        return f"there is no such setting; did you mean {prefix}{meant[0]}?"
    return "there is no such setting; clipsearch-server --help lists them"


def _bare(annotation: Any) -> Any:
    """A type without what is annotated to it."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
