"""Ends a command with one line if a file, or what reads it, is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from clipsearch.cli.index.entry import FormatError
from clipsearch.cli.index.journal import JournalError
from clipsearch.cli.output import show_error
from clipsearch.cli.session import ExitCode


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Shows what is wrong with a file, ``path`` unless the error names another, and exits."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        show_error("Parquet needs pyarrow; install it with: pip install pyarrow")
        raise typer.Exit(ExitCode.USAGE) from error
    except FormatError as error:
        show_error(f"{path}: {error}")
        raise typer.Exit(ExitCode.USAGE) from error
    except JournalError as error:
        show_error(str(error))
        raise typer.Exit(ExitCode.USAGE) from error
    except BrokenPipeError:  # of who reads our output, which ends every command in one way
        raise
    except OSError as error:
        show_error(f"{error.filename or path}: {error.strerror or error}")
        raise typer.Exit(ExitCode.USAGE) from error
