"""A collection's engine, as `app` makes it, on whatever ports a test has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from clipsearch_server.adding import Duplicates, ImageAdder
from clipsearch_server.budget import Budget
from clipsearch_server.embedding import ImageEmbedder
from clipsearch_server.engine import SearchEngine
from clipsearch_server.ports import Encoder, ImageDecoder, ImageFetcher, ImageIndex
from clipsearch_server.searching import ImageSearcher
from clipsearch_server.text import Tokenizer
from clipsearch_server.text_embedding import TextEmbedder


def an_engine(
    *,
    encoder: Encoder,
    tokenizer: Tokenizer,
    decoder: ImageDecoder,
    fetcher: ImageFetcher | None,
    index: ImageIndex,
    executor: Executor,
    memory: Budget,
    duplicates: Duplicates = "refuse",
    max_image_bytes: int = 100_000,
    max_decoded: int = 8,
    max_rows: int = 256,
    collection: str = "images-1",
    model_fingerprint: str = "c" * 64,
    prompt_templates: Sequence[str] = (),
) -> SearchEngine:
    images = ImageEmbedder(
        encoder=encoder,
        fetcher=fetcher,
        decoder=decoder,
        executor=executor,
        max_image_bytes=max_image_bytes,
        max_decoded=max_decoded,
        memory=memory,
    )
    texts = TextEmbedder(encoder=encoder, tokenizer=tokenizer, executor=executor, max_rows=max_rows)
    return SearchEngine(
        adder=ImageAdder(embedder=images, index=index, duplicates=duplicates),
        searcher=ImageSearcher(
            texts=texts,
            images=images,
            index=index,
            executor=executor,
            choosers=asyncio.Semaphore(2),
        ),
        texts=texts,
        index=index,
        collection=collection,
        model_fingerprint=model_fingerprint,
        prompt_templates=prompt_templates,
    )
