"""What queries were answered of late, as long as that is the answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.engine import SearchEngine
from clipsearch_server.metrics import CACHE_REQUESTS
from clipsearch_server.ports import Revision

# A collection, its templates, and a request: all that an answer depends on, but for what is stored.
_Key: TypeAlias = tuple[str, tuple[str, ...], bytes]


@dataclass(frozen=True, slots=True)
class _Answer:
    revision: Revision
    response: pb.QueryTextResponse
    size: int


class Answers:
    """Remembers what queries by text were answered, ``max_bytes`` at most, the last used longest.

    An answer holds until something in its collection changes: whoever was told that an image is
    added, replaced or deleted finds it so. Nothing is remembered of an index that others change too
    (`ImageIndex.revision`).
    """

    def __init__(self, max_bytes: int = 2**22) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[_Key, _Answer] = OrderedDict()
        self._hits = CACHE_REQUESTS.labels("answer", "hit")
        self._misses = CACHE_REQUESTS.labels("answer", "miss")

    async def of(
        self,
        engine: SearchEngine,
        request: pb.QueryTextRequest,
        answer: Callable[[], Awaitable[pb.QueryTextResponse]],
    ) -> pb.QueryTextResponse:
        """Returns the response to a request, which nobody may change; ``answer`` makes it, if it is
        not remembered."""
        revision = engine.revision  # of before the search: what changes during it is not missed
        if revision is None:
            return await answer()
        body = request.SerializeToString(deterministic=True)
        key = (engine.collection, engine.prompt_templates, body)
        known = self._answers.get(key)
        if known is not None and known.revision == revision:
            self._answers.move_to_end(key)
            self._hits.inc()
            return known.response
        self._misses.inc()
        response = await answer()
        self._keep(key, _Answer(revision, response, response.ByteSize() + len(body)))
        return response

    def _keep(self, key: _Key, answer: _Answer) -> None:
        old = self._answers.pop(key, None)
        self._bytes += answer.size - (old.size if old is not None else 0)
        self._answers[key] = answer
        while self._bytes > self._max_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= oldest.size
