"""`clipsearch index`, the command and a real server, through Ctrl-C and SIGKILL."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipsearch import SearchClient
from clipsearch_server.testing import ServerProcess
from tiny_model import write_tiny_model

COMMAND = [sys.executable, "-m", "clipsearch"]
SIDE_PX = 12


def picture(number: int) -> bytes:
    """A small PNG that no other number has."""
    chance = random.Random(number)
    rows = b"".join(b"\0" + chance.randbytes(3 * SIDE_PX) for _ in range(SIDE_PX))
    return png(SIDE_PX, rows)


def png(side_px: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def poison(number: int) -> bytes:
    """What is called an image and is none: cut off, text, or a bomb."""
    match number % 3:
        case 0:
            return picture(number)[:-40]
        case 1:
            return f"picture {number} is not here".encode()
        case _:
            return png(60_000, zlib.compress(bytes(10_000)) + str(number).encode())


def make_folder(folder: Path, count: int) -> tuple[set[str], set[str]]:
    """Fills a folder with images, one in a hundred of them poison; returns the SHA-256 of the good
    ones, and the names of the bad ones."""
    good, bad = set(), set()
    for number in range(count):
        file = folder / f"{number // 1000}" / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 37:
            content = poison(number)
            bad.add(file.relative_to(folder).as_posix())
        else:
            content = picture(number)
            good.add(hashlib.sha256(content).hexdigest())
        file.write_bytes(content)
    return good, bad


def unsuccessful(stdout: str) -> int:
    """Counts what the summary calls refused, for good, and failed, such as a picture too large for
    the server's present limit."""
    return sum(map(int, re.findall(r"(\d+) (?:refused|failed)\b", stdout)))


@contextmanager
def indexing(folder: Path, server: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, "--server", server, "index", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_results(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Returns once the journal has so many results."""
    journal = journal_of(folder)
    while not journal.exists() or journal.read_bytes().count(b"\n") <= count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def journal_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.clipsearch-journal")


def failures_of(folder: Path) -> list[str]:
    file = folder.with_name(f"{folder.name}.clipsearch-failures.jsonl")
    return [json.loads(line)["key"] for line in file.read_text().splitlines()]


def check(server: str, folder: Path, good: set[str], bad: set[str]) -> None:
    """Exactly the good ones are stored, once, and the failures are exactly the bad ones."""
    with SearchClient(server) as client:
        stored = [image.sha256 for image in client.list_images(page_size=1000)]
        assert client.list_page(page_size=1).total_size == len(stored)
    assert len(stored) == len(good)
    assert set(stored) == good
    failed = failures_of(folder)
    assert len(failed) == len(bad)
    assert set(failed) == bad


@pytest.fixture
def server_options(tmp_path: Path) -> tuple[str, ...]:
    """A folder to store in, and a model that takes no time: what is tested is all the rest."""
    model = write_tiny_model(tmp_path / "model")
    return "--data-dir", str(tmp_path / "data"), "--model-dir", str(model)


@pytest.mark.long
@pytest.mark.timeout(280)
def test_ten_thousand_files_through_ctrl_c_and_a_crash_of_the_server(
    tmp_path: Path, server_options: tuple[str, ...]
) -> None:
    folder = tmp_path / "pictures"
    count = 10_000
    good, bad = make_folder(folder, count)
    with ServerProcess(*server_options) as server:
        address = server.address
        with indexing(folder, address) as command:
            wait_for_results(command, folder, 3 * count // 10)
            command.send_signal(signal.SIGINT)
            stdout, stderr = command.communicate(timeout=60)
        assert command.returncode == 130, stderr
        assert "the same command goes on from here" in stdout
        assert set(failures_of(folder)) < bad
        with indexing(folder, address, "--wait", "0.5") as command:
            wait_for_results(command, folder, 6 * count // 10)
            server.kill()
            stdout, stderr = command.communicate(timeout=60)
        assert command.returncode == 3, stderr
        assert "the same command goes on from here" in stdout
        assert "Traceback" not in stderr
    with ServerProcess("--address", address, *server_options) as server:
        with indexing(folder, address) as command:
            stdout, stderr = command.communicate(timeout=200)
        assert command.returncode == 1, stderr
        assert "stored already" in stdout
        assert unsuccessful(stdout) == 100
        check(address, folder, good, bad)


def test_a_server_that_comes_back_is_waited_for(
    tmp_path: Path, server_options: tuple[str, ...]
) -> None:
    folder = tmp_path / "pictures"
    count = 1_000
    good, bad = make_folder(folder, count)
    with ServerProcess(*server_options) as server:
        address = server.address
        with indexing(folder, address) as command:
            wait_for_results(command, folder, count // 2)
            server.kill()
            with ServerProcess("--address", address, *server_options):
                stdout, stderr = command.communicate(timeout=120)
                assert command.returncode == 1, stderr
                assert "trying again" in stderr
                assert "the server is back" in stderr
                assert unsuccessful(stdout) == len(bad)
                check(address, folder, good, bad)
