"""From which collection to which, by which model, and what is to be switched at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from clipsearch import Collection, Model, SearchClient

_MIN_FINGERPRINT_DIGITS = 8


class PlanError(Exception):
    """What is asked for cannot be done; the message is one line: why, and the way out."""


class NothingToDo(Exception):
    """The model fills the collection already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``source`` and ``target`` are the collections' own names; ``aliases`` are to stand for the
    target at the end (none: it is only filled)."""

    source: Collection
    target: str
    existing: Collection | None  # the target, if it is there already
    model: Model
    aliases: tuple[str, ...]

    @property
    def is_switched(self) -> bool:
        """Whether the target is searched and added to already, by an alias."""
        return self.existing is not None and bool(self.existing.aliases)


def make_plan(
    client: SearchClient, *, source: str, model: str, target: str, keep_alias: bool
) -> Plan:
    """Finds out what is to be done; an empty ``source`` or ``target`` is for the default.

    Raises PlanError, NothingToDo and SearchError.
    """
    found = client.get_collection(source)
    collections = {it.name: it for it in client.list_collections()}
    chosen = _choose_model(client.server_info().models, model)
    if chosen.fingerprint == found.model_fingerprint:
        raise NothingToDo(f"{found.name} is filled by the model {chosen.id} already")
    name = _choose_target(collections, target, found, chosen)
    plan = Plan(
        source=found,
        target=name,
        existing=collections.get(name),
        model=chosen,
        aliases=() if keep_alias else found.aliases if source in ("", found.name) else (source,),
    )
    if not (plan.aliases or plan.is_switched or keep_alias):
        raise PlanError(
            f"no alias stands for {found.name}, so that there is none to switch; --keep-alias only "
            "fills the other collection"
        )
    return plan


def _choose_model(models: Sequence[Model], name: str) -> Model:
    named = [it for it in models if _is_called(it, name)]
    if len(named) == 1:
        return named[0]
    listed = ", ".join(f"{it.id} ({it.fingerprint[:12]})" for it in named or models)
    if named:
        raise PlanError(f"--model must name one of these by its fingerprint: {listed}")
    raise PlanError(
        f"the server runs no model {name}; start it with that as well; it runs {listed}"
    )


def _is_called(model: Model, name: str) -> bool:
    is_prefix = len(name) >= _MIN_FINGERPRINT_DIGITS and model.fingerprint.startswith(name)
    return model.id == name or is_prefix


def _choose_target(
    collections: Mapping[str, Collection], name: str, source: Collection, model: Model
) -> str:
    aliases = {alias: it.name for it in collections.values() for alias in it.aliases}
    if not name:
        return _next_name(collections, aliases, source, model)
    if name in aliases:
        raise PlanError(
            f"{name} is an alias of {aliases[name]}; --to takes a collection's own name"
        )
    target = collections.get(name)
    if target is not None and target.model_fingerprint != model.fingerprint:
        raise PlanError(f"{name} is filled by {target.model_id}; --to names another collection")
    return name


def _next_name(
    collections: Mapping[str, Collection],
    aliases: Mapping[str, str],
    source: Collection,
    model: Model,
) -> str:
    """The next free number, or that which a run before this one took."""
    stem, dash, number = source.name.rpartition("-")
    first = int(number) + 1 if dash and number.isdecimal() else 2
    stem = stem if dash and number.isdecimal() else source.name
    for n in count(first):
        name = f"{stem}-{n}"
        taken = collections.get(name)
        if taken is None and name not in aliases:
            break
        if taken and taken.model_fingerprint == model.fingerprint and not taken.aliases:
            break
    return name
