"""Pretrained weights by name, from safetensors files and PyTorch state dicts, their layout converted.

=====================  ==============================  ===============================
array                  PyTorch                         here
=====================  ==============================  ===============================
Conv weight            (F, C, KH, KW)                  (KH, KW, C, F)
Deconv weight          (C, F, KH, KW)                  (KH, KW, F, C)
Dense weight           (outputs, inputs)               (inputs, outputs)
BatchNorm statistics   running_mean, running_var       running_mean, running_variance
flattened image        channel, row, column order      row, column, channel order
=====================  ==============================  ===============================

The last line concerns every layer between a Flatten and the next Dense, that one included: its features are put in
order.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet.layers import Concatenate, Container, Dense, Flatten, Layer, Residual
from convnet.layers.base import join

if TYPE_CHECKING:
    from convnet.network import Network

Array = Any
# Where each of our features stands among PyTorch's; None for the same place.
Order = np.ndarray | None

TORCH_NAMES = {"weight": "weight", "bias": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
# What PyTorch saves and this package has no use for.
IGNORED = "num_batches_tracked"


def load_pretrained(
    net: Network, source: str | os.PathLike[str] | Mapping[str, Any], names: Mapping[str, str] | None = None,
    layout: str = "torch",
) -> None:
    """Set parameters and running statistics of `net` from weights that were trained elsewhere.

    Parameters
    ----------
    net : Network
        Changes in place, and only if everything fits. Layers' constraints hold afterwards.
    source : path or mapping
        A ``.safetensors`` file, a ``.pt`` or ``.pth`` file with a state dict, or a mapping of names to arrays or
        tensors, such as ``module.state_dict()``.
    names : mapping of str to str, optional
        Which layers to load: the layer's path in `net` to its name in `source`, as in ``{"0": "features.conv1"}``.
        Other layers keep their weights. By default all layers are loaded, each by its own path, and `source` must hold
        no others.
    layout : {"torch", "native"}
        "torch": arrays as PyTorch lays them out, and its names. "native": as ``net.parameters`` and ``net.state`` have
        them.

    Raises
    ------
    ValueError
        If a name is missing or left over, an array has another shape or kind of number, or the file is damaged.
    FileNotFoundError
        If there is no such file.
    ImportError
        If safetensors or torch is needed to read the file and not installed.
    """
    if layout not in ("torch", "native"):
        raise ValueError(f"layout is {layout!r}; it must be 'torch' or 'native'")
    given = arrays_of(source)
    wanted = _wanted(net, names, layout)
    missing = sorted({key for key, _ in wanted.values()} - given.keys())
    if missing:
        raise ValueError(f"source lacks {', '.join(missing)}; it holds {', '.join(sorted(given))}")
    surplus = sorted(key for key in given.keys() - {key for key, _ in wanted.values()} if not key.endswith(IGNORED))
    if names is None and surplus:
        raise ValueError(f"source holds {', '.join(surplus)}, for which the network has no place: give names")
    own = {**net.parameters, **net.state}
    new = {}
    for path, (key, order) in wanted.items():
        array = given[key] if layout == "native" else from_torch(key, given[key], own[path].shape, order)
        new[path] = array
    net.load_arrays({**own, **new})
    net.apply_constraints()


def arrays_of(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of `source` by name, see `load_pretrained`."""
    if isinstance(source, Mapping):
        return {name: _as_numpy(name, value) for name, value in source.items()}
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _read_torch(path)
    raise ValueError(f"source is {path}; it must end in .safetensors, .pt or .pth, or be a mapping of names to arrays")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        import safetensors
        from safetensors.numpy import load_file
    except ImportError:
        raise ImportError(f"reading {path} needs the safetensors package: pip install safetensors") from None
    try:
        return load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a safetensors file of NumPy's number types, or is damaged ({error})") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import pickle

    try:
        import torch
    except ImportError:
        raise ImportError(f"reading {path} needs PyTorch, or save the weights as safetensors where it is") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a state dict, or is damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a state dict")
    return arrays_of(content)


def _as_numpy(name: str, value: Any) -> np.ndarray:
    """Return an array or tensor as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fciu":
        raise ValueError(f"source holds {name!r}, a {type(value).__name__}, no array of numbers: pass the state dict")
    return array


def _wanted(net: Network, names: Mapping[str, str] | None, layout: str) -> dict[str, tuple[str, Order]]:
    """Return by name of our array the name in the source and the order of its features."""
    for path in names or ():
        net.layers_at(path)
    orders: dict[Layer, Order] = {}
    _follow(net.root, None, orders)
    wanted = {}
    for layer, path in net.paths.items():
        source_path = path if names is None else _renamed(path, names)
        if source_path is None:
            continue
        for name in {**layer.parameters, **layer.state}:
            source_name = name if layout == "native" else TORCH_NAMES.get(name)
            if source_name is not None:
                order = None if isinstance(layer, Dense) and name == "bias" else orders[layer]
                wanted[join(path, name)] = (join(source_path, source_name), order)
    return wanted


def _renamed(path: str, names: Mapping[str, str]) -> str | None:
    """Return what the layer at `path` is called in the source, None if it is not to be loaded."""
    for own, theirs in names.items():
        if path == own or path.startswith(f"{own}."):
            return join(theirs, path[len(own) + 1:])
    return None


def _follow(layer: Layer, order: Order, orders: dict[Layer, Order]) -> Order:
    """Note the order in which the features reach each layer that computes, and return that of the output."""
    if isinstance(layer, Concatenate):
        parts = []
        start = 0
        for branch in layer.branches:
            part = _follow(branch, order, orders)
            width = branch.output_shape[0]
            parts.append(start + (np.arange(width) if part is None else part))
            start += width
        return np.concatenate(parts)
    if isinstance(layer, Residual):
        body, *_ = [_follow(branch, order, orders) for _, branch in layer.children()]
        return body
    if isinstance(layer, Container):
        for _, child in layer.children():
            order = _follow(child, order, orders)
        return order
    orders[layer] = order
    if isinstance(layer, Flatten) and layer.input_shape is not None and len(layer.input_shape) == 3:
        height, width, channels = layer.input_shape
        return np.arange(height * width * channels).reshape(channels, height, width).transpose(1, 2, 0).ravel()
    return None if isinstance(layer, Dense) else order


def from_torch(name: str, array: np.ndarray, shape: tuple[int, ...], order: Order = None) -> np.ndarray:
    """Return an array of PyTorch's in this package's layout.

    Parameters
    ----------
    name : str
        What it is called in messages.
    array : array
        Filters (F, C, KH, KW), a matrix (outputs, inputs) or one value per channel.
    shape : tuple of int
        Shape of the result.
    order : int array, optional
        For each of our input features (of a matrix) or channels, its place in `array`.

    Raises
    ------
    ValueError
        If the shapes do not agree.
    """
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    converted = array if axes is None else array.transpose(axes)
    if converted.shape != tuple(shape):
        raise ValueError(f"source holds {name!r} of shape {array.shape}, here {converted.shape}; needed is {shape}")
    return converted if order is None else converted[order]
