# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Write your own layer and your own algorithm
#
# A layer is half a page: a formula and up to five methods. An algorithm is less. What takes longer is to be *sure* of them, and
# for that there is one call, `convnet.testing.check_layer` or `check_algorithm`, which holds every method against the others
# and against numerical derivatives, and names the one that is wrong. We write one of each, and then break them on purpose.

# %%
import math
from dataclasses import dataclass

import drawing  # noqa: F401  (type, colours, and the package in a source checkout)
import matplotlib.pyplot as plt
import numpy as np

import convnet
from convnet.layers import Conv, Dense, Flatten, Layer, MaxPool
from convnet.passes import Backprop, LossIBP
from convnet.passes.algorithm import InputGradientPenalty
from convnet.testing import check_algorithm, check_layer

# %% [markdown]
# ## A layer: softplus
#
# A ReLU without the kink: $y = \log(1 + e^x)$. Its derivative is the sigmoid $\sigma(x)$, and $\sigma' = \sigma (1 - \sigma)$.
#
# | method | what it must return | here |
# |---|---|---|
# | `forward` | $f(x)$ | $\log(1 + e^x)$ |
# | `backward` | $J^T b$ | $\sigma(x)\, b$ |
# | `third_pass` | $J t$ | the same, because $J$ is diagonal (Theorem 2) |
# | `curvature` | $k(t, b) = \partial/\partial x\,[b^T J(x)\, t]$ | $\sigma (1 - \sigma)\, t\, b$ |
# | `weight_gradients` | $G(a, b)$ | nothing to train |
#
# Declaring `symmetric_jacobian` gives us the third pass. What the later passes need, `forward` writes into the record. (The
# logarithm is taken of numbers between 1 and 2, so that nothing overflows.)


# %%
@dataclass(eq=False)
class Softplus(Layer):
    """Softplus, ``y = log(1 + e^x)``."""

    symmetric_jacobian = True
    curved = True

    def forward(self, x, record):
        high = np.maximum(x.real, 0)  # .real: the check also calls it with complex numbers
        record.slope = 0.5 + 0.5 * np.tanh(0.5 * x)
        return high + np.log(np.exp(-high) + np.exp(x - high))

    def backward(self, b, record):
        return record.slope * b

    def curvature(self, t, b, record):
        return record.slope * (1 - record.slope) * t * b


report = check_layer(Softplus(), input_shape=(6,))
print(report)
assert report.ok

# %% [markdown]
# The table says what was checked, the largest error and what is accepted. An identity such as $u \cdot (J t) = (J^T u) \cdot t$
# holds to rounding; a derivative by differences is less precise; a *complex step*, $\mathrm{Im}\, f(x + ih)/h$ with $h =
# 10^{-20}$, subtracts nothing and is exact to the last digits.
#
# ## Broken on purpose
#
# Three mistakes that people make. With the first one a network trains perfectly well, as plain backpropagation never calls
# `curvature`; the second is one part in a thousand; the third works until somebody uses the layer twice.


# %%
class WithoutCurvature(Softplus):
    """A smooth layer that says it has no curvature."""

    def curvature(self, t, b, record):
        return 0 * t


class SlightlyOff(Softplus):
    """The derivative is wrong by 0.1 %."""

    def backward(self, b, record):
        return 1.001 * record.slope * b


class Forgetful(Softplus):
    """What belongs to the batch is kept on the layer."""

    def forward(self, x, record):
        y = super().forward(x, record)
        self.slope = record.slope
        return y

    def backward(self, b, record):
        return self.slope * b


verdicts = {}
for broken in (WithoutCurvature, SlightlyOff, Forgetful):
    report = check_layer(broken(), input_shape=(6,), raise_on_failure=False)
    verdicts[broken.__name__] = report.faulty
    print(f"{broken.__name__}: {len(report.failures)} of {len(report.checks)} checks failed. The first:")
    print("   ", report.failures[0].violation)

assert verdicts["WithoutCurvature"] == ["curvature"]
assert "backward" in verdicts["SlightlyOff"]
assert verdicts["Forgetful"]

# %% [markdown]
# ## The layer in a network
#
# Nothing needs to be registered. All passes, and so all algorithms, work at once, the exact forms included, because they ask
# the layer for its curvature.

# %%
data = convnet.data.load("digits").subset(per_class=50).prepared(dtype="float64")


def train(activation, algorithm):
    net = convnet.Network(
        [
            Conv(8, 3, padding=1),
            activation(),
            MaxPool(3, 2),
            Flatten(),
            Dense(32),
            activation(),
            Dense(10),
        ],
        data.input_shape,
        seed=0,
        dtype="float64",
    )
    optimizer = convnet.optimizers.SGD(0.1, momentum=0.9, dampening=0.9)
    return convnet.train(net, data, algorithm, optimizer, epochs=30, batch_size=20, progress=False)


result = train(Softplus, LossIBP(0.03, norm=2, exact=True))
print(f"test error with softplus and exact Loss IBP: {100 * result.test_error:.1f} %")
assert result.test_error < 0.15

# %% [markdown]
# ## An algorithm: a softer sign
#
# Loss IBP with $r = 1$ starts its third pass from $\mathrm{sign}(dy_0)$, which jumps, with $r = 2$ from $dy_0$, which grows
# without bound. In between lies $\tanh$:
#
# $$ R = \sum_j c \log\cosh\!\big( dy_{0,j} / c \big), \qquad \frac{\partial R}{\partial (dy_{0})} = \tanh( dy_0 / c ) . $$
#
# For small $c$ it is $\| dy_0 \|_1$ (less a constant), for large $c$ it is $\frac{1}{2c} \| dy_0 \|^2$. A penalty on $dy_0$
# extends `InputGradientPenalty` and says two things: its value, and where the third pass starts. Both forms follow.


# %%
@dataclass(frozen=True)
class LogCoshIBP(InputGradientPenalty):
    """Loss IBP with the penalty ``sum_j c log cosh(dy_0j / c)``."""

    beta: float
    scale: float
    exact: bool = False

    @property
    def coefficient(self):
        return self.beta

    def seed(self, run, dy_0):
        v = np.abs(dy_0) / self.scale
        log_cosh = v + np.log1p(np.exp(-2 * v)) - math.log(2)  # cosh would overflow
        return self.scale * log_cosh.sum(axis=(1, 2, 3)), np.tanh(dy_0 / self.scale)


report = check_algorithm(LogCoshIBP(0.3, scale=0.1, exact=True))
print(report)
assert report.ok

# %% [markdown]
# The gradient that was held against differences is the whole vector `step.gradients`, on a smooth and on a piecewise-linear
# network, with dropout and batch normalisation, in training and in inference mode.
#
# And broken: a factor of two in the seed. The check cannot know whether value or derivative is the one that we *meant*, but it
# sees that they do not belong together.


# %%
class FactorOfTwo(LogCoshIBP):
    """Value and derivative do not belong together."""

    def seed(self, run, dy_0):
        value, t_0 = super().seed(run, dy_0)
        return value, 2 * t_0


report = check_algorithm(FactorOfTwo(0.3, scale=0.1, exact=True), raise_on_failure=False)
print(report.failures[0].violation)
assert report.faulty == ["gradients"]

# %% [markdown]
# ## Both ends of the scale
#
# For a very small $c$ the gradient must be that of Loss IBP with $r = 1$, for a very large one that of $r = 2$, divided by $c$.
# We draw the distance to each.

# %%
net = result.net
batch, loss = (
    convnet.Batch(data.train_images[:100], data.train_labels[:100]),
    convnet.losses.SoftmaxCrossEntropy(),
)
plain = Backprop().gradients(net, loss, batch).flat_gradient


def extra(algorithm):
    return algorithm.gradients(net, loss, batch).flat_gradient - plain


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


ends = extra(LossIBP(1.0, 1)), extra(LossIBP(1.0, 2))
scales = 10.0 ** np.arange(-7, 4)
between = [extra(LogCoshIBP(1.0, c)) for c in scales]
to_sign = [distance(g, ends[0]) for g in between]
to_square = [distance(c * g, ends[1]) for c, g in zip(scales, between, strict=True)]

figure, ax = plt.subplots(figsize=(9, 4.5))
ax.loglog(scales, to_sign, "o-", label="to $r = 1$")
ax.loglog(scales, to_square, "s--", label="to $r = 2$ (times $1/c$)")
ax.set(xlabel="$c$", ylabel="relative distance of the gradients")
ax.legend()
plt.show()
assert to_sign[0] < 0.01 and to_square[-1] < 1e-5
assert to_sign[-1] > 0.9 and to_square[0] > 0.9

# %% [markdown]
# ## What to remember
#
# - A layer: `forward`, `backward`, and two declarations or methods more. State of a batch goes into the record.
# - A penalty on $dy_0$: a value and a seed. Anything else: which passes, which products (`Penalty.penalise`).
# - Write the check before you believe the result. A missing curvature does not show in any training curve.
#
# ## Exercises
#
# **1.** Write the layer $y = x^2$, with all passes, and check it.
#
# <details><summary>Solution</summary>
#
# $J = \mathrm{diag}(2x)$ is symmetric, $k(t, b) = 2\, t\, b$.
#
# ```python
# @dataclass(eq=False)
# class Square(Layer):
#     """The square of each value."""
#
#     symmetric_jacobian = True
#     curved = True
#
#     def forward(self, x, record):
#         record.input = x.copy()
#         return x**2
#
#     def backward(self, b, record):
#         return 2 * record.input * b
#
#     def curvature(self, t, b, record):
#         return 2 * t * b
#
#
# assert check_layer(Square(), (3, 4, 2)).ok
# ```
#
# </details>
#
# **2.** Give a dense layer a mistake: let its `third_pass` add the bias. Which checks notice?
#
# <details><summary>Solution</summary>
#
# ```python
# class BiasedTangent(Dense):
#     """The third pass adds the bias."""
#
#     def third_pass(self, t, record):
#         return self.forward(t, record)
#
#
# report = check_layer(BiasedTangent(4), (6,), raise_on_failure=False)
# print("\n".join(check.violation for check in report.failures[:3]))
# assert report.faulty[0] == "third_pass"
# ```
#
# </details>
#
# **3.** Add the penalty to another one: is `LogCoshIBP(0.1, 0.1) + LossIBP(0.01)` an algorithm, and how many third passes does
# it need?
#
# <details><summary>Solution</summary>
#
# It is. Both are penalties on $dy_0$ of the same form, so their seeds are added and *one* third pass serves both.
#
# ```python
# both = (LogCoshIBP(0.1, 0.1) + LossIBP(0.01)).gradients(net, loss, batch)
# assert np.allclose(both.flat_gradient, plain + 0.1 * extra(LogCoshIBP(1.0, 0.1)) + 0.01 * extra(LossIBP(1.0)))
# ```
#
# </details>
#
# **4.** Write `np.log(2)` in place of `math.log(2)` in the seed above. The formula is the same. Which check fails, and why?
#
# <details><summary>Solution</summary>
#
# `np.log(2)` is a NumPy number of 64 bits, and turns everything it touches into 64 bits: in a float32 network the penalty would
# quietly be computed, and returned, in double precision. A Python number adapts.
#
# ```python
# class Doubled(LogCoshIBP):
#     """A NumPy constant in the formula."""
#
#     def seed(self, run, dy_0):
#         value, t_0 = super().seed(run, dy_0)
#         return value + 0 * np.log(2), t_0
#
#
# report = check_algorithm(Doubled(0.3, scale=0.1, exact=True), raise_on_failure=False)
# assert report.failures and all("float32" in check.name for check in report.failures)
# ```
#
# </details>
