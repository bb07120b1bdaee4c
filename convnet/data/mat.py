"""MATLAB 5 files of numeric arrays, read as a stream: SVHN's images are larger than the memory they should need.

Nothing is believed before it is checked, and no memory is taken for what a file merely announces. (scipy.io.loadmat
reads a variable whole and trusts the sizes in the file: a damaged one can end the process.)

Format: a header of 128 bytes, then elements. An element is a type and a byte count (32 bits each; both and the data
in 8 bytes where the count is at most 4) and its data, padded to a multiple of 8 bytes. A matrix element holds four
elements: flags with the class, dimensions, name, and the values in column-major order. A compressed element is a zlib
stream of one matrix element. (MAT-File Format, The MathWorks, chapter 1.)
"""
from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_MOST_AXES, _LONGEST_NAME = 16, 256
_CHUNK = 1 << 16
_MAX_DEFLATE_RATIO = 1032


@dataclass(frozen=True)
class Variable:
    """One numeric array of a file: its shape and type as stored, and where its element begins."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    offset: int

    def blocks(self, count: int) -> Iterator[np.ndarray]:
        """Yield the array in blocks of at most `count` entries of its LAST axis, which comes first in the blocks.

        Column-major order keeps the entries of the last axis together: a block has the shape ``(n, *reversed(rest))``.

        Raises
        ------
        ValueError
            If the values end before the array does.
        """
        entry = math.prod(self.shape[:-1]) * self.dtype.itemsize
        with _element(self.path, self.offset, self.order) as stream:
            _matrix_header(stream)
            for start in range(0, self.shape[-1], count):
                number = min(count, self.shape[-1] - start)
                content = stream.read(number * entry)
                yield np.frombuffer(content, self.dtype).reshape(number, *self.shape[-2::-1])
            stream.finish()

    def read(self) -> np.ndarray:
        """Return the whole array."""
        (values,) = self.blocks(self.shape[-1])
        return values.transpose()


def variables(path: str | os.PathLike) -> dict[str, Variable]:
    """Return the numeric arrays of a file by name, without reading their values.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a MATLAB 5 file, or is truncated or damaged.
    """
    path = Path(path)
    found = {}
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(_HEADER)
        mark = header[126:128]
        if len(header) < _HEADER or mark not in (b"IM", b"MI"):
            raise ValueError(f"{path} is not a MATLAB 5 file (it starts with {header[:8]!r}); fetch it again")
        order = "<" if mark == b"IM" else ">"
        offset = _HEADER
        while offset < size:
            file.seek(offset)
            tag = file.read(8)
            if len(tag) < 8:
                raise ValueError(f"{path} is truncated: an element begins {len(tag)} bytes before its end; fetch it "
                                 "again")
            kind, length = struct.unpack(order + "II", tag)
            if offset + 8 + length > size:
                raise ValueError(f"{path} is truncated: an element announces {length} bytes, {size - offset - 8} are "
                                 "left; fetch it again")
            if kind in (_MATRIX, _COMPRESSED):
                with _element(path, offset, order) as stream:
                    variable = _matrix_header(stream)
                if variable is not None:
                    name, shape, dtype = variable
                    if math.prod(shape) * dtype.itemsize > (length + 8) * _MAX_DEFLATE_RATIO:
                        raise ValueError(f"{path}: the array {name!r} of shape {shape} cannot be in {length} bytes; "
                                         "fetch it again")
                    found[name] = Variable(path, shape, dtype, order, offset)
            # Elements are padded to eight bytes, compressed ones are not.
            offset += 8 + length + (0 if kind == _COMPRESSED else -length % 8)
    return found


class _Stream:
    """Reads the bytes of one element, unpacked, and never more than were asked for."""

    def __init__(self, path: Path, file: IO[bytes], length: int, order: str, compressed: bool):
        self.path, self.order = path, order
        self._file, self._left = file, length
        self._unpacker = zlib.decompressobj() if compressed else None
        self._ahead = b""

    def read(self, count: int) -> bytes:
        content = bytearray(self._ahead[:count])
        self._ahead = self._ahead[count:]
        while len(content) < count:
            piece = self._piece(count - len(content))
            if not piece:
                raise ValueError(f"{self.path} is truncated: an array ends {count - len(content)} bytes too early; "
                                 "fetch it again")
            content += piece
        return bytes(content)

    def finish(self) -> None:
        """Make sure that a compressed element ends soundly: only at its end is its checksum compared."""
        if self._unpacker is not None:
            self._piece(8)      # padding
            if self._piece(1) or not self._unpacker.eof:
                raise ValueError(f"{self.path} is damaged: a compressed array does not end where it should; fetch it "
                                 "again")

    def _piece(self, count: int) -> bytes:
        if self._unpacker is None:
            return self._raw(min(count, _CHUNK))
        try:
            while True:
                waiting = self._unpacker.unconsumed_tail or self._raw(_CHUNK)
                piece = self._unpacker.decompress(waiting, min(count, 16 * _CHUNK))
                if piece or self._unpacker.eof or not waiting:
                    return piece
        except zlib.error as error:
            raise ValueError(f"{self.path} is corrupted ({error}); fetch it again") from error

    def _raw(self, count: int) -> bytes:
        content = self._file.read(min(count, self._left))
        self._left -= len(content)
        return content

    def tag(self) -> tuple[int, int, int]:
        """Return an element's type, its byte count and its byte count with padding; its data are read next."""
        kind, length = struct.unpack(self.order + "II", self.read(8))
        if kind >> 16:      # the short form: the data are in the tag's last four bytes
            self._ahead = struct.pack(self.order + "I", length)
            return kind & 0xFFFF, min(kind >> 16, 4), 4
        return kind, length, length + -length % 8

    def small(self, wanted: int, longest: int) -> bytes:
        """Return the data of an element that must have type `wanted` and at most `longest` bytes."""
        kind, length, padded = self.tag()
        if kind != wanted or length > longest:
            raise ValueError(f"{self.path} is damaged: an array's header holds {length} bytes of type {kind}; fetch it "
                             "again")
        return self.read(padded)[:length]


@contextmanager
def _element(path: Path, offset: int, order: str) -> Iterator[_Stream]:
    """Open the element at `offset` as a stream that begins with a matrix element's tag."""
    with open(path, "rb") as file:
        file.seek(offset)
        kind, length = struct.unpack(order + "II", file.read(8))
        if kind == _MATRIX:
            file.seek(offset)
            length += 8
        yield _Stream(path, file, length, order, kind == _COMPRESSED)


def _matrix_header(stream: _Stream) -> tuple[str, tuple[int, ...], np.dtype] | None:
    """Read up to the first value; return name, shape and stored type, or None if it is not a real numeric array."""
    kind, _, _ = stream.tag()
    if kind != _MATRIX:
        raise ValueError(f"{stream.path} is damaged: an element of type {kind} where an array should be; fetch it "
                         "again")
    flags = stream.small(_UINT32, 8)
    if len(flags) != 8:
        raise ValueError(f"{stream.path} is damaged: an array's flags are {len(flags)} bytes long; fetch it again")
    word = struct.unpack(stream.order + "II", flags)[0]
    if word & 0xFF not in _NUMERIC_CLASSES or word & _COMPLEX:
        return None
    axes = stream.small(_INT32, 4 * _MOST_AXES)
    shape = tuple(int(number) for number in np.frombuffer(axes[:len(axes) // 4 * 4], stream.order + "i4"))
    name = stream.small(_INT8, _LONGEST_NAME).decode("ascii", "replace")
    kind, length, _ = stream.tag()
    dtype = np.dtype(stream.order + _TYPES.get(kind, "V1"))
    if dtype.kind == "V" or len(shape) < 2 or min(shape) < 0 or math.prod(shape) * dtype.itemsize != length:
        raise ValueError(f"{stream.path} is damaged: the array {name!r} of shape {shape} has {length} bytes of type "
                         f"{kind}; fetch it again")
    return (name, shape, dtype) if length else None
