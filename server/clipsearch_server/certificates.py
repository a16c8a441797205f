"""Root certificates from a file that a setting names."""

from __future__ import annotations

import ssl
from pathlib import Path

from clipsearch_server.errors import StartupError


def read_root_certificates(file: Path, setting: str) -> bytes:
    """Returns the certificates (PEM) in a file, for gRPC. Blocks, so call it from a thread.

    Raises StartupError, naming the setting, if the file cannot be read or holds no certificates:
    gRPC would take anything, and only never connect.
    """
    try:
        content = file.read_bytes()
        ssl.create_default_context(cadata=content.decode("ascii"))
    except OSError as error:  # ssl's own errors too
        raise StartupError(
            f"{file}: {error.strerror or error}; {setting} names root certificates"
        ) from error
    except ValueError as error:
        raise StartupError(f"{file}: is no PEM file; {setting} names one") from error
    return content
