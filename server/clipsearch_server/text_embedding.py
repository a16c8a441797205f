"""From texts to embeddings: prompts, tokens, the encoder, and what it was asked before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from clipsearch_server.errors import InvalidRequest
from clipsearch_server.mixing import mix
from clipsearch_server.ports import Embedding, Embeddings, Encoder
from clipsearch_server.recent import Recent
from clipsearch_server.stages import Stages
from clipsearch_server.text import TokenizedText, Tokenizer, pad
from clipsearch_server.turns import Turns

_PLACE = "{}"

# Shorter texts are tokenised faster than a thread takes them over.
_INLINE_CHARS = 256

# Of 2 KiB each, with 512 dimensions.
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class PromptedText:
    """A text, and the templates, each with one ``{}``, that it is put into. None: it stays as it
    is."""

    text: str
    templates: tuple[str, ...] = ()

    def prompts(self) -> list[str]:
        return [template.replace(_PLACE, self.text) for template in self.templates] or [self.text]

    def size_bytes(self) -> int:
        """The size of its prompts together."""
        size = len(self.text.encode())
        return sum(len(it.encode()) - len(_PLACE) + size for it in self.templates) or size

    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.text, self.templates)).encode()).digest()


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """A text as the encoder sees it."""

    embedding: Embedding
    token_count: int  # of the longest prompt, the start and end tokens included
    truncated: bool  # whether a prompt was cut at the token limit


class TextEmbedder:
    """Embeds texts with one model, and remembers those of late: an encoder's answer may depend on
    its batch in the last bit, and the pages of a query are to be cut from one ranking.

    ``executor`` runs what would stop the event loop: tokenising long texts. The encoder gets
    at most ``max_rows`` prompts in a call. What it raises is passed on.
    """

    def __init__(
        self, *, encoder: Encoder, tokenizer: Tokenizer, executor: Executor, max_rows: int = 256
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._executor = executor
        self._max_rows = max_rows
        self._recent: Recent[EmbeddedText] = Recent(_REMEMBERED, name="text")
        self._turns = Turns(1)

    async def embed(self, texts: Sequence[PromptedText], stages: Stages) -> list[EmbeddedText]:
        """Embeds n >= 1 texts. With templates, an embedding is the mean of the prompts', brought
        back to L2 norm 1 (Radford et al. 2021, section 3.1.4).

        Raises InvalidRequest (field ``prompt_templates``) if that mean is zero.
        """
        keys = [text.digest() for text in texts]
        if len(keys) > 1:
            return await self._embed(keys, texts, stages)
        # What many ask for at a time is embedded for the first, and for the next if that one fails.
        async with self._turns.take(keys[0]):
            return await self._embed(keys, texts, stages)

    async def _embed(
        self, keys: Sequence[bytes], texts: Sequence[PromptedText], stages: Stages
    ) -> list[EmbeddedText]:
        found = {key: self._recent.get(key) for key in keys}
        new = {key: text for key, text in zip(keys, texts, strict=True) if found[key] is None}
        known = {key: text for key, text in found.items() if text is not None}
        if new:
            with stages.stage("tokenise"):
                tokenised = await self._tokenise([text.prompts() for text in new.values()])
            with stages.stage("embed"):
                rows = iter(await self._encode([row for rows in tokenised for row in rows]))
            for key, prompts in zip(new, tokenised, strict=True):
                embedded = _ensemble(prompts, [next(rows) for _ in prompts])
                known[key] = self._recent.keep(key, embedded)
        return [known[key] for key in keys]

    async def _tokenise(self, texts: Sequence[Sequence[str]]) -> list[list[TokenizedText]]:
        def tokenise() -> list[list[TokenizedText]]:
            return [[self._tokenizer.tokenize(prompt) for prompt in prompts] for prompts in texts]

        if sum(len(prompt) for prompts in texts for prompt in prompts) <= _INLINE_CHARS:
            return tokenise()
        return await asyncio.get_running_loop().run_in_executor(self._executor, tokenise)

    async def _encode(self, texts: Sequence[TokenizedText]) -> list[Embedding]:
        embeddings: list[Embedding] = []
        for start in range(0, len(texts), self._max_rows):
            some = [text.token_ids for text in texts[start : start + self._max_rows]]
            rows: Embeddings = await self._encoder.encode_text(
                pad(some, self._tokenizer.end_token_id)
            )
            embeddings.extend(rows)
        return embeddings


def _ensemble(prompts: Sequence[TokenizedText], embeddings: Sequence[Embedding]) -> EmbeddedText:
    embedding = mix(embeddings, [1.0] * len(embeddings))
    if embedding is None:
        raise InvalidRequest(
            "prompt_templates", "have embeddings whose mean is zero; leave some templates out"
        )
    return EmbeddedText(
        embedding,
        token_count=max(len(prompt.token_ids) for prompt in prompts),
        truncated=any(prompt.truncated for prompt in prompts),
    )
