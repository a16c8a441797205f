"""From one model to another of other dimensions, while others search and add all the while."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import pytest

from clipsearch import (
    AddItem,
    Hit,
    InvalidRequestError,
    NotFoundError,
    SearchClient,
    SearchError,
)
from clipsearch_server.testing import ServerProcess
from shorter_model import write_shorter_model

PICTURES = sorted((Path(__file__).parents[2] / "demo" / "pictures").glob("*.png"))
TEXTS = ("a black cat", "a red car", "something to eat")
FETCHED, SENT = PICTURES[:12], PICTURES[12:16]  # there from the start, and looked for
ADDED = PICTURES[16:]  # meanwhile
FETCHED_IDS = [str(UUID(int=n)) for n in range(len(FETCHED))]
SENT_IDS = [str(UUID(int=1000 + n)) for n in range(len(SENT))]
FIXED_IDS = {*FETCHED_IDS, *SENT_IDS}
PAGE = 8
HALF = 5

Answer = tuple[tuple[str, float], ...]


class Web:
    """An HTTP host with the pictures; it keeps what comes after ``hold`` requests waiting."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.held = Event()
        self._released = Event()
        self._limit: int | None = None

    def hold(self, count: int) -> None:
        self.paths.clear()
        self._limit = count

    def release(self) -> None:
        self.paths.clear()
        self._limit = None
        self._released.set()

    def wait_for_turn(self, path: str) -> None:
        self.paths.append(path)
        if self._limit is not None and len(self.paths) > self._limit:
            self.held.set()
            self._released.wait(60)

    @contextmanager
    def serve(self) -> Iterator[str]:
        files = {f"/{path.name}": path for path in FETCHED}
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.wait_for_turn(self.path)
                content = files[self.path].read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                with suppress(BrokenPipeError):  # of what was given up with the crash
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
            thread = Thread(target=host.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{host.server_port}"
            finally:
                self.release()
                host.shutdown()
                thread.join()


def fixed_items(web_address: str) -> list[AddItem]:
    fetched = [
        AddItem(item_id=path.name, id=id, url=f"{web_address}/{path.name}")
        for id, path in zip(FETCHED_IDS, FETCHED, strict=True)
    ]
    sent = [
        AddItem(item_id=path.name, id=id, content=path.read_bytes(), uri=path.as_uri())
        for id, path in zip(SENT_IDS, SENT, strict=True)
    ]
    return fetched + sent


def fixed(hits: Iterable[Hit]) -> Answer:
    return tuple((hit.image.id, hit.score) for hit in hits if hit.image.id in FIXED_IDS)


def ids(client: SearchClient, collection: str) -> set[str]:
    return {it.id for it in client.list_images(collection=collection)}


def answer(client: SearchClient, text: str, collection: str = "") -> Answer:
    return fixed(client.query_text(text, limit=1000, collection=collection).hits)


def paged(client: SearchClient, text: str) -> Answer:
    """The same by pages, from the beginning again if the collection is no longer in use."""
    hits: list[Hit] = []
    token = ""
    while True:
        try:
            page = client.query_text(text, limit=PAGE, page_token=token)
        except InvalidRequestError as error:
            if not token or [it.field for it in error.field_violations] != ["page_token"]:
                raise
            hits, token = [], ""
            continue
        hits += page.hits
        if not (token := page.next_page_token):
            return fixed(hits)


def search(address: str, stopping: Event, restarting: Event) -> list[tuple[str, Answer]]:
    """Searches until told to stop; returns every answer, in their order."""
    found = []
    with SearchClient(address) as client:
        while not stopping.wait(0.2):
            for text in TEXTS:
                try:
                    found.append((text, answer(client, text)))
                    found.append((text, paged(client, text)))
                except SearchError:  # UNAVAILABLE, or CANCELLED of what was under way
                    if not restarting.is_set():
                        raise
    return found


def add(address: str, stopping: Event) -> set[str]:
    """Adds pictures, and deletes every third, until told to stop; returns what must be there."""
    kept: list[str] = []
    with SearchClient(address) as client:
        for n, path in enumerate(ADDED):
            if stopping.wait(0.2):
                break
            kept.append(client.add_image(content=path.read_bytes(), uri=path.as_uri()).image.id)
            if n % 3 == 2:
                try:
                    client.delete_image(kept[0])
                except NotFoundError:  # switched, and not there yet
                    continue
                kept.pop(0)
    return set(kept)


def clipsearch(address: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clipsearch", "--server", address, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def succeed(address: str, folder: Path, *arguments: str) -> str:
    process = clipsearch(address, folder, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def is_of(answer: Answer, expected: Answer) -> bool:
    return [it for it, _ in answer] == [it for it, _ in expected] and [
        score for _, score in answer
    ] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_a_model_is_changed_under_load(tmp_path: Path, unused_tcp_port: int) -> None:
    shorter = write_shorter_model(tmp_path / "shorter", 96)
    address = f"127.0.0.1:{unused_tcp_port}"
    options = (
        *("--data-dir", str(tmp_path / "data"), "--address", address),
        *("--fetch-allow-cidrs", "127.0.0.0/8", "--fetch-ports", "1-65535"),
    )
    reembed = ("reembed", "--model", "clipsearch/demo-96", "--settle", "0.3")
    web, stop_searching, stop_adding, restarting = Web(), Event(), Event(), Event()
    with web.serve() as web_address, ThreadPoolExecutor(2) as threads:
        items = fixed_items(web_address)
        # Both models, and what each is to answer.
        both = ServerProcess(*options, "--extra-model-dirs", str(shorter))
        with both, SearchClient(address) as client:
            assert [it for it in client.add_images(items) if it.error] == []
            client.create_collection("control", model="clipsearch/demo-96")
            assert [it for it in client.add_images(items, collection="control") if it.error] == []
            old = {text: answer(client, text, "images-1") for text in TEXTS}
            new = {text: answer(client, text, "control") for text in TEXTS}
            created = {it.id: it.create_time for it in client.list_images()}
            try:
                searching = threads.submit(search, address, stop_searching, restarting)
                adding = threads.submit(add, address, stop_adding)

                # Half of it, and a crash.
                web.hold(HALF)
                first = clipsearch(address, tmp_path, *reembed)
                assert web.held.wait(60)
                while len(copied := ids(client, "images-2")) < HALF:
                    assert first.poll() is None
                first.kill()
                first.communicate()
                assert first.returncode == -signal.SIGKILL
                web.release()
                assert client.get_collection().name == "images-1"

                # The rest, and nothing twice.
                output = succeed(address, tmp_path, *reembed)
                assert "images now: images-2, and no longer images-1" in output
                fetched = {it.id for it in items if f"/{it.item_id}" in web.paths}
                assert fetched
                assert not fetched & copied
                assert client.get_collection().name == "images-2"

                # What was added meanwhile is there, and nothing else.
                stop_adding.set()
                kept = adding.result()
                images = {it.id: it for it in client.list_images()}
                assert images.keys() == FIXED_IDS | kept
                assert {it: images[it].create_time for it in created} == created

                # The new model alone.
                restarting.set()
                both.stop()
                with ServerProcess(*options, "--model-dir", str(shorter)):
                    assert is_of(answer(client, TEXTS[0]), new[TEXTS[0]])
                    client.delete_collection("images-1", confirm_name="images-1")
                    stop_searching.set()
                    found = searching.result()
            finally:
                stop_searching.set()
                stop_adding.set()
    models = [
        "old" if is_of(it, old[text]) else "new" if is_of(it, new[text]) else it
        for text, it in found
    ]
    changed_at = models.index("new")
    assert set(models[:changed_at]) == {"old"}
    assert set(models[changed_at:]) == {"new"}
