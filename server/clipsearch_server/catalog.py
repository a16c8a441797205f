"""The collections by their names, each with the engine that fills and searches it."""

from __future__ import annotations

from clipsearch_server.engine import SearchEngine
from clipsearch_server.errors import CollectionNotFound


class Catalog:
    """One collection, which requests that name none mean too."""

    def __init__(self, name: str, engine: SearchEngine) -> None:
        self._name = name
        self._engine = engine

    async def engine(self, name: str) -> SearchEngine:
        """Returns the engine of the collection that has a name, or that an alias stands for; of the
        default one, if the name is empty.

        Raises CollectionNotFound.
        """
        if name and name != self._name:
            raise CollectionNotFound(name)
        return self._engine
