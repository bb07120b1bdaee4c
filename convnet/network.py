"""A network: layers, their parameters in one vector, and a generator of its own."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any

import numpy as np

from convnet import kernels, serialization
from convnet.batch import real_array
from convnet.devices import array_library
from convnet.layers.base import Builder, Container, Layer, Record, join, real_number, whole_number
from convnet.layers.containers import Sequential, checked_layers
from convnet.layers.scale_invariant import ScaleInvariantClassifier
from convnet.names import lookup
from convnet.passes.walk import check_shape, inference

Array = Any


class Network:
    """A feed-forward network with explicit passes.

    Parameters
    ----------
    layers : sequence of Layer
        Fresh layers; a layer belongs to one place of one network.
    input_shape : tuple of int
        Shape of one input, ``(H, W, C)`` or ``(D,)``.
    seed : int
        Of the initial weights and of everything random in training (dropout, noise).
    dtype : {"float32", "float64"}
    device : {"cpu", "gpu", "auto"}
        Where arrays live. "auto" takes the GPU where one is usable and says so where not.
    initialization : {"he", "glorot", "authors"}
        Rule for the initial weights, see `convnet.layers.Builder`.
    frozen : sequence of str
        Paths of layers that stay as they are, see `freeze`.
    coefficients : mapping of str to mapping, optional
        By path, the arguments of `set_coefficients`.

    Attributes
    ----------
    parameters : mapping of str to array
        "0.weight", "0.bias", ..., views into `vector`: change them in place.
    root : Sequential
        The layers as one layer.
    body, head : Sequential, Layer or None
        The layers up to the logits, and the softmax or sigmoid behind them where the network ends in one.
    generator : numpy.random.Generator
        Draws what is random in training.

    Raises
    ------
    ValueError, TypeError
        If a layer cannot take what the layer before it gives; the message names it.
    """

    def __init__(
        self, layers: Sequence[Layer], input_shape: Sequence[int], seed: int = 0, dtype: Any = "float32",
        device: str = "cpu", initialization: str = "he", frozen: Sequence[str] = (),
        coefficients: Mapping[str, Mapping[str, float]] | None = None,
    ):
        self.dtype, self.input_shape = _number_type(dtype), _shape(input_shape)
        if not layers:
            raise ValueError("layers is empty: a network needs at least one layer")
        if isinstance(frozen, str):
            raise TypeError(f"frozen is {frozen!r}; it must be a sequence of paths, as in [{frozen!r}]")
        self.device, self.xp = array_library(device)
        self.seed, self.initialization = whole_number("seed", seed, 0), initialization
        weights_seed, self_seed = np.random.SeedSequence(self.seed).spawn(2)
        self.generator = np.random.default_rng(self_seed)

        self.root = Sequential(checked_layers("layers", layers))
        try:
            self.root.attach(self.input_shape, Builder(np.random.default_rng(weights_seed), self.dtype, initialization))
            if len(self.root.output_shape) != 1:
                raise ValueError(f"the last layer gives {self.root.output_shape}; a network must end in flat outputs (K,)")
            self._check_last()
        except BaseException:
            # The layers are free again, for the list that is put right.
            _release(self.root)
            raise
        self.head = self.root.layers[-1] if self.root.layers[-1].readout and len(self.root.layers) > 1 else None
        self.body = self.root if self.head is None else _joined(self.root.layers[:-1])

        # Counts the changes of what each layer's rate is, for optimisers that have been started.
        self.rate_changes = 0
        self.paths: dict[Layer, str] = {}
        for index, (path, layer) in enumerate(self.root.leaves()):
            self.paths[layer], layer.index = path, index
        self._adopt_parameters()
        self.apply_constraints()
        self.freeze(*frozen)
        for path, values in (coefficients or {}).items():
            self.set_coefficients(path, **values)

    def _check_last(self) -> None:
        """Raise ValueError if the network ends in a readout inside a chain, where no loss would find it."""
        last = self.root.layers[-1]
        while type(last) is Sequential and last.layers:
            last = last.layers[-1]
            if last.readout or isinstance(last, ScaleInvariantClassifier):
                raise ValueError(f"the network ends in a {type(last).__name__} inside a Sequential: put that layer into the "
                                 "network's own list, last, so that losses know of it")

    @property
    def vector(self) -> Array:
        """All parameters, one after the other; setting it copies the values."""
        return self._vector

    @vector.setter
    def vector(self, values: Array) -> None:
        self._vector[...] = values

    def _adopt_parameters(self) -> None:
        """Move all parameters into one vector, and all arrays to the device."""
        arrays = {join(path, name): (layer, name, array) for layer, path in self.paths.items()
                  for name, array in layer.parameters.items()}
        # Complex arrays first: there, pairs of numbers start at even places, as devices want complex numbers aligned.
        starts: dict[str, int] = {}
        size = 0
        for path, (_, _, array) in sorted(arrays.items(), key=lambda item: item[1][2].dtype.kind != "c"):
            starts[path] = size
            size += array.view(self.dtype).size
        self._vector = self.xp.empty(size, self.dtype)
        self._layout: dict[str, tuple[slice, np.dtype, tuple[int, ...]]] = {
            path: (slice(starts[path], starts[path] + array.view(self.dtype).size), array.dtype, array.shape)
            for path, (_, _, array) in arrays.items()
        }
        views = self.views(self.vector)
        for path, (layer, name, array) in arrays.items():
            views[path][...] = self.xp.asarray(array)
            layer.parameters[name] = views[path]  # type: ignore[index]
        for layer in self.paths:
            for name, array in layer.state.items():
                layer.state[name] = self.xp.asarray(array)  # type: ignore[index]
        self.parameters: Mapping[str, Array] = MappingProxyType(views)

    # --- parameters ---------------------------------------------------------------------------------------------------

    def views(self, vector: Array) -> dict[str, Array]:
        """Return a vector in the layout of `vector` as arrays by parameter name; complex ones as pairs of numbers."""
        return {path: vector[part].view(dtype).reshape(shape) for path, (part, dtype, shape) in self._layout.items()}

    def gradient_buffer(self) -> tuple[Array, dict[str, Array]]:
        """Return a vector of zeros in the layout of `vector`, and its views by parameter name."""
        vector = self.xp.zeros_like(self.vector)
        return vector, self.views(vector)

    @property
    def decay_mask(self) -> Array:
        """1 where weight decay applies, 0 elsewhere (biases, scales of batch normalisation), in the layout of `vector`."""
        mask, parts = self.gradient_buffer()
        for layer, path in self.paths.items():
            for name in layer.parameters:
                if name in layer.decayed:
                    parts[join(path, name)].view(self.dtype)[...] = 1
        return mask

    def apply_constraints(self) -> None:
        """Make the parameters meet their layers' constraints; to be called after every step. Frozen layers stay."""
        for layer in self.paths:
            if layer.trainable:
                layer.constrain()

    def layers_at(self, path: str) -> list[Layer]:
        """Return the layers that compute at `path` and, for a container, inside it.

        Raises
        ------
        ValueError, TypeError
            If there is no such path, or it is not a string.
        """
        if not isinstance(path, str):
            raise TypeError(f"layer path is {path!r}; it must be a string, as in '0'")
        found = [layer for layer, own in self.paths.items() if own == path or own.startswith(f"{path}.")]
        return found or [lookup("layer path", path, {own: layer for layer, own in self.paths.items()})]

    def freeze(self, *paths: str) -> None:
        """Leave the layers at `paths` ("0", "12.body") as they are: no pass computes anything for their parameters.

        Weight decay, momentum and constraints do not move them either, and a frozen batch normalisation uses its
        running statistics and keeps them.
        """
        self._set_frozen(paths, True)

    def unfreeze(self, *paths: str) -> None:
        """Let the layers at `paths` be trained again."""
        self._set_frozen(paths, False)

    def _set_frozen(self, paths: Sequence[str], frozen: bool) -> None:
        for layer in [layer for path in paths for layer in self.layers_at(path)]:
            layer.frozen = frozen
        self.rate_changes += 1

    def set_coefficients(self, path: str, learning_rate: float = 1.0, bias: float = 1.0) -> None:
        """Multiply the learning rate of the layers at `path` by `learning_rate`, that of their biases by `bias` too."""
        learning_rate = real_number("learning_rate", learning_rate, 0.0)
        bias = real_number("bias", bias, 0.0)
        for layer in self.layers_at(path):
            layer.learning_rate_coefficient, layer.bias_coefficient = learning_rate, bias
        self.rate_changes += 1

    @property
    def rate_vector(self) -> Array | None:
        """What the step of each parameter is to be multiplied by, in the layout of `vector`; None where all are 1.

        0 for frozen layers, else the layer's learning-rate coefficient, for a bias times its bias coefficient.
        """
        rates, parts = self.gradient_buffer()
        for layer, path in self.paths.items():
            for name in layer.parameters:
                rate = layer.learning_rate_coefficient * (layer.bias_coefficient if name == "bias" else 1)
                parts[join(path, name)].view(self.dtype)[...] = 0 if layer.frozen else rate
        return None if (rates == 1).all() else rates

    @property
    def state(self) -> dict[str, Array]:
        """Arrays that are saved but not trained, by name: running statistics."""
        return {join(path, name): array for layer, path in self.paths.items() for name, array in layer.state.items()}

    def updated_state(self, records: Mapping[Layer, Record]) -> dict[str, Array]:
        """Return what `state` becomes after the batch of `records`."""
        new: dict[str, Array] = {}
        for layer, path in self.paths.items():
            if layer.state and layer in records:
                new |= {join(path, name): value for name, value in layer.updated_state(records[layer]).items()}
        return new

    def set_state(self, new: Mapping[str, Array]) -> None:
        """Put new running statistics in place."""
        for layer, path in self.paths.items():
            for name in layer.state:
                if join(path, name) in new:
                    layer.state[name] = new[join(path, name)]  # type: ignore[index]

    def check_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Raise ValueError unless arrays have the names, shapes and kinds of this network's parameters and statistics."""
        own = {**self.parameters, **self.state}
        for problem, names in (("missing", own.keys() - arrays.keys()), ("unknown", arrays.keys() - own.keys())):
            if names:
                raise ValueError(f"arrays of another architecture: {problem} {', '.join(sorted(names))}")
        for name, array in own.items():
            given = arrays[name]
            if given.shape != array.shape or (given.dtype.kind == "c") != (array.dtype.kind == "c"):
                raise ValueError(f"array {name!r} is {given.dtype} {given.shape}; this network needs {array.dtype} {array.shape}")

    def load_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Set all parameters and running statistics from arrays by name.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape or number type differs; nothing is changed then.
        """
        self.check_arrays(arrays)
        for name, array in {**self.parameters, **self.state}.items():
            array[...] = self.xp.asarray(arrays[name])

    # --- use ----------------------------------------------------------------------------------------------------------

    def asarray(self, images: Array) -> Array:
        """Return `images`, an array or lists, in the network's number type, on its device, after a check of their shape."""
        images = real_array("images", images)
        check_shape("images", images, self.input_shape)
        return self.xp.asarray(images, dtype=self.dtype)

    def forward(self, images: Array) -> Array:
        """Return the network's outputs for `images` (N, ...), in inference mode: (N, K)."""
        return inference(self.root, self.asarray(images))

    def predict(self, images: Array, batch_size: int = 256) -> Array:
        """Return the class ids (N,) of any number of images, `batch_size` at a time."""
        whole_number("batch_size", batch_size, 1)
        images = real_array("images", images)
        if len(images) == 0:
            raise ValueError("images is empty: there is nothing to predict")
        starts = range(0, len(images), batch_size)
        return self.xp.concatenate([self.forward(images[start:start + batch_size]).argmax(axis=1) for start in starts])

    def copy(self, dtype: Any = None) -> Network:
        """Return an independent network with equal parameters, statistics and generator state.

        Parameters
        ----------
        dtype : {"float32", "float64"}, optional
            Number type of the copy; by default that of the network.
        """
        _, (layers, options, *rest) = self.__reduce__()
        return Network._restored(layers, options if dtype is None else {**options, "dtype": dtype}, *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = {name: kernels.to_numpy(array) for name, array in {**self.parameters, **self.state}.items()}
        return Network._restored, (
            serialization.fresh(self.root.layers), self._options(), arrays, self.generator.bit_generator.state)

    @staticmethod
    def _restored(layers: Sequence[Layer], options: Mapping[str, Any], arrays: Mapping[str, Array],
                  generator_state: dict[str, Any]) -> Network:
        net = Network(layers, **options)
        net.load_arrays(arrays)
        net.generator.bit_generator.state = generator_state
        return net

    # --- files --------------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return the architecture and options, as JSON can hold them."""
        return {"layers": serialization.layers_to_config(self.root.layers), **self._options()}

    def _options(self) -> dict[str, Any]:
        """Return the arguments but for the layers, as JSON can hold them."""
        return {
            "input_shape": list(self.input_shape), "seed": self.seed, "dtype": self.dtype.name, "device": self.device,
            "initialization": self.initialization,
            "frozen": list(dict.fromkeys(path for layer, path in self.paths.items() if layer.frozen)),
            "coefficients": {
                path: {"learning_rate": layer.learning_rate_coefficient, "bias": layer.bias_coefficient}
                for layer, path in self.paths.items()
                if layer.learning_rate_coefficient != 1 or layer.bias_coefficient != 1
            },
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], layers: Sequence[type[Layer]] = ()) -> Network:
        """Return a fresh network with the architecture of `config`; `layers` as for `load`."""
        made = serialization.layers_from_config(config["layers"], serialization.layer_types(layers))
        return cls(made, **{key: value for key, value in config.items() if key != "layers"})

    def save(self, path: str | PathLike[str]) -> None:
        """Write architecture, parameters and running statistics to an ``.npz`` file, whole or not at all.

        Raises
        ------
        TypeError
            If the class of a layer has the name of another layer class, or does not tell its options.
        OSError
            If the file cannot be written.
        """
        serialization.save_network(self, path)

    @staticmethod
    def load(path: str | PathLike[str], device: str = "cpu", layers: Sequence[type[Layer]] = ()) -> Network:
        """Return the network saved at `path`.

        Parameters
        ----------
        path : path
        device : {"cpu", "gpu", "auto"}
        layers : sequence of type, optional
            The classes of layers in the file that are not in `convnet.layers`; a file names classes and holds no code.

        Raises
        ------
        OSError
            If the file cannot be opened; FileNotFoundError if there is none.
        ValueError
            If the file is not a saved network, is damaged, or names a layer class that is not known.
        """
        return serialization.load_network(path, device, layers)

    def summary(self) -> str:
        """Return a table of the layers, those inside of containers below them, with output shapes and numbers of parameters."""
        rows = [("layer", "", "output", "parameters")]

        def add(path: str, layer: Layer) -> None:
            children = layer.children() if isinstance(layer, Container) else ()
            inner = [(join(path, name), child) for name, child in children if name]
            count = 0 if inner else sum(array.size for p, array in self.parameters.items() if p.startswith(f"{path}."))
            shape = "×".join(map(str, layer.output_shape))
            rows.append((path, type(layer).__name__ if inner else repr(layer), shape, f"{count:,}" if count else ""))
            for child in inner:
                add(*child)

        for path, layer in self.root.children():
            add(path, layer)
        rows.append(("", "", "", f"{self.vector.size:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def __repr__(self) -> str:
        shapes = f"{self.input_shape} -> {self.root.output_shape}"
        return f"<Network {shapes}, {self.vector.size:,} parameters, {self.dtype}, {self.device}>"


def _number_type(dtype: Any) -> np.dtype:
    try:
        # NumPy takes None for float64.
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; it must be 'float32' or 'float64'")
    return found


def _shape(input_shape: Any) -> tuple[int, ...]:
    if isinstance(input_shape, str) or not isinstance(input_shape, Iterable):
        raise TypeError(f"input_shape is {input_shape!r}; it must be a tuple, (H, W, C) or (D,)")
    shape = tuple(whole_number("an axis of input_shape", n, 1) for n in input_shape)
    if not shape:
        raise ValueError("input_shape is (); it must be (H, W, C) or (D,)")
    return shape


def _release(layer: Layer) -> None:
    """Make a layer, and those inside, fresh again."""
    layer.input_shape = None
    for _, child in layer.children() if isinstance(layer, Container) else ():
        _release(child)


def _joined(layers: Iterable[Layer]) -> Sequential:
    """Return attached layers as one attached chain."""
    chain = Sequential(tuple(layers))
    chain.input_shape, chain.output_shape = chain.layers[0].input_shape, chain.layers[-1].output_shape
    return chain
