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
# # 3. The third pass
#
# The second pass asks: *if this value grew, how would the loss change?* It carries one number back to all inputs. The opposite
# question is as natural: *if the input moved in the direction $t_0$, how would every layer move?* The answer is the **third
# pass**, the forward pass of the network linearised at $x$:
#
# $$ t_i = J_i\, t_{i-1}, \qquad t_i = \frac{d}{d\theta}\, y_i(x + \theta\, t_0) \Big|_{\theta = 0} . $$
#
# It goes up like the first pass, but uses the first pass's masks and positions, and no biases. Two theorems of the papers say
# that it needs hardly any new code.

# %%
import drawing
import matplotlib.pyplot as plt
import numpy as np

import convnet
from convnet.data.tangents import tangent_vectors
from convnet.layers import Builder, Conv, Dense, Dropout, Flatten, MaxPool, MeanPool, ReLU, Softmax, Tanh
from convnet.layers.batchnorm import Normalize
from convnet.losses import SoftmaxCrossEntropy
from convnet.passes import Backprop, first_pass, second_pass, third_pass

rng = np.random.default_rng(0)

# %% [markdown]
# ## The Jacobian of a layer, drawn
#
# The third pass of the unit vector $e_j$ is column $j$ of the Jacobian, the second pass of $e_k$ is row $k$. So we can print
# the matrix that no layer ever stores, in both ways, and the two must agree. (The whole batch counts as one long vector here:
# batch normalisation couples the samples.)


# %%
def built(layer, shape):
    layer.attach(shape, Builder(np.random.default_rng(1), np.dtype("float64")))
    layer.index = 0  # its place in a network; part of what determines a dropout mask
    for values in layer.parameters.values():  # biases that are not zero, so that they could do harm
        values += 0.1 * rng.standard_normal(values.shape)
    return layer


def jacobian(layer, x):
    y = first_pass(layer, x, training=True, draw=1)
    columns = [third_pass(y, e.reshape(x.shape)).output.ravel() for e in np.eye(x.size)]
    rows = [second_pass(y, e.reshape(y.output.shape)).output.ravel() for e in np.eye(y.output.size)]
    assert np.allclose(np.stack(columns, axis=1), np.stack(rows), rtol=1e-12, atol=1e-14)
    return np.stack(rows)


layers = {
    "Dense(4)": (Dense(4), (1, 6)),
    "Conv(1, 3)": (Conv(1, 3), (1, 5, 5, 1)),
    "MeanPool(3, 2)": (MeanPool(3, 2), (1, 5, 5, 1)),
    "Dropout(0.5)": (Dropout(0.5), (1, 10)),
    "MaxPool(3, 2)": (MaxPool(3, 2), (1, 7, 7, 1)),
    "ReLU()": (ReLU(), (1, 10)),
    "Tanh()": (Tanh(), (1, 10)),
    "Softmax()": (Softmax(), (1, 10)),
    "normalisation": (Normalize(0.9, 1e-5), (5, 2)),
}
found = {}
for name, (layer, shape) in layers.items():
    built(layer, shape[1:])
    found[name] = jacobian(layer, rng.standard_normal(shape))

figure, axes = plt.subplots(3, 3, figsize=(12, 8.4))
for ax, (name, J) in zip(axes.flat, found.items(), strict=True):
    drawing.show_image(ax, J, f"{name}: {J.shape[0]} × {J.shape[1]}", limit=np.abs(J).max())
plt.show()

# %% [markdown]
# The banded pattern of the convolution is its filter, repeated. Max pooling has a single one in each row: each output copies
# one input. The elementwise layers are diagonal. Softmax is full, and normalisation couples all samples of
# a feature; both are *symmetric*.
#
# ## Theorem 1: a linear layer is its own third pass
#
# If $f$ is affine, $f(x) = A x + c$, then $J t = A t = f(t) - f(0)$: the forward pass without the bias. And as the weights
# multiply whatever reaches the layer, the gradient of a function of the *tangents* is the same product as before, $G(t, b)$
# instead of $G(y, b)$.
#
# ## Theorem 2: a symmetric Jacobian is its own transpose
#
# If $J = J^T$, then $J t = J^T t$: the third pass *is* the backward method. All elementwise nonlinearities are of this kind,
# and so are softmax and batch normalisation.

# %%
print(f"{'layer':16} linear  symmetric")
for name, (layer, shape) in layers.items():
    x, t = rng.standard_normal(shape), rng.standard_normal(shape)
    y = first_pass(layer, x, training=True, draw=1)
    tangent = third_pass(y, t).output
    same_mask = dict(training=True, draw=1)
    theorem_1 = np.allclose(
        tangent, first_pass(layer, t, **same_mask).output - first_pass(layer, 0 * t, **same_mask).output
    )
    J = found[name]
    theorem_2 = (
        J.shape[0] == J.shape[1]
        and np.allclose(J, J.T)
        and np.allclose(tangent, second_pass(y, t).output)
    )
    print(f"{name:16} {'yes' if theorem_1 else 'no':7} {'yes' if theorem_2 else 'no'}")
    assert theorem_1 == layer.linear and theorem_2 == layer.symmetric_jacobian
    # Every layer has a reason, except one:
    assert layer.linear or layer.symmetric_jacobian or name == "MaxPool(3, 2)"

# %% [markdown]
# The layers *declare* these two facts (`linear = True`, `symmetric_jacobian = True`), and the tests hold them to it. Only max
# pooling is neither: as a function of $x$ it is not linear, and it makes maps smaller. It is linear *once the positions are
# known*.
#
# ## Max pooling: follow the positions
#
# Windows of $3 \times 3$ at stride 2 overlap. A cell in the overlap can win more than one window; below, the 9 in the middle
# wins all four.

# %%
x = np.array(
    [
        [1.0, 3.0, 2.0, 0.0, 4.0],
        [5.0, 0.0, 6.0, 1.0, 2.0],
        [2.0, 7.0, 9.0, 8.0, 3.0],
        [4.0, 1.0, 5.0, 0.0, 6.0],
        [0.0, 3.0, 1.0, 2.0, 4.0],
    ]
).reshape(1, 5, 5, 1)
t = np.array(
    [
        [3.0, -1.0, 2.0, 6.0, -5.0],
        [1.0, 4.0, -2.0, 0.0, 7.0],
        [-4.0, 2.0, 1.0, 5.0, -3.0],
        [0.0, -6.0, 3.0, 8.0, 2.0],
        [9.0, 1.0, -2.0, 4.0, 0.0],
    ]
).reshape(1, 5, 5, 1)
b = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)

pool = built(MaxPool(3, 2), (5, 5, 1))
y = first_pass(pool, x)
positions = y.records[pool].positions[0, :, :, 0]  # row · 3 + column, inside each window
winners = [
    (2 * p + int(place) // 3, 2 * q + int(place) % 3) for (p, q), place in np.ndenumerate(positions)
]
print("winning cell of each window:", winners)
assert winners == [(2, 2)] * 4

# %%
down, up = second_pass(y, b).output, third_pass(y, t).output
figure, axes = plt.subplots(1, 4, figsize=(15, 4), width_ratios=[5, 5, 5, 2.6])
panels = (
    (x, "first pass: x"),
    (down, "second pass: J$^T$ b adds up"),
    (t, "third pass: the tangent t"),
    (up, "J t"),
)
for ax, (values, title) in zip(axes, panels, strict=True):
    drawing.show_image(ax, values, title, limit=14, numbers=".0f")
for ax in axes[:3]:
    ax.add_patch(plt.Rectangle((1.55, 1.55), 0.9, 0.9, fill=False, edgecolor=drawing.GREEN, linewidth=5))
plt.show()

assert down[0, 2, 2, 0] == b.sum() and np.count_nonzero(down) == 1
assert (up == t[0, 2, 2, 0]).all()

# %% [markdown]
# On the way down the four derivatives add up in one cell. On the way up all four windows read *the tangent of that cell*,
# whatever else is in the window. Two mistakes are tempting, and both were made in practice:
#
# - *take the maximum of the tangents*: a different cell, hence not a derivative of anything;
# - *find the position again as the cell whose derivative equals the pooled one*: here the cell holds $1 + 2 + 3 + 4 = 10$,
#   nothing matches, and the tangent silently becomes zero.
#
# Differences decide:


# %%
def numerical(layer, x, t, h=1e-6):
    return (first_pass(layer, x + h * t).output - first_pass(layer, x - h * t).output) / (2 * h)


largest = first_pass(pool, t).output
searched = np.array(
    [
        [
            (
                t[0, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3, 0]
                * (down[0, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3, 0] == b[0, p, q, 0])
            ).sum()
            for q in range(2)
        ]
        for p in range(2)
    ]
)
print("differences          ", np.round(numerical(pool, x, t).ravel(), 6))
print("first pass's position", up.ravel())
print("maximum of tangents  ", largest.ravel())
print("searched position    ", searched.ravel())
assert np.allclose(numerical(pool, x, t), up)
assert not np.allclose(largest, up) and (searched == 0).all()

# %% [markdown]
# ## A whole network, along a rotation
#
# What does a digit's network do when the digit turns? The tangent of a rotation is a picture $\tau$ with $x(\theta) \approx x +
# \theta\tau$. We send it up, and watch every layer. Beside it, the second pass comes down.

# %%
data = convnet.data.load("digits").prepared(dtype="float64")
net = convnet.Network(
    [Conv(6, 3, padding=1), ReLU(), MaxPool(3, 2), Flatten(), Dense(24), Tanh(), Dense(10)],
    data.input_shape,
    seed=2,
    dtype="float64",
)
convnet.train(
    net,
    data,
    Backprop(),
    convnet.optimizers.SGD(0.1, momentum=0.9, dampening=0.9),
    epochs=3,
    progress=False,
)

x = data.test_images[8:9]
tau = tangent_vectors(x + data.mean_image, ["rotation"])[:, 0]
labels = np.eye(10)[data.test_labels[8:9]]


def every_layer(x):
    record = {layer: convnet.layers.Record(False, True) for layer in net.root.layers}
    y = [x]
    for layer in net.root.layers:
        y.append(layer.forward(y[-1], record[layer]))
    return y, record


y, record = every_layer(x)
t, dy = [tau], [SoftmaxCrossEntropy().gradient(y[-1], labels)]
for layer in net.root.layers:
    t.append(layer.third_pass(t[-1], record[layer]))
for layer in reversed(net.root.layers):
    dy.insert(0, layer.backward(dy[0], record[layer]))

h = 1e-6
above, below = every_layer(x + h * tau)[0], every_layer(x - h * tau)[0]
for i, (high, low) in enumerate(zip(above, below, strict=True)):
    assert np.abs((high - low) / (2 * h) - t[i]).max() < 1e-7
print("t_i agrees with differences of y_i in all", len(t) - 1, "layers")

# %%
maps = [y[1][..., :1], y[2][..., :1], y[3][..., :1]]
tangents = [t[1][..., :1], t[2][..., :1], t[3][..., :1]]
drawing.show_images(
    [[x + data.mean_image, *maps], [tau, *tangents]],
    ["$i = 0$: image", "1: Conv", "2: ReLU", "3: MaxPool"],
    ["$y_i$", "$t_i$"],
    signed=True,
    size=2.3,
)
plt.show()

# %% [markdown]
# ## One number at every layer
#
# At every layer, multiply what goes up with what comes down: $t_i \cdot dy_i$. As $t_i = J_i t_{i-1}$ and $dy_{i-1} = J_i^T
# dy_i$,
#
# $$ t_i \cdot dy_i = (J_i\, t_{i-1}) \cdot dy_i = t_{i-1} \cdot (J_i^T dy_i) = t_{i-1} \cdot dy_{i-1} . $$
#
# The product is the same everywhere, and it is $dL/d\theta$: how the loss changes when the digit turns. It is the best test
# there is for a pair of passes.

# %%
products = [float((up * down).sum()) for up, down in zip(t, dy, strict=True)]
print("\n".join(f"t_{i} · dy_{i} = {value:.10f}" for i, value in enumerate(products)))
assert np.ptp(products) < 1e-13 * max(map(abs, products)) + 1e-15

loss_at = lambda theta: SoftmaxCrossEntropy().value(net.forward(x + theta * tau), labels)[0]  # noqa: E731
assert abs((loss_at(h) - loss_at(-h)) / (2 * h) - products[0]) < 1e-8

# %% [markdown]
# ## What to remember
#
# - The third pass is the forward pass of the linearised network: no biases, the first pass's masks and positions.
# - Theorem 1 (linear: the forward method) and Theorem 2 (symmetric: the backward method) give it for free nearly everywhere.
#   Max pooling reads at the recorded positions.
# - $t_i \cdot dy_i$ is the same at every layer.
#
# ## Exercises
#
# **1.** Is the third pass of dropout its forward pass, if the forward pass draws a *new* mask? Which theorem breaks?
#
# <details><summary>Solution</summary>
#
# It is not: Theorem 1 breaks, as the forward method with another mask is another linear map. Theorem 2 survives, because the
# backward method reads the mask that was recorded, and a diagonal matrix is symmetric. A mask is determined by its *draw*.
#
# ```python
# layer = built(Dropout(0.5), (10,))
# t = rng.standard_normal((1, 10))
# y = first_pass(layer, rng.standard_normal((1, 10)), training=True, draw=1)
# assert np.allclose(third_pass(y, t).output, first_pass(layer, t, training=True, draw=1).output)
# assert not np.allclose(third_pass(y, t).output, first_pass(layer, t, training=True, draw=2).output)
# assert np.allclose(third_pass(y, t).output, second_pass(y, t).output)
# ```
#
# </details>
#
# **2.** A leaky ReLU followed by a dense layer: is the Jacobian of the pair symmetric? Is each factor?
#
# <details><summary>Solution</summary>
#
# The leaky ReLU's is (diagonal), the dense layer's is not, and neither is that of the pair. Symmetry is used layer by layer and
# need not survive a product.
#
# ```python
# pair = built(convnet.layers.Sequential([convnet.layers.LeakyReLU(0.2), Dense(4)]), (4,))
# J = jacobian(pair, rng.standard_normal((1, 4)))
# assert not np.allclose(J, J.T)
# ```
#
# </details>
#
# **3.** Batch normalisation is a normalisation followed by a scale $w$ for each feature. A product of symmetric matrices need
# not be symmetric. Is this one, over a whole batch?
#
# <details><summary>Solution</summary>
#
# Yes. The normalisation couples the samples but not the features, so the Jacobian has a block for each feature, and in that
# block the scale is one number, which commutes. A *dense* layer in place of the scale would break it.
#
# ```python
# norm = convnet.layers.BatchNorm()
# built(norm, (2,))
# norm._scale.parameters["weight"][...] = [0.5, 3.0]
# J = jacobian(norm, rng.standard_normal((5, 2)))
# assert np.allclose(J, J.T)
# ```
#
# </details>
