"""Where the drawings and the words come from: pinned packages, their licences, their download.

Nothing here needs root. npm packages are fetched by ``npm pack``, Debian packages by
``apt-get download``; both honour whatever mirror the machine is set up with.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class SourceError(Exception):
    """A package could not be fetched; the message says which tool or package is missing."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One upstream package. ``licence`` is its SPDX id, as the package itself states it."""

    key: str
    manager: Literal["npm", "debian"]
    package: str  # npm: name@version; debian: name, the version is the release's
    licence: str
    credit: str


# Everything the model is trained on. Attribution for each is in docs/demo-model.md.
TRAINED = (
    Source(
        key="noto-font",
        manager="debian",
        package="fonts-noto-color-emoji",
        licence="Apache-2.0 (artwork), OFL-1.1 (font)",
        credit="Noto Color Emoji, Google",
    ),
    Source(
        key="noto-v1",
        manager="npm",
        package="@iconify-json/noto-v1@1.2.5",
        licence="Apache-2.0",
        credit="Noto Emoji, first series, Google",
    ),
    Source(
        key="twemoji",
        manager="npm",
        package="@iconify-json/twemoji@1.2.5",
        licence="CC-BY-4.0",
        credit="Twemoji, Twitter and contributors",
    ),
    Source(
        key="fluent-emoji",
        manager="npm",
        package="@iconify-json/fluent-emoji@1.2.7",
        licence="MIT",
        credit="Fluent Emoji, Microsoft",
    ),
    Source(
        key="fluent-emoji-flat",
        manager="npm",
        package="@iconify-json/fluent-emoji-flat@1.2.6",
        licence="MIT",
        credit="Fluent Emoji Flat, Microsoft",
    ),
    Source(
        key="fxemoji",
        manager="npm",
        package="@iconify-json/fxemoji@1.2.2",
        licence="Apache-2.0",
        credit="Firefox OS Emoji, Mozilla",
    ),
    Source(
        key="emojione",
        manager="npm",
        package="@iconify-json/emojione@1.2.3",
        licence="CC-BY-4.0",
        credit="EmojiTwo (from EmojiOne 2), EmojiOne and EmojiTwo contributors",
    ),
    Source(
        key="streamline-emojis",
        manager="npm",
        package="@iconify-json/streamline-emojis@1.2.4",
        licence="CC-BY-4.0",
        credit="Streamline Emojis, Streamline",
    ),
    Source(
        key="fluent-emoji-high-contrast",
        manager="npm",
        package="@iconify-json/fluent-emoji-high-contrast@1.2.6",
        licence="MIT",
        credit="Fluent Emoji High Contrast, Microsoft",
    ),
    Source(
        key="emojione-monotone",
        manager="npm",
        package="@iconify-json/emojione-monotone@1.2.1",
        licence="CC-BY-4.0",
        credit="EmojiTwo Monotone, EmojiOne and EmojiTwo contributors",
    ),
    Source(
        key="cldr",
        manager="npm",
        package="cldr-annotations-full@48.2.0",
        licence="Unicode-3.0",
        credit="CLDR annotations, Unicode",
    ),
    Source(
        key="cldr-derived",
        manager="npm",
        package="cldr-annotations-derived-full@48.2.0",
        licence="Unicode-3.0",
        credit="CLDR derived annotations, Unicode",
    ),
    Source(
        key="wordnet",
        manager="debian",
        package="wordnet-base",
        licence="WordNet-3.0",
        credit="WordNet 3.0, Princeton University",
    ),
)

# Measured against, never trained on and never shipped: its licence is share-alike.
UNSEEN = Source(
    key="openmoji",
    manager="npm",
    package="openmoji@17.0.0",
    licence="CC-BY-SA-4.0",
    credit="OpenMoji, HfG Schwäbisch Gmünd and contributors",
)


def fetch(source: Source, folder: Path) -> Path:
    """Download and unpack ``source`` below ``folder``; returns the unpacked folder.

    A folder that is already there is complete, because it is moved into place last.
    """
    unpacked = folder / source.key
    if unpacked.is_dir():
        return unpacked
    partial = folder / f".{source.key}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if source.manager == "npm":
        _run("npm", ["npm", "pack", "--silent", source.package], source, partial)
        archive = next(partial.glob("*.tgz"))
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    else:
        _run("apt-get", ["apt-get", "download", source.package], source, partial)
        archive = next(partial.glob("*.deb"))
        _run("dpkg-deb", ["dpkg-deb", "-x", archive.name, "."], source, partial)
    archive.unlink()
    partial.rename(unpacked)
    return unpacked


def _run(tool: str, command: list[str], source: Source, cwd: Path) -> None:
    if shutil.which(tool) is None:
        raise SourceError(f"{source.package} is fetched with {tool}, which is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_line = (done.stderr.strip() or "no message").splitlines()[-1]
        raise SourceError(f"{tool} could not fetch {source.package}: {last_line}")
