"""Checks shared by the tests in this folder: numerical differences, and double backward through PyTorch.

Everything is about one function of a layer's input and parameters,
``Φ(x, w) = Re<b, J(x, w) t> + Re<s, f(x, w)>``, with the real inner product. Its gradient in ``x`` is what the fourth
pass brings down from ``s``, and its gradient in ``w`` is ``G(t, b) + G(x, s)``.
"""
from __future__ import annotations

import numpy as np

from convnet.layers import Builder
from convnet.passes import first_pass, fourth_pass, second_pass, third_pass
from convnet.passes.products import weight_gradients


def attached(layer, input_shape, seed=0, rule="he"):
    """Return `layer`, built in float64."""
    layer.attach(input_shape, Builder(np.random.default_rng(seed), np.dtype("float64"), rule))
    for _, leaf in layer.leaves():
        leaf.constrain()
    return layer


def signed(rng, shape, kind="real"):
    """Return random numbers of both signs, well away from 0; complex ones with both parts so."""
    def part():
        return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)

    return part() + 1j * part() if kind == "complex" else part()


def like(rng, array):
    """Return signed random numbers in the shape and kind of `array`."""
    return signed(rng, array.shape, "complex" if np.iscomplexobj(array) else "real")


def inner(a, b):
    """Return the real inner product ``Re sum conj(a) b``."""
    return float(np.real(np.conj(a) * b).sum())


def derivative(f, step=1e-3):
    """Return ``df/dh`` at 0 by seven-point central differences, of the order ``step**6``."""
    return sum(c * (f(k * step) - f(-k * step)) for k, c in ((1, 45), (2, -9), (3, 1))) / (60 * step)


def parameters(layer):
    """Return the parameters of all leaves as {(position, name): array}."""
    return {(i, name): array for i, (_, leaf) in enumerate(layer.leaves()) for name, array in leaf.parameters.items()}


class Case:
    """One layer with one input and random signed ``t, b, s``."""

    def __init__(self, layer, x, seed=1):
        self.layer, self.x = layer, x
        rng = np.random.default_rng(seed)
        self.first = first_pass(layer, x)
        self.t = like(rng, x)
        self.b, self.s = like(rng, self.first.output), like(rng, self.first.output)
        self.v = like(rng, x)

    def third(self, x=None):
        """Return ``J t`` at `x`."""
        return third_pass(self.first if x is None else first_pass(self.layer, x), self.t).output

    def gradient(self):
        """Return ``dΦ/dx`` by the passes."""
        up, down = third_pass(self.first, self.t), second_pass(self.first, self.b)
        return fourth_pass(self.first, self.s, [(up, down)], to_input=True).output

    def weight_gradients(self):
        """Return ``dΦ/dw`` by the products, in the order of `parameters`."""
        up, down = third_pass(self.first, self.t), second_pass(self.first, self.b)
        fourth = fourth_pass(self.first, self.s, [(up, down)], to_input=True)
        position = {leaf: i for i, (_, leaf) in enumerate(self.layer.leaves())}
        sums = {key: np.zeros_like(array) for key, array in parameters(self.layer).items()}

        def write(leaf, parts, scale):
            for name, part in parts.items():
                sums[position[leaf], name] += scale * part

        weight_gradients([(up, down, 1.0), (self.first, fourth, 1.0)], write)
        return sums

    def value(self, x=None):
        """Return ``Φ`` at `x` with the parameters as they are."""
        x = self.x if x is None else x
        return inner(self.b, self.third(x)) + inner(self.s, first_pass(self.layer, x).output)


def check_by_differences(case, tolerance=1e-9):
    """Assert the third pass, the adjoint identity, the fourth pass and all weight gradients by central differences."""
    rng = np.random.default_rng(7)
    third = case.third()
    slope = derivative(lambda h: first_pass(case.layer, case.x + h * case.t).output)
    np.testing.assert_allclose(third, slope, rtol=0, atol=tolerance * np.abs(slope).max())
    backward = second_pass(case.first, case.b).output
    assert backward.dtype.kind == case.x.dtype.kind
    assert abs(inner(case.b, third) - inner(backward, case.t)) < 1e-13 * np.abs(case.b * third).sum()
    change = derivative(lambda h: case.value(case.x + h * case.v))
    found = inner(case.gradient(), case.v)
    assert abs(found - change) < tolerance * np.abs(case.gradient() * case.v).sum()
    gradients = case.weight_gradients()
    for key, array in parameters(case.layer).items():
        delta, start = like(rng, array), array.copy()

        def moved(h, array=array, start=start, delta=delta):
            array[...] = start + h * delta
            return case.value()

        change = derivative(moved)
        array[...] = start
        found = inner(gradients[key], delta)
        assert abs(found - change) < tolerance * np.abs(gradients[key] * delta).sum(), key


def check_by_torch(case, forward, tolerance=1e-12):
    """Assert ``f``, ``dΦ/dx`` and ``dΦ/dw`` against double backward through `forward`, a function of torch tensors.

    `forward` receives the input and the parameters in the order of `parameters`.
    """
    import torch

    x = torch.tensor(case.x, requires_grad=True)
    weights = [torch.tensor(array.copy(), requires_grad=True) for array in parameters(case.layer).values()]
    t, b, s = (torch.tensor(array) for array in (case.t, case.b, case.s))

    def real_inner(a, b):
        return (a.conj() * b).real.sum() if a.is_complex() else (a * b).sum()

    y = forward(x, *weights)
    close(case.first.output, y.detach().numpy(), tolerance)
    (backward,) = torch.autograd.grad(real_inner(b, y), x, create_graph=True)
    phi = real_inner(backward, t) + real_inner(s, y)
    gradients = torch.autograd.grad(phi, [x, *weights])
    close(case.gradient(), gradients[0].numpy(), tolerance)
    for found, expected in zip(case.weight_gradients().values(), gradients[1:], strict=True):
        close(found, expected.numpy(), tolerance)


def close(found, expected, tolerance):
    """Assert equality relative to the largest expected number."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
