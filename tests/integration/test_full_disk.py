"""The real server on a disk that fills up, with its log on the same one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clipsearch import AddItem, AddOutcome, SearchClient, StorageFullError
from samples import png
from tiny_model import write_tiny_model


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 160 MiB: the index keeps 64 of them free, and needs some itself."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def logging_to(log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that logs to a file; yields its address."""
    command = [sys.executable, "-m", "clipsearch_server", "--address", "127.0.0.1:0", *options]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            while not (serving := re.search(r"serving address=(\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.01)
            yield serving[1], process
        finally:
            process.kill()


def fill(file: Path) -> None:
    """Takes what is left of the disk."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(2**16))


def test_row_41_a_full_disk_refuses_writes_and_nothing_else_until_it_has_space(
    small_disk: Path, tmp_path: Path
) -> None:
    model = write_tiny_model(tmp_path / "model")
    log, filler = small_disk / "log", small_disk / "filler"
    options = ("--data-dir", str(small_disk / "data"), "--model-dir", str(model))
    with logging_to(log, *options) as (address, process), SearchClient(address) as client:
        red = client.add_image(content=png("red")).image
        fill(filler)
        logged = log.stat().st_size
        with pytest.raises(StorageFullError) as caught:
            client.add_image(content=png("blue"))
        assert caught.value.reason == "STORAGE_FULL"
        assert caught.value.retry_after_s is None  # no waiting helps
        (result,) = client.add_images([AddItem(item_id="1", content=png("blue"))])
        assert isinstance(result.error, StorageFullError)
        with pytest.raises(StorageFullError):
            client.create_collection("other")
        for _ in range(200):  # more than the log's last page has room for
            assert [hit.image for hit in client.query_text("red").hits] == [red]
        assert log.stat().st_size < logged + 4096
        assert client.get_image(red.id) == red
        assert list(client.list_images()) == [red]
        filler.unlink()
        assert client.add_image(content=png("blue")).outcome is AddOutcome.ADDED
        assert len(list(client.list_images())) == 2
        process.terminate()
        assert process.wait() == 0
    assert log.read_text().endswith("stopped\n")  # the log goes on too
    assert "Traceback" not in log.read_text()
