"""The server, its collections and their aliases."""

from __future__ import annotations

from collections.abc import Sequence

from clipsearch._client.connection import Connection
from clipsearch._convert import collections as convert
from clipsearch._convert.queries import templates_message
from clipsearch._models import Collection, IndexedField, ServerInfo
from clipsearch.v1 import image_search_pb2 as pb


class CollectionMethods(Connection):
    """A part of SearchClient."""

    def create_collection(
        self,
        name: str,
        *,
        model: str = "",
        prompt_templates: Sequence[str] = (),
        indexed_fields: Sequence[IndexedField] = (),
        timeout_s: float | None = None,
    ) -> Collection:
        """Creates an empty collection, to be filled by one of the server's models.

        ``model`` is its id, or its fingerprint or at least 8 digits of it (empty: the model of the
        default collection); ``prompt_templates`` are what texts are put into unless a query brings
        its own; filters on ``indexed_fields`` are fast. A call that fails may have created it all
        the same, and is not repeated where the server cannot be reached.

        Raises AlreadyExistsError if a collection or an alias has the name, and InvalidRequestError
        if the name is malformed or the server runs no such model.
        """
        request = pb.CreateCollectionRequest(
            name=name,
            model=model,
            prompt_templates=templates_message(prompt_templates),
            indexed_fields=convert.indexed_fields(indexed_fields),
        )
        response, _ = self._call(self._stub.CreateCollection, request, timeout_s)
        return convert.collection(response.collection)

    def get_collection(self, name: str = "", *, timeout_s: float | None = None) -> Collection:
        """Gets a collection by its name or an alias (empty: the server's default).

        Raises NotFoundError if there is none.
        """
        request = pb.GetCollectionRequest(name=name)
        response, _ = self._call(self._stub.GetCollection, request, timeout_s)
        return convert.collection(response.collection)

    def list_collections(self, *, timeout_s: float | None = None) -> tuple[Collection, ...]:
        """Gets all collections, ordered by name."""
        request = pb.ListCollectionsRequest()
        response, _ = self._call(self._stub.ListCollections, request, timeout_s)
        return tuple(map(convert.collection, response.collections))

    def update_collection(
        self,
        name: str = "",
        *,
        prompt_templates: Sequence[str] | None = None,
        add_indexed_fields: Sequence[IndexedField] = (),
        timeout_s: float | None = None,
    ) -> Collection:
        """Changes a collection, by its name or an alias (empty: the server's default).

        ``prompt_templates`` take the place of what is there (None: no change; ``()``: texts are
        embedded as they are); ``add_indexed_fields`` are indexed besides what is, completely when
        this returns: give a large collection the time in ``timeout_s``.

        Raises NotFoundError if there is none, and InvalidRequestError if a field is indexed under
        another type.
        """
        request = pb.UpdateCollectionRequest(
            name=name,
            prompt_templates=templates_message(prompt_templates),
            add_indexed_fields=convert.indexed_fields(add_indexed_fields),
        )
        response, _ = self._call(self._stub.UpdateCollection, request, timeout_s)
        return convert.collection(response.collection)

    def delete_collection(
        self, name: str, *, confirm_name: str = "", timeout_s: float | None = None
    ) -> None:
        """Deletes a collection with every image in it, for good.

        ``confirm_name`` is the name again, if there are images in it. Raises NotFoundError if no
        collection has the name, InvalidRequestError if the deletion is not confirmed, and
        CollectionInUseError if the collection is the default one or has an alias.
        """
        request = pb.DeleteCollectionRequest(name=name, confirm_name=confirm_name)
        self._call(self._stub.DeleteCollection, request, timeout_s)

    def set_alias(self, alias: str, collection: str, *, timeout_s: float | None = None) -> str:
        """Lets a name stand for a collection, from one moment to the next, and returns what it
        stood for before (empty: it is new).

        Raises NotFoundError if no collection has the name, AlreadyExistsError if one is named like
        the alias, and ModelMismatchError if the alias is the server's default and the server does
        not run the collection's model.
        """
        request = pb.SetAliasRequest(alias=alias, collection=collection)
        response, _ = self._call(self._stub.SetAlias, request, timeout_s)
        return response.previous_collection

    def delete_alias(self, alias: str, *, timeout_s: float | None = None) -> None:
        """Removes an alias; the collection stays.

        Raises NotFoundError if there is none, and CollectionInUseError if it is the server's
        default.
        """
        self._call(self._stub.DeleteAlias, pb.DeleteAliasRequest(alias=alias), timeout_s)

    def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Gets the server's version, models, backends, collections and limits."""
        response, _ = self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), timeout_s)
        return convert.server_info(response)
