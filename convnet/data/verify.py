"""Whether a data set on disk is the published one, or at least sound."""
from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from convnet.data.archives import SUMS, checksum
from convnet.data.catalogue import COLLECTIONS, CONTENT
from convnet.data.idx import find_idx
from convnet.data.registry import find, load
from convnet.names import lookup

PUBLISHED, SOUND, DAMAGED = "as published", "sound, but not byte for byte the published file", "damaged"


@dataclass(frozen=True)
class Finding:
    """What is known of one file or folder: its `state` is "as published", "sound, ..." or "damaged"."""

    path: Path
    state: str
    reason: str = ""


def verify(name: str, root: str | os.PathLike | None = None) -> list[Finding]:
    """Compare a data set's files with the published checksums, and read it.

    Parameters
    ----------
    name, root
        As for `convnet.data.load`.

    Returns
    -------
    list of Finding
        One for each file or unpacked archive. A copy without published sums is sound if it can be read.

    Raises
    ------
    ValueError
        If the name is unknown.
    FileNotFoundError
        If there is no such data set under `root`.
    """
    collection = lookup("data set", name, COLLECTIONS)
    folder = find(name, root)
    findings = []
    for file in collection.files:
        if file.unpacks_to is not None:
            findings.extend(_unpacked(folder))
        elif name in ("mnist", "fashion-mnist"):
            findings.append(_idx(name, folder, file.name.removesuffix(".gz"), file.checksum))
        else:
            findings.append(_compared(folder / file.name, {file.checksum}))
    if all(finding.state == PUBLISHED for finding in findings):
        return findings
    try:
        load(name, root)
    # Whatever reading raises is what is wrong with the copy.
    except (ValueError, OSError) as error:
        return [*(finding for finding in findings if finding.state == DAMAGED),
                Finding(folder, DAMAGED, str(error))]
    return findings


def _unpacked(folder: Path) -> list[Finding]:
    """Return the findings for the unpacked archives in (or at) a folder."""
    names = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-100-binary", "cifar-100-python")
    return [finding for place in (folder, *(folder / name for name in names)) if place.name in names and place.is_dir()
            for finding in _members(place)]


def _members(folder: Path) -> list[Finding]:
    """Compare the members of an unpacked archive with the sums noted beside them or published."""
    sums: dict[str, str] = dict(CONTENT.get(folder.name, {}))
    if (folder / SUMS).is_file():
        for line in (folder / SUMS).read_text().splitlines():
            digest, _, member = line.partition("  ")
            sums[Path(member).name] = f"sha256:{digest}"
    if not sums:
        return [Finding(folder, SOUND)]
    return [_compared(folder / member, {expected}) for member, expected in sums.items()]


def _compared(path: Path, expected: set[str]) -> Finding:
    if not path.is_file():
        return Finding(path, DAMAGED, "missing")
    for sum_ in expected:
        algorithm, _, digest = sum_.partition(":")
        if checksum(path, algorithm) == digest:
            return Finding(path, PUBLISHED)
    return Finding(path, DAMAGED, "its checksum is not the published one")


def _idx(name: str, folder: Path, base: str, published: str) -> Finding:
    """Compare one of MNIST's files, packed as published, packed anew, or unpacked."""
    path = find_idx(folder, base)
    if path is None:
        return Finding(folder / base, DAMAGED, "missing")
    if _compared(path, {published}).state == PUBLISHED:
        return Finding(path, PUBLISHED)
    content = CONTENT.get(name, {}).get(base)
    if content is None:
        return Finding(path, SOUND)
    digest = hashlib.new(content.partition(":")[0])
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return Finding(path, DAMAGED, str(error))
    if digest.hexdigest() == content.partition(":")[2]:
        return Finding(path, PUBLISHED)
    return Finding(path, DAMAGED, "its content is not the published one")
