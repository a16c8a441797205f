"""Text -> token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from clipsearch_server.errors import StartupError
from clipsearch_server.ports import TokenIds

# A text's beginning, in characters, that nearly always holds more words than a model takes.
_HEAD_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as the text encoder takes it."""

    token_ids: NDArray[np.int64]  # (t,): start token, words, end token
    truncated: bool  # whether words were cut off to stay within the token limit


class Tokenizer:
    """Turns texts into the token ids of one model.

    May be called from several threads at once; the work is done outside the interpreter lock.
    """

    def __init__(
        self, path: Path, *, max_tokens: int, start_token_id: int, end_token_id: int
    ) -> None:
        """Reads a tokenizer.json; the numbers are the model card's.

        Raises StartupError if the file cannot be read or does not know the start or end token.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise StartupError(
                f"{path}: is not a tokenizer this server reads; export the model again"
            ) from error
        for token_id in (start_token_id, end_token_id):
            if self._tokenizer.id_to_token(token_id) is None:
                raise StartupError(
                    f"{path}: has no token {token_id}, which the model card names; export the "
                    "model again"
                )
        # A special token in a text is text: `<|endoftext|>` would otherwise end the query there.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max_words = max_tokens - 2
        self._start_token_id = start_token_id
        self.end_token_id = end_token_id  # which texts are padded with

    def tokenize(self, text: str) -> TokenizedText:
        """Returns the token ids of any text: 2 <= t <= max_tokens, the start and end token always
        included. Lone surrogates, which are no characters, count as question marks."""
        word_ids = self._word_ids(text.encode(errors="replace").decode())
        token_ids = [self._start_token_id, *word_ids[: self._max_words], self.end_token_id]
        return TokenizedText(
            np.array(token_ids, dtype=np.int64), truncated=len(word_ids) > self._max_words
        )

    def _word_ids(self, text: str) -> list[int]:
        # Words are tokenised by themselves and a space ends one, so what comes before a space has
        # the same tokens as it has in the whole text. When that is enough, the rest (0.2 s of work
        # for 64 KiB) need not be looked at.
        if len(text) > _HEAD_LENGTH:
            word_ids = self._encode(text[: max(0, text.rfind(" ", 0, _HEAD_LENGTH))])
            if len(word_ids) > self._max_words:
                return word_ids
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def pad(texts: Sequence[NDArray[np.int64]], pad_token_id: int) -> TokenIds:
    """(t_i,) int64 each -> (n, max t) int64, filled up with the padding token."""
    padded = np.full((len(texts), max(map(len, texts))), pad_token_id, dtype=np.int64)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    return padded
