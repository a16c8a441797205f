"""`make triton`: runs a real NVIDIA Triton here, without Docker, until Ctrl-C.

It is the CPU build that PyPI carries, with the python backend alone; production runs NVIDIA's image
(docs/triton.md).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from clipsearch_server.errors import StartupError
from clipsearch_server.testing import TritonProcess

PORT = 8001


def main(home: str, models: str) -> int:
    try:
        with TritonProcess(Path(home), Path(models), port=PORT) as triton:
            sys.stdout.write(
                f"Triton serves {models} at {triton.address}; Ctrl-C stops it. In another terminal:"
                f"\n  .venv/bin/clipsearch-server --encoder-backend triton --model-dir {models} "
                "--data-dir data/demo\n"
            )
            sys.stdout.flush()
            code = triton.process.wait()
            sys.stderr.write(f"Triton ended with {code}; it said last:\n{triton.log[-2000:]}")
    except KeyboardInterrupt:
        return 0
    except StartupError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or f'port {PORT}'}: {error.strerror}\n")
        return 1
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(*sys.argv[1:]))
