"""The collections by their names, each with the engine that fills and searches it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import (
    ClipsearchError,
    CollectionExists,
    CollectionInUse,
    CollectionNotFound,
    InvalidRequest,
    TooManyCollections,
)
from clipsearch_server.leases import Leases
from clipsearch_server.loaded_model import LoadedModel, LoadedModels
from clipsearch_server.ports import (
    CollectionSpec,
    FoundCollection,
    ImageIndex,
    IndexedField,
    IndexStore,
)
from clipsearch_server.stored import StoredImages
from clipsearch_server.turns import Turns

logger = logging.getLogger(__name__)

MAX_INDEXED_FIELDS = 32

# Collections that are opened, or asked for their number of images, by one who lists them.
_LISTED_AT_A_TIME = 4


class EngineMaker(Protocol):
    """Makes engines for one index, which share everything but the templates."""

    def __call__(self, *, prompt_templates: Sequence[str]) -> SearchEngine: ...


# Of the collection of this name, whose model has this fingerprint.
EngineMakerFactory: TypeAlias = Callable[[str, str, ImageIndex], EngineMaker]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """What a collection is, and what is in it."""

    name: str
    spec: CollectionSpec
    aliases: tuple[str, ...]  # in order
    image_count: int
    is_default: bool
    model_loaded: bool


class Catalog:
    """The collections of a store, the models that fill them, and the name that is the default.

    The empty name is the default one. Wherever a name is taken, an alias is too, unless it is said
    that it is not. What the store and the indexes raise is passed on.
    """

    def __init__(
        self,
        store: IndexStore,
        models: LoadedModels,
        *,
        default: str,
        max_collections: int,
        engine_maker: EngineMakerFactory,
    ) -> None:
        self.models = models
        self._store = store
        self._default = default
        self._max_collections = max_collections
        self._engine_maker = engine_maker
        self._served: dict[str, _Served] = {}
        self._leases = Leases()
        self._creating = asyncio.Lock()  # so that two do not pass the limit together
        self._updating = Turns(1)  # of a collection, so that none undoes what another changes

    @property
    def index_description(self) -> str:
        """What stores the embeddings: for people."""
        return self._store.description

    @asynccontextmanager
    async def engine(self, name: str) -> AsyncIterator[SearchEngine]:
        """The engine of a collection, which is not deleted as long as the block lasts, whatever its
        alias stands for meanwhile.

        Raises CollectionNotFound, ModelMismatch if its model is not loaded.
        """
        found = await self._store.find(name or self._default)
        with self._leases.hold(found.name):
            model = self.models.require(found.spec, found.name)
            index = await self._store.open(found.name)
            served = self._served.get(found.name)
            made_for = (model.card.fingerprint, index)
            if served is None or served.made_for != made_for:
                maker = self._engine_maker(found.name, *made_for)
                served = self._served[found.name] = _Served(made_for, maker)
            yield served.engine(found.spec.prompt_templates)

    @asynccontextmanager
    async def images(self, name: str) -> AsyncIterator[StoredImages]:
        """The images of a collection, whether its model is loaded or not; likewise not deleted.
        Raises CollectionNotFound."""
        async with self._using(name) as found:
            yield StoredImages(found.name, found.spec, await self._store.open(found.name))

    async def check_index(self) -> None:
        """Returns if the default collection can be searched now. Raises IndexUnavailable or
        ModelMismatch if not."""
        async with self._using("") as found:
            self.models.require(found.spec, found.name)
            index = await self._store.open(found.name)
            await index.health()

    async def check_encoders(self) -> None:
        """Returns if every model can work now. Raises EncoderUnavailable if not."""
        await asyncio.gather(*(model.encoder.health() for model in self.models))

    async def describe(self, name: str) -> CollectionInfo:
        """Returns what a collection is. Raises CollectionNotFound."""
        async with self._using(name) as found:
            return await self._info(found.name, found.spec, await self._store.aliases())

    async def collections(self) -> list[CollectionInfo]:
        """Returns all collections, ordered by name; those that cannot be opened are left out."""
        specs, aliases = await asyncio.gather(self._store.collections(), self._store.aliases())
        gate = asyncio.Semaphore(_LISTED_AT_A_TIME)

        async def info(name: str) -> CollectionInfo | None:
            try:
                async with gate:
                    return await self._info(name, specs[name], aliases)
            except ClipsearchError as error:
                if self._is_default(name, aliases):
                    raise
                logger.warning("collection %s is left out of the list: %s", name, error.message)
                return None

        infos = await asyncio.gather(*map(info, sorted(specs)))
        return [it for it in infos if it is not None]

    async def image_counts(self) -> dict[str, int]:
        """Returns how many images each collection has, of as many as there may be; those that
        cannot be opened are left out."""
        names = sorted(await self._store.collections())[: self._max_collections]
        gate = asyncio.Semaphore(_LISTED_AT_A_TIME)

        async def count(name: str) -> int | None:
            try:
                async with gate:
                    return await (await self._store.open(name)).count()
            except ClipsearchError:
                return None

        counts = await asyncio.gather(*map(count, names))
        return {name: it for name, it in zip(names, counts, strict=True) if it is not None}

    async def default_model(self) -> LoadedModel:
        """Returns the model of the default collection. Raises ModelMismatch if it is not loaded."""
        default = await self._store.find(self._default)
        return self.models.require(default.spec, default.name)

    async def create(
        self,
        name: str,
        *,
        model: str,
        prompt_templates: tuple[str, ...],
        indexed_fields: Sequence[IndexedField],
    ) -> CollectionInfo:
        """Creates an empty collection for one of the models: its fingerprint, 8 digits of it or
        more, its id, or, if empty, the default collection's.

        Raises CollectionExists, TooManyCollections, InvalidRequest if there is no such model, or
        more than one, or if the fields contradict each other.
        """
        card = (self.models.choose(model) if model else await self.default_model()).card
        spec = CollectionSpec(
            model_id=card.model_id,
            fingerprint=card.fingerprint,
            embedding_dim=card.embedding_dim,
            prompt_templates=prompt_templates,
            indexed_fields=_joined((), indexed_fields, "indexed_fields"),
        )
        # To its end, also if the caller gives up: what is being created counts.
        await asyncio.shield(asyncio.create_task(self._create(name, spec), name=f"create {name}"))
        return await self.describe(name)

    async def update(
        self,
        name: str,
        *,
        prompt_templates: tuple[str, ...] | None,
        add_indexed_fields: Sequence[IndexedField],
    ) -> CollectionInfo:
        """Changes the templates, unless None, and indexes fields besides those that are; returns
        when that is complete.

        Raises CollectionNotFound, InvalidRequest if a field is indexed under another type.
        """
        async with self._using(name) as named, self._updating.take(named.name):
            # As those who had their turn left it, here or in another server.
            found = await self._store.find(named.name, anew=True)
            spec = found.spec
            if prompt_templates is not None:
                spec = replace(spec, prompt_templates=prompt_templates)
            joined = _joined(spec.indexed_fields, add_indexed_fields, "add_indexed_fields")
            spec = replace(spec, indexed_fields=joined)
            if spec != found.spec:
                await self._store.update(found.name, spec)
            return await self._info(found.name, spec, await self._store.aliases())

    async def delete(self, name: str, *, confirm_name: str) -> None:
        """Deletes a collection, which is not an alias, once nobody uses it; who comes meanwhile is
        refused with CollectionLeaving.

        Raises CollectionNotFound, CollectionInUse if it is the default one or has an alias,
        InvalidRequest if it has images and the deletion is not confirmed by its name.
        """
        await self._require_deletable(name, confirm_name)
        async with self._leases.end(name):
            # Again: images may have been added and aliases been set meanwhile.
            await self._require_deletable(name, confirm_name)
            await self._store.delete(name)
            self._served.pop(name, None)

    async def set_alias(self, alias: str, collection: str) -> str:
        """Lets an alias stand for a collection, which is not an alias; returns the one before, ""
        if there was none.

        Raises CollectionNotFound, CollectionExists if a collection has the alias's name,
        ModelMismatch if it is the default one and the collection's model is not loaded. Nobody who
        goes by the alias waits for the collection to be opened, or finds that it cannot be.
        """
        specs, aliases = await asyncio.gather(self._store.collections(), self._store.aliases())
        if alias in specs:
            raise CollectionExists(
                alias,
                f"{alias!r} is a collection's own name, which cannot stand for another; choose "
                "another alias, and start the server with it as its collection to have it be the "
                "default",
            )
        if collection in aliases or collection not in specs:
            raise CollectionNotFound(collection)
        if alias == self._default:
            self.models.require(specs[collection], collection)
        await (await self._store.open(collection)).health()
        await self._store.set_alias(alias, collection)
        return aliases.get(alias, "")

    async def delete_alias(self, alias: str) -> None:
        """Removes an alias. Raises CollectionNotFound, CollectionInUse if it is the default."""
        if alias == self._default:
            raise CollectionInUse(
                f"{alias} is the server's default collection; let it stand for another instead",
                name=alias,
            )
        await self._store.delete_alias(alias)

    async def _create(self, name: str, spec: CollectionSpec) -> None:
        async with self._creating:
            there = await self._store.collections()
            if name in there:
                raise CollectionExists(name)
            if len(there) >= self._max_collections:
                raise TooManyCollections(
                    f"there are {len(there)} collections, and the server's max_collections is "
                    f"{self._max_collections}; delete one"
                )
            await self._store.create(name, spec)

    @asynccontextmanager
    async def _using(self, name: str) -> AsyncIterator[FoundCollection]:
        found = await self._store.find(name or self._default)
        with self._leases.hold(found.name):
            yield found

    async def _info(
        self, name: str, spec: CollectionSpec, aliases: Mapping[str, str]
    ) -> CollectionInfo:
        return CollectionInfo(
            name=name,
            spec=spec,
            aliases=tuple(sorted(alias for alias, it in aliases.items() if it == name)),
            image_count=await (await self._store.open(name)).count(),
            is_default=self._is_default(name, aliases),
            model_loaded=self.models.find(spec) is not None,
        )

    def _is_default(self, name: str, aliases: Mapping[str, str]) -> bool:
        return aliases.get(self._default, self._default) == name

    async def _require_deletable(self, name: str, confirm_name: str) -> None:
        specs, aliases = await asyncio.gather(self._store.collections(), self._store.aliases())
        if name in aliases:
            raise CollectionNotFound(name)
        if self._is_default(name, aliases):
            raise CollectionInUse(
                f"{name} is the server's default collection; let {self._default} stand for another "
                "first",
                name=name,
            )
        if used := sorted(alias for alias, it in aliases.items() if it == name):
            raise CollectionInUse(
                f"{', '.join(used)} stands for {name}; remove the alias, or let it stand for "
                "another collection first",
                name=name,
            )
        if confirm_name == name:
            return  # also one that is damaged can go
        if name not in specs:
            raise CollectionNotFound(name)
        count = await (await self._store.open(name)).count()
        if count or confirm_name:
            raise InvalidRequest(
                "confirm_name", f"is not {name!r}; {count} images would be gone for good"
            )


@dataclass(slots=True)
class _Served:
    """What serves a collection: an engine, made anew when its templates change."""

    made_for: tuple[str, ImageIndex]  # a model's fingerprint, and what holds its embeddings
    maker: EngineMaker
    _current: tuple[Sequence[str], SearchEngine] | None = None

    def engine(self, prompt_templates: Sequence[str]) -> SearchEngine:
        if self._current is None or self._current[0] != prompt_templates:
            self._current = prompt_templates, self.maker(prompt_templates=prompt_templates)
        return self._current[1]


def _joined(
    known: Sequence[IndexedField], added: Sequence[IndexedField], path: str
) -> tuple[IndexedField, ...]:
    """The fields of both, each once. Raises InvalidRequest with a path below ``path``."""
    types = {it.field: it.type for it in known}
    for place, it in enumerate(added):
        if types.setdefault(it.field, it.type) is not it.type:
            raise InvalidRequest(
                f"{path}[{place}].type",
                f"is {it.type.value}, and {it.field} is indexed as {types[it.field].value}",
            )
    if len(types) > MAX_INDEXED_FIELDS:
        raise InvalidRequest(
            path, f"are {len(types)} fields together; at most {MAX_INDEXED_FIELDS} are indexed"
        )
    return tuple(IndexedField(field, type) for field, type in types.items())
