from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipsearch.cli.pictures import PictureError, load_picture


def png(mode: str, colour: Any, size: tuple[int, int] = (4, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves a picture, a trickle that never ends, and nothing else."""

    def do_GET(self) -> None:
        if self.path == "/gone.png":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/red.png":
            self.wfile.write(png("RGB", "red"))
        else:
            stop: threading.Event = self.server.stop  # type: ignore[attr-defined]
            while not stop.wait(0.02):
                self.wfile.write(b"x")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stop = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stop.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "r\u00f8d #1.png"
    file.write_bytes(png("RGB", "red"))
    assert load_picture(file.as_uri()).getpixel((0, 0)) == (255, 0, 0)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    file = tmp_path / "clear.png"
    file.write_bytes(png("RGBA", (255, 0, 0, 0)))
    assert load_picture(file.as_uri()).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.new("RGB", (8, 4)).save(file, exif=exif)
    assert load_picture(file.as_uri()).size == (4, 8)


def test_a_url(host: str) -> None:
    assert load_picture(f"{host}/red.png").getpixel((0, 0)) == (255, 0, 0)


def test_a_url_that_is_not_there(host: str) -> None:
    with pytest.raises(PictureError, match="HTTP status 404"):
        load_picture(f"{host}/gone.png")


def test_a_trickle_is_not_waited_for(host: str) -> None:
    with pytest.raises(PictureError, match="too slow"):
        load_picture(f"{host}/trickle.png", timeout_s=0.3)


def test_a_closed_port(unused_tcp_port: int) -> None:
    with pytest.raises(PictureError, match="Connection refused"):
        load_picture(f"http://127.0.0.1:{unused_tcp_port}/x.png")


@pytest.mark.parametrize("uri", ["", "shelf:3", "ftp://127.0.0.1/x.png", "data:image/png;base64,"])
def test_other_uris_are_not_followed(uri: str) -> None:
    with pytest.raises(PictureError, match="not a file, http or https uri"):
        load_picture(uri)


@pytest.mark.parametrize("content", [b"", b"text", png("RGB", "red")[:-20], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(PictureError):
        load_picture(file.as_uri())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="No such file"):
        load_picture((tmp_path / "gone.png").as_uri())


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="not a file"):
        load_picture("file:///dev/zero")
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(33 * 1024 * 1024)
    with pytest.raises(PictureError, match="too large"):
        load_picture(huge.as_uri())
