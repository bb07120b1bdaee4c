"""The products of a step, added up to one gradient vector in as few launches as there can be."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convnet.kernels.cuda.launch import Launcher

Array = Any

# As in gradient.cu.
PARTS = 16


def parts_type(dtype: np.dtype) -> np.dtype:
    """Return the type of the structure ``Parts`` of gradient.cu."""
    return np.dtype([("offset", np.int32, PARTS), ("count", np.int32, PARTS), ("scale", dtype, PARTS)])


class DeviceGradientSum:
    """What `convnet.kernels.reference.GradientSum` does, all at the end.

    Parameters
    ----------
    launcher : Launcher
    vector : array
        Takes the sum, whatever it held before.
    parts : mapping of str to array
        Views of `vector`.
    """

    def __init__(self, launcher: Launcher, vector: Array, parts: Mapping[str, Array]):
        self._launcher, self._vector, self._parts = launcher, vector, parts
        self._waiting: list[tuple[str, Array, float]] = []

    def add(self, name: str, value: Array, scale: float) -> None:
        """Add ``scale · value`` to the part called `name`."""
        self._waiting.append((name, value, scale))

    def finish(self, factor: float) -> None:
        """Multiply the sum by `factor`; nothing is added after that."""
        first = True
        while self._waiting or first:
            now: dict[str, tuple[Array, float]] = {}
            later = []
            for name, value, scale in self._waiting:
                if name in now or len(now) == PARTS:
                    later.append((name, value, scale))
                else:
                    now[name] = value, scale * factor
            # Parts that together make up the vector need no zeros to be added to.
            fresh = first and len(now) == len(self._parts)
            if first and not fresh:
                self._vector.fill(0)
            if now:
                self._launch(now, fresh)
            self._waiting, first = later, False

    def _launch(self, now: Mapping[str, tuple[Array, float]], fresh: bool) -> None:
        xp, dtype = self._launcher.cupy, self._vector.dtype
        table = np.zeros(1, parts_type(dtype))
        arrays: list[Array | None] = [None] * PARTS
        for j, (name, (value, scale)) in enumerate(now.items()):
            target = self._parts[name]
            # A complex array is pairs of numbers here, as in the vector.
            array = arrays[j] = xp.ascontiguousarray(value, target.dtype).view(dtype)
            table["offset"][0, j] = (target.data.ptr - self._vector.data.ptr) // dtype.itemsize
            table["count"][0, j] = array.size
            table["scale"][0, j] = scale
        self._launcher.elements("add_parts", dtype, int(table["count"].sum()), *arrays, table, self._vector,
                                np.bool_(fresh))
