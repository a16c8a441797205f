"""The programs in bench/, for tests that run a small part of what they run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parents[1] / "bench"


def bench(name: str) -> ModuleType:
    """Imports one, or a module of a package there: ``package.module``. The folder is on the path
    for that time only, and last: a name there is that of another's package."""
    if "." in name:
        sys.path.append(str(_FOLDER))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(_FOLDER))
    spec = importlib.util.spec_from_file_location(f"bench_{name}", _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    sys.path.append(str(_FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(_FOLDER))
    return module
