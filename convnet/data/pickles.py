"""Pickled dictionaries of plain containers and NumPy arrays, read without running anything that is in them.

The python archives of CIFAR are pickles, and a pickle is a program. This reader knows no class and calls no function
of the file's choosing: the few names that a pickled array refers to are answered by stand-ins defined here, every other
name is refused, and sizes are compared with the file's before memory is taken for them.
"""
from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convnet.data.messages import brief

_LARGEST = 1 << 29


def read_pickle(path: str | os.PathLike) -> dict[str, Any]:
    """Return a pickled dictionary of numeric NumPy arrays, lists, tuples, dicts, numbers and strings.

    Strings written by Python 2 are returned as bytes, except the dictionary's own keys, which are always str.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not such a pickle, is truncated, or refers to anything else.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{path} has {size} bytes; a pickled data set has at most {_LARGEST}")
    content = path.read_bytes()
    try:
        _check_sizes(content)
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a dictionary")
        return {_text(key): entry.array() if isinstance(entry, _ArrayStandIn) else entry
                for key, entry in value.items()}
    # A damaged pickle can fail in any operation of the machine that runs it.
    except Exception as error:
        raise ValueError(f"{path} is not a pickle of plain containers and arrays, or is damaged ({brief(error)}); "
                         "fetch it again") from error


class _DtypeStandIn:
    """Stands for numpy.dtype: keeps the type's code and byte order."""

    def __init__(self, code: Any = None, *_: Any):
        self.code = code.decode() if isinstance(code, bytes) else code
        self.order = "|"

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        self.order = order.decode() if isinstance(order, bytes) else order

    def dtype(self) -> np.dtype:
        """Return the type, which must be a boolean, whole or real number."""
        if not (isinstance(self.code, str) and len(self.code) == 2 and self.code[0] in "biuf"):
            raise ValueError(f"an array of type {self.code!r}")
        return np.dtype(">" + self.code if self.order == ">" else self.code)


class _ArrayStandIn:
    """Stands for numpy.ndarray until its shape, type and bytes are known."""

    value: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """Return the array."""
        if self.value is None:
            raise ValueError("an array without content")
        return self.value

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, column_major, content = state
        dtype = kind.dtype()
        if isinstance(content, str):
            content = content.encode("latin1")
        if not all(isinstance(length, int) and length >= 0 for length in shape) \
                or math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"an array of shape {shape} with {len(content)} bytes")
        self.value = np.frombuffer(content, dtype).reshape(shape, order="F" if column_major else "C")


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _reconstruct(*_: Any) -> _ArrayStandIn:
    """Stand for the function that makes an empty array."""
    return _ArrayStandIn()


def _frombuffer(content: bytes, kind: _DtypeStandIn, shape: tuple, order: str) -> _ArrayStandIn:
    """Stand for the function by which protocol 5 makes an array."""
    result = _ArrayStandIn()
    result.__setstate__((1, shape, kind, order == "F", bytes(content)))
    return result


def _encode(text: str, encoding: str) -> bytes:
    """Stand for _codecs.encode, by which Python 3 writes bytes in the old protocols."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _ArrayStandIn,
    ("numpy", "dtype"): _DtypeStandIn,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that pickled arrays use; refuse every other name."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        # A fresh function each time: a pickle may set attributes of what it is given.
        return lambda *arguments: _STAND_INS[module, name](*arguments)


def _check_sizes(content: bytes) -> None:
    """Refuse opcodes that announce more than the file holds, before the unpickler takes memory for it.

    Walking over the opcodes compares every counted string with what is left of the file; the two numbers below are not
    strings.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "FRAME") and int(argument or 0) > len(content):
            raise ValueError(f"{opcode.name} {argument}")
