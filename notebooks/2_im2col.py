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
# # 2. im2col: convolution as one product
#
# A convolution slides a small filter over an image and takes an inner product at each place. Written like that, it is six
# nested loops. Written as a *matrix product* it is one call of the fastest routine that any computer has. The bridge between
# the two is called **im2col**: it lays every window of the image out as one row of a matrix.
#
# Shapes, once and for all: images $(N, H, W, C)$ with the channels last, filters $(K_H, K_W, C, F)$, and $P \times Q$ windows.

# %%
import drawing
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

import convnet
from convnet.kernels.reference import col2im, im2col

# %% [markdown]
# ## An image becomes rows
#
# A picture of $5 \times 5$ pixels, numbered so that we can follow them, and windows of $3 \times 3$. There are $(5 - 3 + 1)^2 =
# 9$ of them.

# %%
SIZE, STRIDE, PADDING = (3, 3), (1, 1), (0, 0)
image = np.arange(25.0).reshape(1, 5, 5, 1)
columns = im2col(image, SIZE, STRIDE, PADDING)
print("image", image.shape, "-> columns", columns.shape)

# %%
figure, axes = plt.subplots(1, 2, figsize=(13, 5), width_ratios=[1, 1.25])
drawing.show_image(axes[0], image, "image", limit=60, numbers=".0f")
drawing.show_image(
    axes[1], columns.reshape(9, 9), "im2col: a row for each window", limit=60, numbers=".0f"
)
for number, colour in ((0, drawing.GREEN), (5, drawing.ORANGE)):
    row, column = divmod(number, 3)
    axes[0].add_patch(
        Rectangle((column - 0.45, row - 0.45), 2.9, 2.9, fill=False, edgecolor=colour, linewidth=5)
    )
    axes[1].add_patch(
        Rectangle((-0.45, number - 0.45), 8.9, 0.9, fill=False, edgecolor=colour, linewidth=5)
    )
axes[1].set_ylabel("window"), axes[1].set_xlabel("cell of the window")
plt.show()

# %% [markdown]
# The green window is the first row, the orange one the sixth. (The name says *columns* because the first programs stored the
# transposed matrix.) A pixel in the middle occurs nine times, a corner once: im2col *copies*.
#
# ## Convolution is one product
#
# Each output value is the inner product of a window with a filter. With the windows as rows and the filters as columns of a
# matrix, all of them together are
#
# $$ \underbrace{Y}_{N P Q \,\times\, F} =
# \underbrace{X_{\mathrm{col}}}_{N P Q \,\times\, K_H K_W C} \; \underbrace{W}_{K_H K_W C \,\times\, F} \; + \; \text{bias}. $$
#
# Two images, three channels, four filters, and the loops to compare with, seven now, with that over the images:

# %%
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 6, 5, 3))
w = rng.standard_normal((3, 3, 3, 4))
P, Q = 6 - 3 + 1, 5 - 3 + 1

x_col = im2col(x, SIZE, STRIDE, PADDING).reshape(2 * P * Q, -1)
product = x_col @ w.reshape(-1, 4)
y = product.reshape(2, P, Q, 4)

loops = np.zeros((2, P, Q, 4))
for n, p, q, f in np.ndindex(2, P, Q, 4):
    for k, l, c in np.ndindex(3, 3, 3):
        loops[n, p, q, f] += x[n, p + k, q + l, c] * w[k, l, c, f]

print("largest difference below 1e-13:", np.abs(y - loops).max() < 1e-13)
assert np.abs(y - loops).max() < 1e-13
assert np.shares_memory(y, product)  # the product is the output: nothing had to be moved

# %% [markdown]
# ## Back: col2im, the adjoint
#
# The second pass of a convolution needs the transposed product, $B\,W^T$, which gives a derivative for each *cell of each
# window*. A pixel that was copied into several windows collects the derivatives of all its copies. That is **col2im**: put
# every row back where it came from, and add.
#
# It is not the inverse of im2col but its *adjoint*, $\langle \mathrm{im2col}\, x,\, c \rangle = \langle x,\, \mathrm{col2im}\,
# c \rangle$ for all $x$ and $c$. Applied to im2col of a picture of ones, it counts the windows that each pixel belongs to.

# %%
c = rng.standard_normal((2, P, Q, 27))
left = (im2col(x, SIZE, STRIDE, PADDING) * c).sum()
right = (x * col2im(c, SIZE, STRIDE, PADDING, (6, 5))).sum()
assert np.isclose(left, right, rtol=1e-12)

counts = col2im(im2col(np.ones((1, 5, 5, 1)), SIZE, STRIDE, PADDING), SIZE, STRIDE, PADDING, (5, 5))
counts_apart = col2im(
    im2col(np.ones((1, 6, 6, 1)), SIZE, (3, 3), PADDING), SIZE, (3, 3), PADDING, (6, 6)
)
assert counts.max() == 9 and counts.min() == 1
assert (counts_apart == 1).all()

figure, axes = plt.subplots(1, 2, figsize=(9, 4.4))
drawing.show_image(
    axes[0], counts, "windows that a pixel is in\n(3×3, stride 1)", limit=14, numbers=".0f"
)
drawing.show_image(axes[1], counts_apart, "the same\n(3×3, stride 3)", limit=14, numbers=".0f")
plt.show()

# %% [markdown]
# Only where every pixel lies in exactly one window does col2im undo im2col.
#
# ## All methods of a convolution in three lines
#
# | method | formula |
# |---|---|
# | `forward`, `third_pass` | $\mathrm{im2col}(x)\, W$ (with and without the bias) |
# | `backward` | $\mathrm{col2im}(B\, W^T)$ |
# | `weight_gradients` | $G(a, b) = \mathrm{im2col}(a)^T\, B$ |
#
# This is what `convnet/kernels/reference.py` does, and the layer agrees with it:

# %%
layer = convnet.layers.Conv(4, 3)
net = convnet.Network([layer, convnet.layers.Flatten()], x.shape[1:], dtype="float64")
layer.parameters["weight"][...] = w
record = convnet.layers.Record(training=False, kept=True)
b = rng.standard_normal(y.shape)
B = b.reshape(-1, 4)

assert np.allclose(layer.forward(x, record), y)
assert np.allclose(
    layer.backward(b, record),
    col2im((B @ w.reshape(-1, 4).T).reshape(2, P, Q, -1), SIZE, STRIDE, PADDING, (6, 5)),
)
assert np.allclose(layer.weight_gradients(x, b)["weight"], (x_col.T @ B).reshape(w.shape))

# %% [markdown]
# ## Why channels last
#
# Memory is a line, and computers copy runs of neighbours much faster than scattered numbers. So let us count, for one window,
# the runs of neighbouring numbers it consists of, in both layouts: channels last, $(N, H, W, C)$, and channels first, $(N, C,
# H, W)$.


# %%
def runs(window):
    """Return how many stretches of neighbours the memory addresses of a window form."""
    strides = np.array(window.strides) // window.itemsize
    places = np.sort([strides @ index for index in np.ndindex(window.shape)])
    return 1 + int((np.diff(places) != 1).sum())


channels = 32
last = np.zeros((28, 28, channels))[:5, :5, :]
first = np.zeros((channels, 28, 28))[:, :5, :5]
print(f"runs of a 5×5 window of {channels} channels, channels-last:  {runs(last)}")
print(f"runs of a 5×5 window of {channels} channels, channels-first: {runs(first)}")
assert runs(last) == 5 and runs(first) == 5 * channels

# %% [markdown]
# Channels last, a row of the window is *one* run of $K_W C$ numbers. There is a second reason, which we have met above: the
# product has the rows $(n, p, q)$ and the columns $f$, which *is* the layout $(N, P, Q, F)$. The next layer can start at once;
# with channels first every layer would transpose.
#
# ## What it costs
#
# The matrix of columns is $K_H K_W$ times as large as the image. For the second convolution of the papers' MNIST network (32
# channels of $12 \times 12$, filters of $5 \times 5$, padding 2) and a batch of 32:

# %%
images_megabytes = 32 * 12 * 12 * 32 * 4 / 2**20
columns_megabytes = 32 * 12 * 12 * (5 * 5 * 32) * 4 / 2**20
print(f"images {images_megabytes:.2f} MiB, columns {columns_megabytes:.1f} MiB")
assert columns_megabytes == 25 * images_megabytes

# %% [markdown]
# That is more than the cache of a core holds, so writing it and reading it back, in every pass, costs time and memory that the
# product itself does not need. The fast kernels therefore never make the matrix: each of its rows is a few runs of numbers that
# lie in the image already, and a product of their own reads them there (`convnet/kernels/tile.py`). Same formula, no copies;
# `tests/kernels` holds one against the other.
#
# ## What to remember
#
# - im2col copies windows into rows; col2im adds rows back into windows; they are adjoint.
# - Forward, backward and weight gradient of a convolution are one matrix product each.
# - Channels last makes the copies long and the output ready.
#
# ## Exercises
#
# **1.** How many windows fit into an image of $H$ rows with windows of $K$ rows, stride $S$ and padding $R$ on both sides? Test
# the formula on $H = 28$, $K = 5$, $S = 2$, $R = 1$.
#
# <details><summary>Solution</summary>
#
# $P = \lfloor (H + 2R - K)/S \rfloor + 1$. If the stride does not divide, the last rows belong to no window, and their
# derivative is zero.
#
# ```python
# columns = im2col(np.zeros((1, 28, 28, 1)), (5, 5), (2, 2), (1, 1))
# assert columns.shape[1] == (28 + 2 * 1 - 5) // 2 + 1 == 13
# ```
#
# </details>
#
# **2.** A filter that answers to vertical edges is $(1, 0, -1)$ in each of three rows. Apply it to some digits with one
# product.
#
# <details><summary>Solution</summary>
#
# ```python
# digits = convnet.data.load("digits").prepared(dtype="float64", subtract_mean=False).test_images[:5]
# edge = np.tile([1.0, 0.0, -1.0], (3, 1)).reshape(9, 1)
# answers = (im2col(digits, SIZE, STRIDE, (1, 1)).reshape(-1, 9) @ edge).reshape(5, 8, 8, 1)
# drawing.show_images([list(digits), list(answers)], labels=["digit", "edges"], signed=[False, True])
# plt.show()
# assert np.isclose(answers[0, 4, 4], (digits[0, 3:6, 3] - digits[0, 3:6, 5]).sum())
# ```
#
# </details>
#
# **3.** A *transposed* convolution, `convnet.layers.Deconv`, enlarges images. Which of the formulas above is its forward pass?
# Which is its backward pass?
#
# <details><summary>Solution</summary>
#
# Forward is $\mathrm{col2im}(x\, W^T)$, backward is $\mathrm{im2col}(b)\, W$: the two directions of the convolution exchanged.
# Its weights have the shape of the convolution's.
#
# ```python
# deconv = convnet.layers.Deconv(3, 3, bias=False)
# up = convnet.Network([deconv, convnet.layers.Flatten()], (P, Q, 4), dtype="float64")
# deconv.parameters["weight"][...] = w
# assert np.allclose(deconv.forward(b, record), layer.backward(b, record))
# assert np.allclose(deconv.backward(x, record), y)
# ```
#
# </details>
