"""Networks as files: the architecture as JSON inside an ``.npz`` file, never unpickled."""
from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels, layers
from convnet.devices import array_library
from convnet.files import write_atomically
from convnet.layers.base import Layer
from convnet.names import lookup
from convnet.specs import fields_tell_all

if TYPE_CHECKING:
    from convnet.network import Network

FORMAT = "convnet network 1"

LAYER_TYPES: dict[str, type[Layer]] = {
    name: value for name, value in vars(layers).items()
    if isinstance(value, type) and issubclass(value, Layer) and value not in (Layer, layers.Container)
}


# --- layers -----------------------------------------------------------------------------------------------------------

def fresh(value: Any) -> Any:
    """Return a layer as a new one of the same class and options, which belongs to no network; sequences of them likewise."""
    if isinstance(value, Layer):
        return type(value)(**{name: fresh(option) for name, option in _options(value).items()})
    if isinstance(value, (list, tuple)):
        return [fresh(item) for item in value]
    if isinstance(value, Mapping):
        return {key: fresh(item) for key, item in value.items()}
    return copy.deepcopy(value)


def layers_to_config(chain: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return layers as a list of dicts of their type and options; inner layers likewise.

    Raises
    ------
    TypeError
        If a layer's options are not known.
    """
    return _plain(chain)


def layers_from_config(config: Sequence[Mapping[str, Any]], types: Mapping[str, type[Layer]] = LAYER_TYPES) -> list[Layer]:
    """Return the layers described by `config`.

    Parameters
    ----------
    config : sequence of mapping
        What `layers_to_config` returned.
    types : mapping of str to type
        The classes by name.

    Raises
    ------
    ValueError
        If a type is unknown.
    """
    return [_made(entry, types) for entry in config]


def layer_types(own: Sequence[type[Layer]]) -> dict[str, type[Layer]]:
    """Return the package's layer classes and `own` ones, by name.

    Raises
    ------
    TypeError
        If one of them is not a layer class, or has the name of another.
    """
    types = dict(LAYER_TYPES)
    for kind in own:
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise TypeError(f"layers holds {kind!r}; it must hold classes of layers, as in layers=[MyLayer]")
        _register(types, kind)
    return types


def _plain(value: Any, what: str = "") -> Any:
    if isinstance(value, Layer):
        name = type(value).__name__
        return {"type": name, **{key: _plain(option, f"{key} of {name}") for key, option in _options(value).items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(item, what) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, what) for key, item in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{what} holds {value!r}; the options of layers must be numbers, strings, layers, or lists or dicts of them")


def _made(value: Any, types: Mapping[str, type[Layer]]) -> Any:
    if isinstance(value, list):
        return [_made(item, types) for item in value]
    if not isinstance(value, Mapping):
        return value
    options = {key: _made(option, types) for key, option in value.items() if key != "type"}
    if "type" not in value:
        return options
    try:
        kind = lookup("layer type", value["type"], types)
    except ValueError as error:
        raise ValueError(f"{error}; a class of your own is to be given, as in layers=[{value['type']}]") from None
    return kind(**options)


def _options(layer: Layer) -> dict[str, Any]:
    if type(layer).options is Layer.options and not fields_tell_all(type(layer)):
        raise TypeError(f"layer {layer.path}: the options of {type(layer).__name__} are not known; make it a dataclass of "
                        "them, or give it a method options()")
    return layer.options()


def _register(types: dict[str, type[Layer]], kind: type[Layer], where: str = "") -> None:
    """Enter a class into `types`, or raise TypeError if another has its name."""
    known = types.setdefault(kind.__name__, kind)
    if known is not kind:
        raise TypeError(f"{where}files know a layer by the name of its class, and {kind.__module__}.{kind.__qualname__} has "
                        f"that of {known.__module__}.{known.__qualname__}: give it another")


def _all_layers(value: Any) -> Iterator[Layer]:
    """Yield the layers that `value` is or holds, and those among their options."""
    if isinstance(value, Layer):
        yield value
        value = value.options()
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _all_layers(item)


# --- files ------------------------------------------------------------------------------------------------------------

def read_file(path: str | PathLike[str], entry: str, form: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the JSON header and the arrays of an ``.npz`` file.

    Parameters
    ----------
    path : path
    entry : str
        Name of the array that holds the header.
    form : str
        What the header must give as its format.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is damaged or something else; the message says why, without the file's name.
    """
    with open(path, "rb") as opened:
        try:
            # Not np.load, which takes whatever is no archive for a pickle.
            with np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("not all entries are arrays")
            header = json.loads(str(arrays.pop(entry)))
            if header.pop("format") != form:
                raise ValueError("unknown format")
        # Damage can fail in any operation of what reads archives and arrays.
        except Exception as error:
            raise ValueError(reason(error)) from None
    return header, arrays


def reason(error: Exception) -> str:
    """Return what an error says about a damaged file; what is missing is named as such."""
    return f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def save_network(net: Network, path: str | PathLike[str]) -> Path:
    """Write `net` to `path`, whole or not at all.

    Raises
    ------
    TypeError
        If a layer's class has the name of another layer class, so that the file could not tell them apart.
    """
    header = json.dumps({"format": FORMAT, **net.config()})
    types = dict(LAYER_TYPES)
    for layer in _all_layers(net.root.layers):
        _register(types, type(layer), f"layer {layer.path}: ")
    arrays = {name: kernels.to_numpy(array) for name, array in {**net.parameters, **net.state}.items()}
    return write_atomically(path, lambda file: np.savez(file, **{"architecture": np.array(header), **arrays}))  # type: ignore[arg-type]


def load_network(path: str | PathLike[str], device: str = "cpu", layers: Sequence[type[Layer]] = ()) -> Network:
    """Return the network saved at `path`; see `Network.load`."""
    from convnet.network import Network

    device, _ = array_library(device)
    types = layer_types(layers)
    try:
        header, arrays = read_file(path, "architecture", FORMAT)
        net = Network(layers_from_config(header.pop("layers"), types), **{**header, "device": device})
        net.load_arrays(arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a saved network that can be read: {reason(error)}") from None
    return net
