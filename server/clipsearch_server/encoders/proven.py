"""Believes an encoder only while it embeds a canary as its model does."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from numpy.typing import NDArray

from clipsearch_server.canary import Canary
from clipsearch_server.errors import (
    ClipsearchError,
    DeadlineExceeded,
    EncoderUnavailable,
    ModelOutputInvalid,
    Overloaded,
)
from clipsearch_server.lateness import we_were_late
from clipsearch_server.ports import Embedding, Embeddings, Encoder, Pixels, TokenIds

logger = logging.getLogger(__name__)

# The same model on other hardware, or in another precision's arithmetic, stays above 0.999 (see
# docs/models.md); another model, however much it is alike, is nowhere near.
_MIN_COSINE = 0.99
# A canary that is not answered by then may be lost, and is asked again.
_TIMEOUT_S = 5.0
# A canary takes at most this share of an encoder's time; less while others wait for it, whose
# answers show that it lives.
_SHARE = 1 / 20
_BUSY_SHARE = 1 / 50
_INTERVAL_S = 0.4

_Encode: TypeAlias = Callable[[Any], Awaitable[Embeddings]]


class ProvenEncoder:
    """Wraps an Encoder, and gives it work only while it is known to be the right one. Implements
    the port `Encoder`.

    Each ``health``, to be asked once a second or so, has each tower embed its canary, past whatever
    waits in `BatchingEncoder`. A tower that answers with another embedding is refused with
    EncoderUnavailable, so that nothing wrong is stored or searched for; of what is no embedding at
    all, every answer's check says so. After a failure to reach it, the next caller has the canary
    embedded first: what comes back may be another model.

    To be busy is no sickness: as long as anything is answered a tower lives, and it may be silent
    for twice as long as all that is under way takes, since it may be at work on that as one batch.
    Without any answer for longer it hangs, and calls fail at once until it has answered the canary:
    a circuit breaker. So a hang with much under way is noticed later in proportion. What work takes
    is told by its size and the slowest of the last few batches, so a tower that has become much
    slower counts as hanging until its first answer. One that has nothing else to do may be silent
    for ``patience_s``, or twice as long as the canary takes.

    Where the canary's embedding is not known, the first answer is taken for right.
    """

    def __init__(self, encoder: Encoder, canary: Canary, *, patience_s: float = 1.2) -> None:
        self._encoder = encoder
        self._text = _Tower(
            "text", encoder.encode_text, canary.token_ids, canary.text_embedding, patience_s
        )
        self._image = _Tower(
            "image", encoder.encode_image, canary.pixels, canary.image_embedding, patience_s
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(self._text.close(), self._image.close())

    @property
    def description(self) -> str:
        return self._encoder.description

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        return await self._text.encode(token_ids)

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        return await self._image.encode(pixels)

    async def health(self) -> None:
        # At once: each may wait for nearly as long as whoever asks does.
        problems = await asyncio.gather(
            self._encoder.health(), self._text.check(), self._image.check(), return_exceptions=True
        )
        if isinstance(problems[0], EncoderUnavailable):
            self._text.doubt()
            self._image.doubt()
        for problem in problems:
            if problem is not None:
                raise problem


class _Tower:
    def __init__(
        self,
        name: str,
        encode: _Encode,
        canary: NDArray[Any],
        expected: Embedding | None,
        min_patience_s: float,
    ) -> None:
        self._name = name
        self._encode = encode
        self._canary = canary
        self._expected = expected
        self._min_patience_s = min_patience_s
        self._proven = False
        self._problem: str | None = None  # what the last canary found
        self._is_wrong = False
        self._asking: asyncio.Task[None] | None = None
        self._due_at = 0.0
        self._has_worked = False  # for others than the canary, since the last one
        self._silent_since: float | None = None  # the first canary since the last answer
        # Work is counted in elements, tokens or colour values, which are what takes time: a text
        # may be ten times as long as the canary.
        self._under_way: list[int] = []  # of each call
        # The most that was under way when a caller went without an answer: the encoder may be at
        # work on it all the same, and what is asked next waits for it. Not the sum of what was left
        # behind: with callers that come and go, that would grow for as long as the encoder hangs.
        self._left = 0
        self._lived_at = 0.0  # the last answer
        self._batches: deque[_Batch] = deque(maxlen=5)  # the last that were answered

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def doubt(self) -> None:
        """Has the next caller prove the tower first."""
        self._proven, self._problem, self._due_at = False, None, 0.0

    async def encode(self, rows: NDArray[Any]) -> Embeddings:
        if not self._proven:
            if self._problem is not None:  # at once; `health` finds out when it is mended
                raise EncoderUnavailable(self._problem)
            await self.check()
        self._under_way.append(rows.size)
        asked_at = _now()
        try:
            embeddings = await self._encode(rows)
        except EncoderUnavailable:
            self.doubt()
            raise
        except ModelOutputInvalid:
            self._note_life()
            raise
        except (asyncio.CancelledError, DeadlineExceeded):
            self._left = max(self._left, sum(self._under_way))
            raise
        finally:
            self._under_way.remove(rows.size)
        self._note_cost(asked_at, rows.size)
        self._note_life()
        self._has_worked = True
        if self._is_wrong:  # found meanwhile
            raise EncoderUnavailable(self._problem or "the model was another one")
        return embeddings

    async def check(self) -> None:
        """Returns if the tower is known to be right. Raises EncoderUnavailable if not."""
        if self._asking is None and _now() >= self._due_at:
            # Without the caller's context: its deadline is not the canary's.
            self._asking = asyncio.create_task(
                self._ask(), name=f"canary-{self._name}", context=Context()
            )
        if self._asking is not None:
            start, wait_s = _now(), self._min_patience_s + 0.1
            await asyncio.wait({self._asking}, timeout=wait_s)
            if not we_were_late(_now() - start, wait_s):
                self._look_for_a_hang()
        if self._problem is not None:
            raise EncoderUnavailable(self._problem)
        if not self._proven:
            raise EncoderUnavailable(f"the {self._name} encoder has not answered yet")

    def _look_for_a_hang(self) -> None:
        if self._silent_since is None:
            return
        silence_s = _now() - self._silent_since
        if silence_s >= self._patience_s():
            self._proven = False
            self._problem = f"the {self._name} encoder has not answered for {silence_s:.1f} s"

    def _patience_s(self) -> float:
        """How long the tower may be silent: what it works on takes its time."""
        return max(self._min_patience_s, 2 * self._work_ahead() * self._cost_s())

    def _work_ahead(self) -> int:
        """The elements of a canary and of all that may be before it: Triton makes one batch of what
        several calls bring, and answers none of them until all are done."""
        return self._canary.size + self._left + sum(self._under_way)

    def _note_cost(self, asked_at: float, size: int) -> None:
        """Learns from an answer that comes now. What was answered since it was asked for was done
        before it; only the rest of the wait was for its own elements. If that is next to nothing,
        it was in one batch with what was answered last."""
        now = _now()
        if self._batches and self._batches[-1].ends_with_one(now):
            self._batches[-1].size += size
        else:
            self._batches.append(_Batch(now, now - max(asked_at, self._lived_at), size))

    def _cost_s(self) -> float:
        """What an element takes in the slowest of the last batches."""
        return max((batch.took_s / batch.size for batch in self._batches), default=0.0)

    def _note_life(self) -> None:
        self._lived_at, self._left = _now(), 0
        self._silent_since = None if self._asking is None else self._lived_at

    async def _ask(self) -> None:
        try:
            await self._ask_once()
        except (DeadlineExceeded, Overloaded, TimeoutError):
            self._due_at = 0.0  # no answer: only that, in the long run, says anything
            return
        except ModelOutputInvalid as error:
            # Callers go on to ask: the check of each answer tells them, row by row.
            self._note_life()
            self._proven, self._problem = True, f"the {self._name} encoder: {error.message}"
        except ClipsearchError as error:
            self._proven, self._problem = False, error.message
        except Exception:  # whatever it is, the encoder is not known to work
            logger.exception("the canary of the %s encoder failed", self._name)
            self._proven, self._problem = False, f"the {self._name} encoder failed"
        finally:
            self._asking = None
        self._silent_since = None

    async def _ask_once(self) -> None:
        asked_at = _now()
        self._due_at = asked_at + _INTERVAL_S
        if self._silent_since is None:
            self._silent_since = asked_at
        async with asyncio.timeout(max(_TIMEOUT_S, self._patience_s())):
            (embedding,) = await self._encode(self._canary)
        self._note_cost(asked_at, self._canary.size)
        self._note_life()
        if self._expected is None:
            self._expected = embedding
        cosine = float(self._expected @ embedding)
        self._is_wrong = cosine < _MIN_COSINE
        if self._is_wrong:
            self._proven = False
            self._problem = (
                f"the {self._name} encoder embeds the canary of its model folder otherwise than "
                f"the model does (cosine {cosine:.3f}): it has other weights, or computes wrongly"
            )
            return
        self._proven, self._problem = True, None
        canary_s = self._canary.size * min(batch.took_s / batch.size for batch in self._batches)
        share = _BUSY_SHARE if self._has_worked else _SHARE
        self._has_worked = False
        self._due_at = max(self._due_at, asked_at + canary_s / share)


@dataclass(slots=True)
class _Batch:
    """What was answered at one time, as far as that can be told."""

    answered_at: float
    took_s: float
    size: int  # elements

    def ends_with_one(self, now: float) -> bool:
        """Whether an answer that comes now is one of it: another batch would have taken longer."""
        return now - self.answered_at <= self.took_s / 10


def _now() -> float:
    """The event loop's own time, which its timeouts go by."""
    return asyncio.get_running_loop().time()
