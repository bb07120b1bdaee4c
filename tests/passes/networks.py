"""Networks and batches that the tests of passes and algorithms share."""
import numpy as np

from convnet import Batch, Network
from convnet.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MaxPool,
    MeanPool,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)

LAYERS = {
    "relu, overlapping max pooling": lambda: [
        Conv(4, (3, 2)), ReLU(), MaxPool(3, 2), Conv(5, 3, padding=1), ReLU(), MaxPool((3, 2), (2, 1)), Flatten(), Dense(7),
        ReLU(), Dense(4)],
    "leaky relu, strides and paddings": lambda: [
        Conv(3, (3, 2), stride=(2, 3), padding=(1, 2)), LeakyReLU(0.2), MaxPool(2, 1), Conv(4, 2, bias=False), LeakyReLU(),
        Flatten(), Dense(4)],
    "sigmoid, tanh, overlapping mean pooling": lambda: [
        Conv(4, 3), Sigmoid(), MeanPool(3, 2), Conv(3, 2, padding=1), Tanh(), MeanPool((2, 3), 1), Flatten(), Dense(4)],
    "softmax inside": lambda: [Conv(2, 4, stride=2), Tanh(), Flatten(), Dense(6), Softmax(), Dense(5), Tanh(), Dense(4)],
    "softmax last": lambda: [Conv(3, 4, stride=3), ReLU(), Flatten(), Dense(5), Tanh(), Dense(4), Softmax()],
    "sigmoid last": lambda: [Conv(3, 4, stride=3), Tanh(), Flatten(), Dense(4), Sigmoid()],
    "residual blocks": lambda: [
        Residual([Conv(2, 3, padding=1), Tanh(), Conv(2, 3, padding=1)]),
        Residual([Conv(4, 3, stride=2), ReLU()], shortcut=[MaxPool(3, 2), Conv(4, 1, bias=False)]),
        Flatten(), Residual([Dense(6), Sigmoid(), Dense(48), Residual([Tanh()])]), Dense(4)],
    "batch normalisation": lambda: [
        Conv(3, 3), BatchNorm(), Tanh(), MaxPool(3, 2), Flatten(), Dense(6), BatchNorm(epsilon=0.1), ReLU(), Dense(4)],
    "batch normalisation first, dropout": lambda: [
        BatchNorm(), Dropout(0.2), Conv(3, 4, stride=2), Sigmoid(), Flatten(), Dropout(0.4), Dense(5), Tanh(), Dense(4)],
    "all of it": lambda: [
        Conv(3, 3, padding=1), BatchNorm(), ReLU(), MaxPool(3, 2),
        Residual([Conv(3, 3, padding=1, bias=False), BatchNorm(), Sigmoid(), Dropout(0.3), Conv(3, 3, padding=1)]),
        MeanPool(2, 1), Sequential([Flatten(), Dense(6), Tanh()]), Residual([Dense(6), Softmax()]), Dense(4)],
}
SHAPE = (9, 8, 2)


def network(name, seed=0):
    """Return the named network in float64, with biases, scales and running statistics that are not the initial ones."""
    net = Network(LAYERS[name](), SHAPE, seed=seed, dtype="float64")
    rng = np.random.default_rng([seed, 1])
    net.vector += 0.1 * rng.standard_normal(net.vector.shape)
    net.set_state({key: array + rng.uniform(0.1, 0.5, array.shape) for key, array in net.state.items()})
    return net


def batch(seed=0, count=5, tangents=2, shape=SHAPE, classes=4, soft=True):
    """Return random images, soft labels (or class ids) and tangents."""
    rng = np.random.default_rng([seed, 2])
    labels = rng.dirichlet(np.ones(classes), count) if soft else rng.integers(0, classes, count)
    return Batch(rng.standard_normal((count, *shape)), labels, rng.standard_normal((count, tangents, *shape)))
