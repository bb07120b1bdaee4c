"""Convolution, ReLU and max pooling computed together give what the three layers give one after the other."""
import numpy as np
import pytest

import convnet
from convnet import kernels
from convnet.layers import BatchNorm, Conv, Dense, Flatten, MaxPool, MeanPool, ReLU, Residual
from convnet.layers.block import ConvBlock, LinearBlock, with_blocks
from convnet.passes import AdversarialTraining, Backprop, JacobianRegularizer, LossIBP, PredictionIBP

pytest.importorskip("numba")


def network(seed=0):
    """Return a network with three blocks, one of them inside a residual block, with overlapping and uneven windows."""
    return convnet.Network(
        [Conv(5, 3, padding=1), ReLU(), MaxPool(3, 2),
         Residual([Conv(4, 3), ReLU(), MaxPool((2, 3), (1, 2))], [MeanPool((4, 5), (1, 2)), Conv(4, 1)]),
         BatchNorm(), Conv(6, 2, bias=False), ReLU(), MaxPool(2, 1), Flatten(), Dense(4)],
        (18, 19, 2), seed=seed, dtype="float64")


def test_only_what_stands_in_a_row_becomes_a_block():
    conv, relu, pool, flat, dense = Conv(2, 3), ReLU(), MaxPool(2, 2), Flatten(), Dense(3)
    first, second, third, *rest = with_blocks([conv, relu, pool, flat, dense, relu])
    assert isinstance(first, ConvBlock) and second is flat and isinstance(third, LinearBlock) and rest == []
    first, second = with_blocks([conv, relu, MeanPool(2, 2)])
    assert isinstance(first, LinearBlock) and type(second) is MeanPool
    assert len(with_blocks([dense, relu, pool])) == 2

    class Own(ReLU):
        """A layer that may do other things."""

    for others in ([conv, pool, relu], [relu, pool], [conv, BatchNorm(), relu, pool], [conv, Own(), pool], [relu, relu]):
        assert with_blocks(others) == tuple(others)


@pytest.mark.parametrize("algorithm", [
    Backprop(), LossIBP(0.3), LossIBP(0.3, norm=2, exact=True), PredictionIBP(0.2, exact=True), AdversarialTraining(0.1),
    JacobianRegularizer(0.1),
], ids=repr)
def test_blocks_change_nothing(algorithm):
    rng = np.random.default_rng(1)
    batch = convnet.Batch(rng.standard_normal((5, 18, 19, 2)), rng.integers(0, 4, 5))
    steps = {}
    for name in ("reference", "fast"):
        with kernels.using(name):
            net = network()
            net.parameters["0.bias"][...] = rng.standard_normal(5) if not steps else steps["bias"]
            steps.setdefault("bias", net.parameters["0.bias"].copy())
            steps[name] = algorithm.gradients(net, convnet.losses.SoftmaxCrossEntropy(), batch)
    scale = np.abs(steps["reference"].flat_gradient).max()
    np.testing.assert_allclose(steps["fast"].flat_gradient, steps["reference"].flat_gradient, atol=1e-12 * scale, rtol=0)
    np.testing.assert_allclose(steps["fast"].objective, steps["reference"].objective, rtol=1e-12)


def test_a_frozen_convolution_in_a_block_gets_no_gradient():
    rng = np.random.default_rng(2)
    batch = convnet.Batch(rng.standard_normal((3, 18, 19, 2)), rng.integers(0, 4, 3))
    loss, net = convnet.losses.SoftmaxCrossEntropy(), network()
    free = LossIBP(0.3).gradients(net, loss, batch).gradients
    net.freeze("0")
    frozen = LossIBP(0.3).gradients(net, loss, batch).gradients
    assert not np.any(frozen["0.weight"])
    np.testing.assert_allclose(frozen["5.weight"], free["5.weight"], rtol=1e-12, atol=1e-14)
