"""Checkpoints: everything that the rest of a training run depends on, in one file that is written whole or not at all.

A checkpoint is an ``.npz`` file with the parameters, running statistics and the optimiser's vectors as arrays, and a
JSON header with the states of the random generators, the history, and what run it belongs to. Nothing is unpickled.
"""
from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels
from convnet.files import remove_partials, write_atomically
from convnet.history import History
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
        What determines the run, as JSON can hold it: a checkpoint of anything else is refused.
    """

    def __init__(self, folder: str | PathLike[str], identity: Mapping[str, Any]):
        self.path = Path(folder) / NAME
        self.identity = json.loads(json.dumps(identity))
        remove_partials(self.path, *History.files(self.path.parent))

    def start(self, net: Network, optimizer: Optimizer, shuffler: np.random.Generator, epochs: int) -> History:
        """Bring network, optimiser and generator to the state of the checkpoint; without one, write the first.

        Parameters
        ----------
        net, optimizer, shuffler
            Changed in place.
        epochs : int
            How many the run is to have.

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
        header, arrays = content
        found = "; ".join(differences(self.identity, header["identity"]))
        if found:
            raise ValueError(f"{self.path} is the checkpoint of another training run: {found}. "
                             "Use another folder, or delete it to start over")
        history = History.from_rows(header["history"])
        if len(history) > epochs:
            raise ValueError(f"epochs is {epochs}, but {self.path} has {len(history)} epochs already: "
                             "ask for at least as many, or use another folder")
        net.load_arrays(_part(arrays, "network/"))
        optimizer.load_state_dict(_part(arrays, "optimizer/"))
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

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        try:
            with open(self.path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(str(arrays.pop("header")))
            if header["format"] != FORMAT or not isinstance(header["identity"], dict):
                raise ValueError("unknown format")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is not a checkpoint, or is damaged ({error}); "
                             "delete it to start over") from None
        return header, arrays


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
