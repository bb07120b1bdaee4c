"""Archives, unpacked whole or not at all, and never outside their folder."""
from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

SUMS = "SHA256SUMS"
_MOST_MEMBERS, _MOST_BYTES = 1000, 1 << 30


def unpack(archive: Path, holds: str, into: Path) -> Path:
    """Unpack a tar archive that holds the one folder `holds`, and note the sums of its files in there.

    Parameters
    ----------
    archive : path
        Its checksum has been compared: what is noted afterwards serves to verify the unpacked copy.
    holds : str
        Name of the folder in the archive.
    into : path
        The folder is put here once it is complete, in place of an older one.

    Returns
    -------
    path
        ``into / holds``, with a file SHA256SUMS as the program sha256sum reads it.

    Raises
    ------
    ValueError
        If it is not a tar archive, is damaged, does not hold that folder, is far too large, or has members other than
        plain files and folders, or outside of it.
    OSError
        If it cannot be written. What was there stays, and nothing half-unpacked does.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into))
    try:
        try:
            with tarfile.open(archive) as tar:
                _extract(tar, archive, holds, temporary)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(f"{archive} is damaged or not a tar archive ({error}); fetch it again") from error
        except OSError as error:
            # gzip reports damage as an OSError without a number.
            if error.errno is None:
                raise ValueError(f"{archive} is damaged ({error}); fetch it again") from error
            raise OSError(error.errno, f"cannot unpack {archive} into {into}: {error.strerror}; free some space or "
                                       "choose another folder") from error
        unpacked = temporary / holds
        if not unpacked.is_dir():
            raise ValueError(f"{archive} holds no folder {holds}; is it another file under this name?")
        lines = [f"{checksum(path, 'sha256')}  {path.name}\n" for path in sorted(unpacked.iterdir()) if path.is_file()]
        (unpacked / SUMS).write_text("".join(lines))
        _exchange(unpacked, into / holds, temporary / "old")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return into / holds


def _extract(tar: tarfile.TarFile, archive: Path, holds: str, into: Path) -> None:
    count = size = 0
    # Pythons before 3.11.4 lack the filter; whatever it would refuse is refused below as well.
    if hasattr(tarfile, "data_filter"):
        tar.extraction_filter = tarfile.data_filter
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"{archive} has the member {member.name!r}, which is neither a file nor a folder")
        path = Path(member.name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] not in ((holds,), ()):
            raise ValueError(f"{archive} has the member {member.name!r}, which is not in its folder {holds}")
        count, size = count + 1, size + member.size
        if count > _MOST_MEMBERS or size > _MOST_BYTES:
            raise ValueError(f"{archive} has more than {_MOST_MEMBERS} members or {_MOST_BYTES} bytes")
        tar.extract(member, into)
    # What compressed the archive put its checksum at the very end, behind tar's own.
    while tar.fileobj is not None and size <= _MOST_BYTES and (rest := tar.fileobj.read(1 << 20)):
        size += len(rest)


def _exchange(new: Path, place: Path, old: Path) -> None:
    """Put `new` at `place`; if that fails, what was there is there again."""
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(new, place)
    except OSError:
        if old.exists():
            os.replace(old, place)
        raise


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
