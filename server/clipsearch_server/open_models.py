"""Opens the models: their folders, tokenizers, decoding processes and encoders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

from clipsearch_server.canary import read_canary
from clipsearch_server.cores import cores
from clipsearch_server.decoding.pool import WorkerPool
from clipsearch_server.encoders.batching import BatchingEncoder
from clipsearch_server.encoders.proven import ProvenEncoder
from clipsearch_server.entering import enter_both
from clipsearch_server.errors import StartupError
from clipsearch_server.loaded_model import LoadedModel, LoadedModels
from clipsearch_server.model import ModelCard, ModelFolder, open_model_folder
from clipsearch_server.ports import Encoder, ImageDecoder
from clipsearch_server.settings import Settings
from clipsearch_server.text import Tokenizer

# What decides how an image is decoded for a model: size_px, resize_px, resample.
_Size: TypeAlias = tuple[int, int, str]


def open_folders(settings: Settings) -> list[ModelFolder]:
    """Reads the folders of ``model_dir`` and of ``extra_model_dirs``, in this order.

    Raises StartupError if one cannot be used, or if two are of the same model.
    """
    if settings.extra_model_dirs and settings.encoder.backend == "triton":
        raise StartupError(
            "extra_model_dirs: a Triton server has one model, under the names that every model "
            "folder gives it; run several with --encoder-backend onnxruntime, or a server for each"
        )
    folders = [open_model_folder(path) for path in (settings.model_dir, *settings.extra_model_dirs)]
    _require_different(folders)
    return folders


@asynccontextmanager
async def open_models(
    settings: Settings, folders: Sequence[ModelFolder]
) -> AsyncIterator[LoadedModels]:
    """Opens the models of these folders, in this order. Raises StartupError if one cannot be."""
    async with AsyncExitStack() as stack:
        decoders, encoders = await enter_both(
            stack,
            _open_decoders(settings, [folder.card for folder in folders]),
            _open_encoders(settings, folders),
        )
        yield LoadedModels(
            [
                LoadedModel(
                    card=folder.card,
                    tokenizer=await asyncio.to_thread(_open_tokenizer, folder),
                    encoder=encoder,
                    decoder=decoders[_size(folder.card)],
                )
                for folder, encoder in zip(folders, encoders, strict=True)
            ]
        )


def _require_different(folders: Sequence[ModelFolder]) -> None:
    seen: dict[str, ModelFolder] = {}
    for folder in folders:
        other = seen.setdefault(folder.card.fingerprint, folder)
        if other is not folder:
            raise StartupError(
                f"{folder.path}: holds the model of {other.path}, {folder.card.model_id}; name "
                "each model once in model_dir and extra_model_dirs"
            )


def _size(card: ModelCard) -> _Size:
    return card.image_size_px, card.resize_px, card.resample


@asynccontextmanager
async def _open_decoders(
    settings: Settings, cards: Sequence[ModelCard]
) -> AsyncIterator[Mapping[_Size, ImageDecoder]]:
    """Models of one size share a decoder."""
    decoders: dict[_Size, ImageDecoder] = {}
    async with AsyncExitStack() as stack:
        for card in cards:
            if _size(card) not in decoders:
                decoders[_size(card)] = await stack.enter_async_context(
                    WorkerPool(
                        size_px=card.image_size_px,
                        resize_px=card.resize_px,
                        resample=card.resample,
                        max_pixels=settings.image.max_pixels,
                        max_bytes=settings.image.max_bytes,
                        workers=settings.image.decode_workers,
                        memory_bytes=settings.image.decode_memory_mib * 2**20,
                        cpu_s=settings.image.decode_cpu_s,
                        max_waiting=settings.image.decode_max_waiting,
                    )
                )
        yield decoders


@asynccontextmanager
async def _open_encoders(
    settings: Settings, folders: Sequence[ModelFolder]
) -> AsyncIterator[list[Encoder]]:
    async with AsyncExitStack() as stack:
        yield [await _open_encoder(stack, settings, folder) for folder in folders]


def _open_tokenizer(folder: ModelFolder) -> Tokenizer:
    return Tokenizer(
        folder.tokenizer_path,
        max_tokens=folder.card.max_tokens,
        start_token_id=folder.card.start_token_id,
        end_token_id=folder.card.end_token_id,
    )


async def _open_encoder(stack: AsyncExitStack, settings: Settings, model: ModelFolder) -> Encoder:
    encoder: Encoder
    if settings.encoder.backend == "triton":
        # Imported here: it takes a quarter of a second that most servers can start without.
        from clipsearch_server.encoders.triton import TritonEncoder

        encoder = await stack.enter_async_context(
            TritonEncoder(
                model.card,
                address=settings.triton.address,
                timeout_s=settings.triton.timeout_s,
                tls=settings.triton.tls,
                ca_file=settings.triton.ca_file,
            )
        )
        concurrency = settings.triton.max_in_flight
        max_image_batch = settings.encoder.max_batch
    else:
        try:
            from clipsearch_server.encoders.ort import OnnxEncoder
        except ModuleNotFoundError as error:
            raise StartupError(
                "ONNX Runtime is missing: install clipsearch-server[cpu] or, for a GPU, "
                "clipsearch-server[gpu], or let Triton run the model (--encoder-backend triton)"
            ) from error

        encoder = in_process = await stack.enter_async_context(
            OnnxEncoder(
                model,
                threads=settings.encoder.threads or cores(),
                device=settings.encoder.device,
                gpu_memory_bytes=settings.encoder.gpu_memory_mib * 2**20,
                max_batch=settings.encoder.max_batch,
                engine_cache_dir=settings.data_dir / "tensorrt",
            )
        )
        concurrency = in_process.concurrency
        # An image is many rows to compute, so half a batch is as fast; and the last one of a load
        # is computed beside none.
        max_image_batch = max(settings.encoder.max_batch // concurrency, 1)
    proven = await stack.enter_async_context(
        ProvenEncoder(encoder, await asyncio.to_thread(read_canary, model))
    )
    return await stack.enter_async_context(
        BatchingEncoder(
            proven,
            pad_token_id=model.card.end_token_id,
            max_batch=settings.encoder.max_batch,
            max_image_batch=max_image_batch,
            max_waiting=settings.encoder.max_waiting,
            concurrency=concurrency,
        )
    )


def max_decoded(settings: Settings) -> int:
    """How many images may be decoded and not yet embedded: the encoder's batches under way (one in
    this process, or two halves), one more that is ready for it, and those that are being
    decoded."""
    batches = settings.triton.max_in_flight if settings.encoder.backend == "triton" else 1
    decoders = settings.image.decode_workers or cores()
    return min((batches + 1) * settings.encoder.max_batch + decoders, settings.encoder.max_waiting)
