"""Networks as files: the architecture as JSON inside an ``.npz`` file, never unpickled."""
from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels, layers
from convnet.files import write_atomically
from convnet.layers.base import Layer
from convnet.names import lookup

if TYPE_CHECKING:
    from convnet.network import Network

FORMAT = "convnet network 1"

LAYER_TYPES: dict[str, type[Layer]] = {
    name: value for name, value in vars(layers).items()
    if isinstance(value, type) and issubclass(value, Layer) and value not in (Layer, layers.Container)
}


def layers_to_config(chain: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return layers as a list of dicts of their type and options; inner layers likewise."""
    return [{"type": type(layer).__name__, **{key: _plain(value) for key, value in layer.options().items()}} for layer in chain]


def layers_from_config(config: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """Return the layers described by `config`.

    Raises
    ------
    ValueError
        If a type is unknown.
    """
    made = []
    for entry in config:
        options = {
            key: layers_from_config(value) if _holds_layers(value) else value for key, value in entry.items() if key != "type"
        }
        made.append(lookup("layer type", entry["type"], LAYER_TYPES)(**options))
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Layer):
        return layers_to_config(value)
    return list(value) if isinstance(value, tuple) else value


def _holds_layers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def save_network(net: Network, path: str | PathLike[str]) -> Path:
    """Write `net` to `path`, whole or not at all."""
    arrays = {name: kernels.to_numpy(array) for name, array in {**net.parameters, **net.state}.items()}
    header = json.dumps({"format": FORMAT, **net.config()})
    return write_atomically(path, lambda file: np.savez(file, **{"architecture": np.array(header), **arrays}))  # type: ignore[arg-type]


def load_network(path: str | PathLike[str], device: str = "cpu") -> Network:
    """Return the network saved at `path`, on `device`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a saved network, or is damaged.
    """
    from convnet.network import Network

    try:
        # Opened here, since np.load leaves the file open when it finds it damaged.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        header = json.loads(str(content.pop("architecture")))
        if header.pop("format") != FORMAT:
            raise ValueError("unknown format")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a saved network, or is damaged ({error})") from None
    net = Network.from_config({**header, "device": device})
    try:
        net.load_arrays(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return net
