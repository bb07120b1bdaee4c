"""What the layer tests share."""
import numpy as np

from convnet.layers import Builder
from convnet.layers.base import join


def attached(layer, input_shape, seed=0, dtype="float64"):
    """Return the layer, built, with biases that are not zero."""
    rng = np.random.default_rng(seed)
    layer.attach(input_shape, Builder(rng, np.dtype(dtype)))
    for index, (_, leaf) in enumerate(layer.leaves()):
        leaf.index = index
        if "bias" in leaf.parameters:
            leaf.parameters["bias"][...] = rng.standard_normal(leaf.parameters["bias"].shape)
    return layer


def parameters(layer):
    """Return the parameters of a built layer by path."""
    return {join(path, name): array for path, leaf in layer.leaves() for name, array in leaf.parameters.items()}


def normal(seed, *shape):
    """Return standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape)
