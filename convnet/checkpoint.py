"""Checkpoints: everything that the rest of a training run depends on, in one file that is written whole or not at all.

A checkpoint is an ``.npz`` file with the parameters, running statistics and the optimiser's vectors as arrays, and a
JSON header with the states of the random generators, the history, and what run it belongs to. Nothing is unpickled.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels
from convnet.files import remove_partials, write_atomically
from convnet.history import History
from convnet.serialization import read_file, reason
from convnet.specs import differences

if TYPE_CHECKING:
    from convnet.network import Network
    from convnet.optimizers import Optimizer

FORMAT = "convnet checkpoint 1"
NAME = "checkpoint.npz"

# How much of an array goes into its fingerprint, and how much of it is read at a time.
_READ_BYTES = 1 << 29
_SLICE_BYTES = 1 << 24


class Checkpoint:
    """The checkpoint of one training run in a folder of its own.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    identity : mapping
        What determines the run but for its learning rates, as JSON can hold it: a checkpoint of anything else is refused.
    """

    def __init__(self, folder: str | PathLike[str], identity: Mapping[str, Any]):
        self.path = Path(folder) / NAME
        self.identity = json.loads(json.dumps(identity))
        remove_partials(self.path, *History.files(self.path.parent))

    def start(self, net: Network, optimizer: Optimizer, shuffler: np.random.Generator, rates: Sequence[float]) -> History:
        """Bring network, optimiser and generator to the state of the checkpoint; without one, write the first.

        Parameters
        ----------
        net, optimizer, shuffler
            Changed in place.
        rates : sequence of float
            The learning rate of each epoch that the run is to have. Those of the epochs that are done must be the same.

        Returns
        -------
        History
            Of the epochs that are done.

        Raises
        ------
        ValueError
            If the file is damaged, or is the checkpoint of another run or of more epochs; the message says in what they
            differ, and nothing is changed.
        OSError
            If the file cannot be written.
        """
        content = self._read()
        if content is None:
            history = History()
            self.save(net, optimizer, shuffler, history)
            return history
        header, arrays, history = content
        found = [*differences(self.identity, header["identity"]), *_other_rate(history, rates)]
        if found:
            raise ValueError(f"{self.path} is the checkpoint of another training run: {'; '.join(found)}. "
                             "Use another folder, or delete it to start over")
        if len(history) > len(rates):
            raise ValueError(f"epochs is {len(rates)}, but {self.path} has {len(history)} epochs already: "
                             "ask for at least as many, or use another folder")
        try:
            net.check_arrays(_part(arrays, "network/"))
            # Which changes nothing where anything is amiss.
            optimizer.load_state_dict(_part(arrays, "optimizer/"))
        except ValueError as error:
            raise self._damaged(error) from None
        net.load_arrays(_part(arrays, "network/"))
        net.generator.bit_generator.state = header["network_generator"]
        shuffler.bit_generator.state = header["shuffler"]
        # The process may have ended between the two writings.
        history.write(self.path.parent)
        return history

    def save(self, net: Network, optimizer: Optimizer, shuffler: np.random.Generator, history: History) -> None:
        """Write the state after the last epoch of `history`, and the history beside it.

        Raises
        ------
        OSError
            If a file cannot be written; the one before it stays.
        """
        header = {
            "format": FORMAT, "identity": self.identity, "history": history.to_rows(),
            "network_generator": net.generator.bit_generator.state, "shuffler": shuffler.bit_generator.state,
        }
        own = {**net.parameters, **net.state}
        arrays: dict[str, Any] = {f"network/{name}": kernels.to_numpy(a) for name, a in own.items()}
        arrays |= {f"optimizer/{name}": a for name, a in optimizer.state_dict().items()}
        write_atomically(self.path, lambda file: np.savez(file, header=np.array(json.dumps(header)), **arrays))
        history.write(self.path.parent)

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray], History] | None:
        """Return the header, the arrays and the history, or None if there is no checkpoint."""
        try:
            header, arrays = read_file(self.path, "header", FORMAT)
            if not isinstance(header["identity"], dict):
                raise ValueError("it does not say what run it belongs to")
            for name in ("network_generator", "shuffler"):
                # A generator refuses what is not a state of its kind.
                np.random.default_rng().bit_generator.state = header[name]
            return header, arrays, History.from_rows(header["history"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path} is not a checkpoint, or is damaged ({reason(error)}); delete it to start over")


def fingerprint(*arrays: Any) -> str:
    """Return a digest of the types, shapes and contents of arrays; of large ones every k-th row is looked at."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none")
            continue
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        size = max(1, array[:1].nbytes)
        every = -(-len(array) * size // _READ_BYTES)
        rows = every * max(1, _SLICE_BYTES // size)
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start:start + rows:every]).data)
    return digest.hexdigest()[:32]


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _other_rate(history: History, rates: Sequence[float]) -> Iterator[str]:
    """Name the first epoch that had another learning rate than it is to have."""
    for done, rate in zip(history, rates, strict=False):
        if done.learning_rate != rate:
            yield f"the learning rate of epoch {done.epoch} is {done.learning_rate:g} there and {rate:g} here"
            return
