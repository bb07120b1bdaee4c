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
# # 1. Backpropagation as passes
#
# A network is a chain of functions, $y_i = f_i(y_{i-1}; w_i)$ for $i = 1, \dots, K$, from the input $y_0 = x$ to the logits $z
# = y_K$. A loss $L(z, l)$ compares the logits with the label $l$.
#
# Backpropagation is usually presented as one algorithm. Here it is two *passes* and a *product*:
#
# | | | direction |
# |---|---|---|
# | first pass | $y_i = f_i(y_{i-1})$ | up |
# | second pass | $dy_{i-1} = J_i^T\, dy_i$ | down |
# | weight gradients | $G_i(y_{i-1}, dy_i)$ | none: one product for each layer |
#
# where $J_i = \partial f_i / \partial y_{i-1}$ and $dy_i = \partial L / \partial y_i$. This separation costs nothing, and every
# later notebook is built on it: other algorithms add other passes, and multiply other pairs.

# %%
import drawing  # type and colours; it also finds the package in a source checkout
import matplotlib.pyplot as plt
import numpy as np

import convnet
from convnet.layers import Conv, Dense, Flatten, MaxPool, Record, ReLU, Tanh
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD
from convnet.passes import Backprop, first_pass, second_pass

# %% [markdown]
# ## A network that fits on the board
#
# Two inputs, three hidden units with a hyperbolic tangent, two logits. We compute with 64-bit numbers, so that rounding stays
# out of sight.

# %%
net = convnet.Network([Dense(3), Tanh(), Dense(2)], input_shape=(2,), seed=3, dtype="float64")
print(net.summary())

x = np.array([[1.0, -0.5]])  # one sample: (N, D) = (1, 2)
l = np.array([[1.0, 0.0]])  # it belongs to the first of two classes

# %% [markdown]
# ## The first pass
#
# Each layer computes its output from its input. Whatever the later passes will need, it leaves in a *record*, which belongs to
# this batch and not to the layer: for $\tanh$ that is its output, because $\tanh' = 1 - \tanh^2$. A dense layer leaves nothing.

# %%
y, records = [x], []
for layer in net.root.layers:
    record = Record(training=False, kept=True)
    y.append(layer.forward(y[-1], record))
    records.append(record)

for i, values in enumerate(y):
    print(f"y_{i} =", np.round(values[0], 4))

# %% [markdown]
# ## The second pass
#
# It starts from the derivative of the loss in the logits. For the softmax with cross-entropy, $L = -\sum_k l_k \log p_k$ with
# $p = \mathrm{softmax}(z)$, that derivative is remarkably simple:
#
# $$ dy_K = \frac{\partial L}{\partial z} = p - l . $$
#
# From there each layer multiplies by its transposed Jacobian. No layer ever forms that matrix: a dense layer $y = x w + c$
# returns $b w^T$, a hyperbolic tangent returns $(1 - y^2)\, b$.

# %%
loss = SoftmaxCrossEntropy()
dy = [loss.gradient(y[-1], l)]
for layer, record in zip(reversed(net.root.layers), reversed(records), strict=True):
    dy.insert(0, layer.backward(dy[0], record))

p = np.exp(y[-1]) / np.exp(y[-1]).sum()
assert np.allclose(dy[-1], p - l)
for i, values in enumerate(dy):
    print(f"dy_{i} =", np.round(values[0], 4))

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 4.2))
dense = [True, False, True]
drawing.show_units(
    axes[0], [v[0] for v in y], [f"$y_{i}$" for i in range(4)], dense, "first pass, left to right"
)
drawing.show_units(
    axes[1], [v[0] for v in dy], [f"$dy_{i}$" for i in range(4)], dense, "second pass, right to left"
)
plt.show()

# %% [markdown]
# Read the right-hand picture aloud: *the loss would grow by this much for each unit by which this value grew*. The two numbers
# of $dy_3$ add up to zero, because both $p$ and $l$ add up to one. At the far left stands $dy_0 = \partial L / \partial x$, how
# the loss depends on the *input*. Ordinary training throws it away. It is the main character of notebook 4.

# %%
assert abs(dy[3].sum()) < 1e-15

# %% [markdown]
# ## Weight gradients are products
#
# A weight of a dense layer multiplies one value that travelled up, and its effect on the loss is one value that travelled down.
# So the gradient of the whole matrix is their outer product,
#
# $$ G_i(y_{i-1}, dy_i) = y_{i-1}^T\, dy_i , $$
#
# and a bias, which multiplies the constant 1, gets $1 \cdot dy_i$. The product needs *both* passes but changes *neither*: it
# can wait until the passes are over.

# %%
first, tanh, last = net.root.layers
G = {
    "0.weight": y[0].T @ dy[1],
    "0.bias": dy[1].sum(axis=0),
    "2.weight": y[2].T @ dy[3],
    "2.bias": dy[3].sum(axis=0),
}
for layer, path, up, down in ((first, "0", y[0], dy[1]), (last, "2", y[2], dy[3])):
    product = layer.weight_gradients(up, down)  # the layer's own method
    assert np.allclose(product["weight"], G[f"{path}.weight"]) and np.allclose(
        product["bias"], G[f"{path}.bias"]
    )

print("dL/dw of layer 0:")
print(np.round(G["0.weight"], 4))

# %% [markdown]
# ## Is it true? Ask the definition
#
# A derivative is a limit of differences. Move one weight by $\pm h$, run the first pass twice, and compare:
#
# $$ \frac{\partial L}{\partial w} \approx \frac{L(w + h) - L(w - h)}{2h} . $$


# %%
def loss_now():
    return loss.value(net.forward(x), l)[0]


def difference(w, index, h=1e-6):
    start = w[index]
    w[index] = start + h
    above = loss_now()
    w[index] = start - h
    below = loss_now()
    w[index] = start
    return (above - below) / (2 * h)


worst = 0.0
for name, w in net.parameters.items():
    numerical = np.array([difference(w, index) for index in np.ndindex(w.shape)]).reshape(w.shape)
    worst = max(worst, np.abs(numerical - G[name]).max())
print(f"{net.vector.size} parameters; the largest deviation is below 1e-9: {worst < 1e-9}")
assert worst < 1e-9

# %% [markdown]
# ## The same in three lines
#
# The functions `first_pass` and `second_pass` are these two loops. They return *traces*: what came out at the end, and what
# reached each layer with weights. The algorithm `Backprop` runs them and takes the products.

# %%
trace_up = first_pass(net.body, x)
trace_down = second_pass(trace_up, loss.gradient(trace_up.output, l))
step = Backprop().gradients(net, loss, convnet.Batch(x, l))

assert np.allclose(trace_up.output, y[3]) and np.allclose(trace_down.output, dy[0])
assert all(np.allclose(step.gradients[name], G[name]) for name in G)

# %% [markdown]
# With a batch of $N$ samples nothing changes but the number of rows: $y^T dy$ *sums* over the samples by itself, and the
# algorithm divides by $N$. Every $dy$ stays the derivative of one sample's own loss.

# %%
rng = np.random.default_rng(0)
batch = convnet.Batch(rng.standard_normal((5, 2)), rng.integers(2, size=5))
together = Backprop().gradients(net, loss, batch).flat_gradient
singly = [
    Backprop()
    .gradients(net, loss, convnet.Batch(batch.images[n : n + 1], batch.labels[n : n + 1]))
    .flat_gradient
    for n in range(5)
]
assert np.allclose(together, np.mean(singly, axis=0))

# %% [markdown]
# ## The same passes on images
#
# A convolutional network on handwritten digits has other layers, and the same two passes. After a short training we send the
# second pass all the way down to the pixels.

# %%
data = convnet.data.load("digits").prepared(dtype="float64")
digits = convnet.Network(
    [Conv(8, 3, padding=1), ReLU(), MaxPool(3, 2), Flatten(), Dense(32), ReLU(), Dense(10)],
    data.input_shape,
    seed=0,
    dtype="float64",
)
result = convnet.train(
    digits, data, Backprop(), SGD(0.1, momentum=0.9, dampening=0.9), epochs=10, progress=False
)
print(f"test error after 10 epochs: {100 * result.test_error:.1f} %")
assert result.test_error < 0.06

# %%
chosen = [np.flatnonzero(data.test_labels == digit)[0] for digit in (0, 3, 4, 7, 9)]
images, labels = data.test_images[chosen], np.eye(10)[data.test_labels[chosen]]
up = first_pass(digits.body, images)
down = second_pass(up, loss.gradient(up.output, labels))

# Each gradient is drawn on a scale of its own.
sizes = np.abs(down.output).max(axis=(1, 2, 3))
scaled = [g / size for g, size in zip(down.output, sizes, strict=True)]
drawing.show_images(
    [list(images + data.mean_image), scaled], labels=["$x$", "$dL/dx$"], signed=[False, True]
)
plt.show()

# %% [markdown]
# Red pixels raise the loss when they get darker, blue ones lower it. This picture cost one more step of the second pass, from
# the first layer to its input, which plain training leaves out.
#
# All of it starts from $p - l$, so the better a digit is classified, the smaller its gradient:

# %%
up = first_pass(digits.body, data.test_images)
everyone = np.eye(10)[data.test_labels]
down = second_pass(up, loss.gradient(up.output, everyone))
order = np.argsort(loss.value(up.output, everyone))  # best classified first
sizes = np.abs(down.output).sum(axis=(1, 2, 3))[order]
print("mean size of dL/dx, by quarters of the test set from well to badly classified:")
print(np.round([quarter.mean() for quarter in np.split(sizes, 4)], 2))
assert (np.diff([quarter.mean() for quarter in np.split(sizes, 4)]) > 0).all()

# %% [markdown]
# ## What to remember
#
# - Two passes and a product. The passes know nothing of each other's arrays; the product needs one array from each.
# - A layer offers `forward`, `backward` and `weight_gradients`. A network only walks.
# - Anything that claims to be a gradient can be asked to agree with differences.
#
# ## Exercises
#
# **1.** Replace the loss by half the squared distance, $L = \frac12 \|z - l\|^2$. What is $dy_K$ now? Check one weight by
# differences.
#
# <details><summary>Solution</summary>
#
# $dy_K = z - l$. Nothing else changes: the loss enters the second pass only through its first derivative.
#
# ```python
# from convnet.losses import SquaredError
#
# loss = SquaredError()
# assert np.allclose(loss.gradient(net.forward(x), l), net.forward(x) - l)
# found = Backprop().gradients(net, loss, convnet.Batch(x, l)).gradients["0.weight"]
# assert abs(found[1, 2] - difference(net.parameters["0.weight"], (1, 2))) < 1e-9
# ```
#
# </details>
#
# **2.** Call every matrix product of the size of a layer one unit of work. How many units does a training step need for $K$
# dense layers, if $dy_0$ is not wanted?
#
# <details><summary>Solution</summary>
#
# Each layer needs one product up, one down and one for its weights, $3K$, less the last step down to the input: $3K - 1$. Here
# $K = 2$:
#
# ```python
# from benchmarks.counting import CountingKernels  # in the root folder of the checkout
# from convnet import kernels
#
# with kernels.using(CountingKernels(kernels.cpu())) as counter:
#     Backprop().gradients(net, SoftmaxCrossEntropy(), batch)
# assert counter.products == 3 * 2 - 1
# ```
#
# </details>
#
# **3.** The error of a central difference has two sources, truncation (grows with $h^2$) and rounding (grows with $1/h$). Draw
# it over $h$ and find the best $h$.
#
# <details><summary>Solution</summary>
#
# The curve is a V on logarithmic axes, with its tip near $h \approx 10^{-5}$, the cube root of the rounding unit $10^{-16}$.
#
# ```python
# loss = SoftmaxCrossEntropy()
# steps = 10.0 ** -np.arange(1, 12)
# errors = [abs(difference(net.parameters["0.weight"], (0, 0), h) - G["0.weight"][0, 0]) for h in steps]
# plt.loglog(steps, errors, "o-")
# plt.xlabel("h"), plt.ylabel("error of the difference")
# plt.show()
# assert 1e-7 < steps[np.argmin(errors)] < 1e-3
# ```
#
# </details>
