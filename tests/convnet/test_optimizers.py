"""The optimisers against plain-Python loops over single numbers, and against torch.optim where it is installed."""
import math
from types import SimpleNamespace

import numpy as np
import pytest

from convnet import Network
from convnet.layers import BatchNorm, Dense, ReLU
from convnet.optimizers import SGD, AdaGrad, Adam, RMSProp

STEPS = 7


def small_net(dtype="float64"):
    return Network([Dense(5), BatchNorm(), ReLU(), Dense(3)], input_shape=(4,), seed=3, dtype=dtype)


def gradients(net, count=STEPS):
    rng = np.random.default_rng(11)
    return [rng.standard_normal(net.vector.size).astype(net.dtype) for _ in range(count)]


def trajectory(optimizer, net, grads, rates=None):
    for k, gradient in enumerate(grads):
        before = gradient.copy()
        optimizer.update(net, SimpleNamespace(flat_gradient=gradient), None if rates is None else rates[k])
        np.testing.assert_array_equal(gradient, before)  # the step is not changed
    return net.vector.copy()


def penalised(w, g, mask, weight_decay=0.0, l1=0.0):
    return g + mask * (weight_decay * w + l1 * math.copysign(1.0, w))


def loop_sgd(w, grads, mask, rate=0.1, momentum=0.0, dampening=0.0, nesterov=False, **penalties):
    v = 0.0
    for g in grads:
        g = penalised(w, g, mask, **penalties)
        v = momentum * v + (1 - dampening) * g
        w -= rate * (g + momentum * v if nesterov else v)
    return w


def divided(numerator, square, epsilon, inside):
    return numerator / (math.sqrt(square + epsilon) if inside else math.sqrt(square) + epsilon)


def loop_adagrad(w, grads, mask, rate=0.05, epsilon=1e-3, inside=False, **penalties):
    square = 0.0
    for g in grads:
        g = penalised(w, g, mask, **penalties)
        square += g * g
        w -= rate * divided(g, square, epsilon, inside)
    return w


def loop_rmsprop(w, grads, mask, rate=0.05, decay=0.8, epsilon=1e-3, inside=False, **penalties):
    square = 0.0
    for g in grads:
        g = penalised(w, g, mask, **penalties)
        square = decay * square + (1 - decay) * g * g
        w -= rate * divided(g, square, epsilon, inside)
    return w


def loop_adam(w, grads, mask, rate=0.05, beta1=0.7, beta2=0.9, epsilon=1e-3, inside=False, **penalties):
    mean = square = 0.0
    for t, g in enumerate(grads, start=1):
        g = penalised(w, g, mask, **penalties)
        mean = beta1 * mean + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * g * g
        w -= rate * divided(mean / (1 - beta1**t), square / (1 - beta2**t), epsilon, inside)
    return w


PENALTIES = {"weight_decay": 0.3, "l1": 0.07}
CASES = {
    "sgd": (SGD(0.1), loop_sgd, {}),
    "sgd-momentum": (SGD(0.1, momentum=0.9), loop_sgd, {"momentum": 0.9}),
    "sgd-authors": (SGD(0.1, momentum=0.9, dampening=0.9), loop_sgd, {"momentum": 0.9, "dampening": 0.9}),
    "sgd-nesterov": (SGD(0.1, momentum=0.6, nesterov=True), loop_sgd, {"momentum": 0.6, "nesterov": True}),
    "sgd-decay": (SGD(0.1, weight_decay=0.3), loop_sgd, {"weight_decay": 0.3}),
    "sgd-l1": (SGD(0.1, momentum=0.5, l1=0.07), loop_sgd, {"momentum": 0.5, "l1": 0.07}),
    "sgd-both": (SGD(0.1, momentum=0.5, **PENALTIES), loop_sgd, {"momentum": 0.5, **PENALTIES}),
    "adagrad": (AdaGrad(0.05, epsilon=1e-3), loop_adagrad, {}),
    "adagrad-inside": (AdaGrad(0.05, epsilon=1e-3, epsilon_inside=True, **PENALTIES),
                       loop_adagrad, {"inside": True, **PENALTIES}),
    "rmsprop": (RMSProp(0.05, decay=0.8, epsilon=1e-3), loop_rmsprop, {}),
    "rmsprop-inside": (RMSProp(0.05, decay=0.8, epsilon=1e-3, epsilon_inside=True), loop_rmsprop, {"inside": True}),
    "adam": (Adam(0.05, beta1=0.7, beta2=0.9, epsilon=1e-3, **PENALTIES), loop_adam, PENALTIES),
    "adam-inside": (Adam(0.05, beta1=0.7, beta2=0.9, epsilon=1e-3, epsilon_inside=True), loop_adam, {"inside": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_trajectory_is_that_of_a_plain_loop(case):
    optimizer, loop, options = CASES[case]
    net = small_net()
    start, mask, grads = net.vector.copy(), net.decay_mask, gradients(net)
    expected = [loop(w, [g[i] for g in grads], mask[i], **options) for i, w in enumerate(start)]
    assert np.abs(np.asarray(expected) - start).max() > 0.01
    assert 0 < mask.sum() < mask.size
    optimizer.start(net)
    np.testing.assert_allclose(trajectory(optimizer, net, grads), expected, rtol=1e-12, atol=1e-13)


def test_learning_rate_of_the_moment_replaces_the_base_rate():
    net, rates = small_net(), [0.5, 0.1, 0.02]
    start, grads = net.vector.copy(), gradients(net, 3)
    expected = start - sum(r * g for r, g in zip(rates, grads, strict=True))
    np.testing.assert_allclose(trajectory(SGD(99.0), net, grads, rates), expected, rtol=1e-13)


@pytest.mark.parametrize("case", ["sgd-both", "adam"])
def test_frozen_layers_stay_and_coefficients_multiply_the_change(case):
    optimizer, loop, options = CASES[case]
    net = small_net()
    net.freeze("0")
    net.set_coefficients("3", learning_rate=0.5, bias=0.1)
    start, grads = net.vector.copy(), gradients(net, 1)
    factors = {"0.weight": 0, "0.bias": 0, "3.weight": 0.5, "3.bias": 0.05}
    factor = np.ones_like(start)
    for name, view in net.views(factor).items():
        view[...] = factors.get(name, 1)
    full = np.asarray([loop(w, [grads[0][i]], net.decay_mask[i], **options) for i, w in enumerate(start)])
    optimizer.start(net)
    moved = trajectory(optimizer, net, grads)
    np.testing.assert_allclose(moved - start, factor * (full - start), rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(moved[factor == 0], start[factor == 0])


TORCH = {
    "SGD": (SGD(0.1), {"lr": 0.1}),
    "SGD-momentum": (SGD(0.1, momentum=0.9, weight_decay=0.2), {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}),
    "SGD-nesterov": (SGD(0.1, momentum=0.9, nesterov=True), {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adagrad": (AdaGrad(0.1, epsilon=1e-4, weight_decay=0.2), {"lr": 0.1, "eps": 1e-4, "weight_decay": 0.2}),
    "RMSprop": (RMSProp(0.1, decay=0.8, epsilon=1e-4), {"lr": 0.1, "alpha": 0.8, "eps": 1e-4}),
    "Adam": (Adam(0.1, beta1=0.7, beta2=0.95, epsilon=1e-4, weight_decay=0.2),
             {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-4, "weight_decay": 0.2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TORCH)
def test_trajectory_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    optimizer, options = TORCH[case]
    net = Network([Dense(6, bias=False)], input_shape=(5,), seed=1, dtype="float64")  # decay applies to every parameter
    w = torch.tensor(net.vector.copy(), requires_grad=True)
    other = getattr(torch.optim, case.split("-")[0])([w], **options)
    grads = gradients(net)
    for g in grads:
        w.grad = torch.tensor(g)
        other.step()
    np.testing.assert_allclose(trajectory(optimizer, net, grads), w.detach().numpy(), rtol=1e-11)


@pytest.mark.parametrize("make", [lambda: SGD(0.1, momentum=0.9), lambda: Adam(0.01), lambda: SGD(0.1), AdaGrad])
def test_continuing_from_a_saved_state_gives_the_same_bits(make):
    net = small_net("float32")
    grads = gradients(net)
    optimizer = make()
    trajectory(optimizer, net, grads[:4])
    weights, state = net.vector.copy(), optimizer.state_dict()
    uninterrupted = trajectory(optimizer, net, grads[4:])

    again, fresh = small_net("float32"), make()
    again.vector[...] = weights
    fresh.start(again)
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(trajectory(fresh, again, grads[4:]), uninterrupted)


def test_a_new_network_starts_the_optimiser_anew():
    optimizer, first, second = SGD(0.1, momentum=0.9), small_net(), small_net()
    grads = gradients(first)
    expected = trajectory(optimizer, first, grads)
    np.testing.assert_array_equal(trajectory(optimizer, second, grads), expected)


def test_float32_networks_keep_float32_buffers():
    net, optimizer = small_net("float32"), Adam()
    trajectory(optimizer, net, gradients(net))
    assert {a.dtype for name, a in optimizer.state_dict().items() if name != "steps"} == {np.dtype("float32")}


def test_a_state_of_another_kind_is_refused_and_changes_nothing():
    net, optimizer = small_net(), SGD(0.1, momentum=0.9)
    trajectory(optimizer, net, gradients(net))
    before = optimizer.state_dict()
    adam = Adam()
    adam.start(net)
    with pytest.raises(ValueError, match="another optimiser or network"):
        optimizer.load_state_dict(adam.state_dict())
    np.testing.assert_array_equal(optimizer.state_dict()["velocity"], before["velocity"])
    with pytest.raises(ValueError, match="start"):
        SGD(0.1).state_dict()


@pytest.mark.parametrize(("make", "name"), [
    (lambda: SGD(0.0), "learning_rate"), (lambda: SGD(-1), "learning_rate"), (lambda: SGD(math.nan), "learning_rate"),
    (lambda: SGD(0.1, momentum=1.0), "momentum"), (lambda: SGD(0.1, momentum=0.5, dampening=-0.1), "dampening"),
    (lambda: SGD(0.1, dampening=0.5), "dampening"), (lambda: SGD(0.1, nesterov=True), "nesterov"),
    (lambda: SGD(0.1, momentum=0.9, dampening=0.9, nesterov=True), "nesterov"),
    (lambda: SGD(0.1, weight_decay=-1), "weight_decay"), (lambda: SGD(0.1, l1=float("inf")), "l1"),
    (lambda: Adam(beta2=1.0), "beta2"), (lambda: RMSProp(decay=-0.5), "decay"),
    (lambda: AdaGrad(epsilon=-1.0), "epsilon"),
    (lambda: SGD("0.1"), "learning_rate is '0.1'"), (lambda: SGD(True), "learning_rate is True"),
    (lambda: SGD(0.1, momentum=0.9, nesterov="no"), "nesterov is 'no'"), (lambda: Adam(epsilon_inside=1), "epsilon_inside is 1"),
])
def test_options_out_of_range_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()


@pytest.mark.parametrize("kind", [AdaGrad, RMSProp, Adam])
def test_an_epsilon_of_zero_is_refused(kind):
    with pytest.raises(ValueError, match="epsilon is 0; it must be positive"):
        kind(0.1, epsilon=0)
