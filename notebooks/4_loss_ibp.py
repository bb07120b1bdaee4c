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
# # 4. Loss IBP: training against the input gradient
#
# A network whose loss hardly changes when the input does is *invariant*: to noise, to small shifts, to an adversary. So let us
# punish the change. **Loss IBP** (invariant backpropagation) minimises, for each sample,
#
# $$ L(x) + \beta R, \qquad R = \frac{1}{r}\, \| dy_0 \|_r^r, \qquad dy_0 = \frac{\partial L}{\partial x},
# \qquad r = 1 \text{ or } 2 . $$
#
# The penalty is a function of the *result of a backward pass*. Its gradient in the weights would seem to need backpropagation
# through backpropagation. It needs one third pass.

# %%
import drawing
import matplotlib.pyplot as plt
import numpy as np

import convnet
from convnet.evaluation import error_rate, fgsm_errors, input_gradient, noise_errors
from convnet.layers import Conv, Dense, Flatten, MaxPool, ReLU
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD
from convnet.passes import Backprop, LossIBP, first_pass, fourth_pass, second_pass, third_pass

loss = SoftmaxCrossEntropy()
data = convnet.data.load("digits").prepared(dtype="float64")


def fresh_network(seed=0):
    return convnet.Network(
        [Conv(8, 3, padding=1), ReLU(), MaxPool(3, 2), Flatten(), Dense(32), ReLU(), Dense(10)],
        data.input_shape,
        seed=seed,
        dtype="float64",
    )


# %% [markdown]
# ## The reverse network
#
# The backward pass is itself a network: its input is $dy_K$, its layers are $J_i^T$, its output is $dy_0$, and $R$ is its loss.
# To train *that* network we go through it backwards, which means forwards through the first one: from
#
# $$ t_0 = \frac{\partial R}{\partial (dy_0)} =
# \begin{cases} \mathrm{sign}(dy_0) & r = 1 \\ dy_0 & r = 2 \end{cases}
# \qquad \text{upwards by} \qquad t_i = J_i\, t_{i-1} . $$
#
# This is the third pass of notebook 3. A weight of layer $i$ meets $dy_i$ on the way down and $t_{i-1}$ on the way up, so the
# gradient of $R$ is the product $G_i(t_{i-1}, dy_i)$, and biases, which the reverse network does not have, get nothing.
#
# ## Algorithm 1, step by step

# %%
net = fresh_network()
batch = convnet.Batch(data.train_images[:32], data.train_labels[:32])
labels, beta = np.eye(10)[batch.labels], 0.03

y = first_pass(net.body, batch.images)  #                       1. forward
dy = second_pass(y, loss.gradient(y.output, labels))  #            backward, down to the input
t = third_pass(y, np.sign(dy.output))  #                         2. third pass

# 3. weight gradients: two products ...
layer = net.root.layers[0]
G_y = layer.weight_gradients(y.factors[layer], dy.factors[layer], constant=1.0)
G_t = layer.weight_gradients(t.factors[layer], dy.factors[layer], constant=0.0)
two = {name: (G_y[name] + beta * G_t.get(name, 0)) / 32 for name in G_y}

# ... or one, as G is linear in what travelled up:
one = layer.weight_gradients(y.factors[layer] + beta * t.factors[layer], dy.factors[layer])

step = LossIBP(beta, norm=1).gradients(net, loss, batch)
for name in ("weight", "bias"):
    assert np.allclose(two[name], step.gradients[f"0.{name}"]) and np.allclose(one[name] / 32, two[name])
print(f"L = {step.loss:.3f}   R = {step.penalty:.2f}   objective = {step.objective:.3f}")
assert np.isclose(step.objective, step.loss + beta * step.penalty)

# %% [markdown]
# The last form, $G(y + \beta t,\, dy)$, is why Loss IBP costs four units where backpropagation costs three: up, down, up, one
# product.
#
# ## But is it the gradient?
#
# Let us ask the definition, as in notebook 1: move all weights by a small step in a random direction and see how $R$ changes.

# %%
rng = np.random.default_rng(1)
direction = rng.standard_normal(net.vector.size)


def penalty_at(net, direction, h):
    start = net.vector.copy()
    net.vector += h * direction
    R = LossIBP(0.0).gradients(net, loss, batch).penalty
    net.vector[...] = start
    return R


def extra_gradient(net, batch, exact):
    plain = Backprop().gradients(net, loss, batch).flat_gradient
    return LossIBP(1.0, exact=exact).gradients(net, loss, batch).flat_gradient - plain


h = 1e-7
measured = (penalty_at(net, direction, h) - penalty_at(net, direction, -h)) / (2 * h)
published = extra_gradient(net, batch, exact=False) @ direction
exact = extra_gradient(net, batch, exact=True) @ direction
print(f"differences of R   {measured:10.5f}")
print(f"published gradient {published:10.5f}")
print(f"exact gradient     {exact:10.5f}")
assert abs(exact - measured) < 1e-5 * abs(measured)
assert abs(published - measured) > 0.01 * abs(measured)

# %% [markdown]
# The published gradient is not wrong by a coding error. It is a *partial* derivative: it treats the input of the reverse
# network, $dy_K = p - l$, as a constant, and the slopes of its layers, $J_i$, too. But $p$ depends on the weights, and so do the
# slopes of curved layers.
#
# ### The smallest example
#
# One weight, one input, $L = \frac12 (w x - l)^2$. Then $dy_0 = w\,(w x - l)$, and with $R = \frac12 dy_0^2$
#
# $$ \frac{dR}{dw} = dy_0 \cdot \Big( \underbrace{(w x - l)}_{\text{published}} + \underbrace{w\, x}_{\text{left out}} \Big) . $$
#
# As training makes $w x - l$ small, the first term vanishes and the second does not.
#
# ## The fourth pass completes it
#
# What was left out are two paths: *weights → logits → $dy_K$ → $R$* and, where layers are curved, *weights → activations →
# $J_i$ → $R$*. By the third pass, $R$ changes by $t_K \cdot \delta(dy_K)$
# when $dy_K$ changes. And $dy_K$ changes with the logits by the Hessian $H = \partial^2 L / \partial z^2$, which for the
# softmax is $\mathrm{diag}(p) - p p^T$. So the first path starts with $s_K$, and the second joins it at each layer with $k_i$:
#
# $$ s_K = H\, t_K , \qquad s_{i-1} = J_i^T s_i + k_i(t_{i-1}, dy_i), \qquad \text{and adds} \quad G(y, s) . $$
#
# It is one more backward pass, and $k_i(t, b) = \partial / \partial x\, [\, b^T J_i(x)\, t\,]$ is the curvature of
# the layer. For layers that are linear or piecewise linear, as all of this network, it is zero.

# %%
objective_hessian = loss.hessian_product(y.output, labels, t.output)
s = fourth_pass(y, objective_hessian, [(t, dy)])

complete = net.gradient_buffer()[1]
for layer, path in net.paths.items():
    if layer.trainable:
        for up, down, constant in ((t, dy, 0.0), (y, s, 1.0)):
            for name, product in layer.weight_gradients(
                up.factors[layer], down.factors[layer], constant
            ).items():
                complete[f"{path}.{name}"] += product / 32
flat = np.concatenate([part.ravel() for part in complete.values()])
assert np.allclose(flat, extra_gradient(net, batch, exact=True))
print("G(t, dy) + G(y, s) is the exact gradient")

# %% [markdown]
# ## What is left out, seen
#
# How much does it matter? We train by plain backpropagation, and look now and then at both gradients of $R$ on the same images:
# the cosine of their angle, and the ratio of their lengths.

# %%
probe = convnet.Batch(data.train_images[:200], data.train_labels[:200])
watched, optimizer = fresh_network(), SGD(0.1, momentum=0.9, dampening=0.9)
shuffler, moments, cosines, ratios = np.random.default_rng(0), range(0, 601, 20), [], []
for number in range(601):
    if number in moments:
        part, whole = extra_gradient(watched, probe, False), extra_gradient(watched, probe, True)
        cosines.append(part @ whole / np.linalg.norm(part) / np.linalg.norm(whole))
        ratios.append(np.linalg.norm(part) / np.linalg.norm(whole))
    rows = shuffler.choice(len(data.train_labels), 32, replace=False)
    optimizer.update(
        watched,
        Backprop().gradients(
            watched, loss, convnet.Batch(data.train_images[rows], data.train_labels[rows])
        ),
    )

figure, ax = plt.subplots(figsize=(9, 4.5))
ax.plot(moments, cosines, "o-", label="cosine of the angle")
ax.plot(moments, ratios, "s--", label="length, published / exact")
ax.axhline(0, color=drawing.GREY, linewidth=1)
ax.set(xlabel="training step", ylim=(-0.15, 1.15), title="published and exact gradient of R")
ax.legend()
plt.show()

print(
    f"at the start: cosine {cosines[0]:.2f}, ratio {ratios[0]:.2f};  "
    f"after 600 steps: cosine {cosines[-1]:.2f}, ratio {ratios[-1]:.2f}"
)
assert cosines[0] > 0.8 and ratios[0] > 0.8
assert abs(cosines[-1]) < 0.3 and ratios[-1] < 0.3

# %% [markdown]
# At the start, the two nearly agree. After a few hundred steps they are almost *perpendicular*, and the published one is short.
# It follows a rule of its own, a useful one as we shall see, but it is not descent on the objective that is written on the
# paper. Two consequences: a coefficient $\beta$ that suits one form does not suit the other; and whoever compares algorithms
# should say which form was run. Here the switch is called `exact`.
#
# ## What the penalty does
#
# Three networks on few images, 30 of each class, and three seeds.

# %%
small = [
    convnet.data.load("digits").subset(per_class=30, seed=seed).prepared(dtype="float64")
    for seed in range(3)
]
algorithms = {
    "backprop": Backprop(),
    "Loss IBP, published": LossIBP(0.1),
    "Loss IBP, exact": LossIBP(0.1, exact=True),
}
nets, table = {}, {}
for name, algorithm in algorithms.items():
    rows = []
    for seed, subset in enumerate(small):
        trained = fresh_network(seed)
        convnet.train(
            trained,
            subset,
            algorithm,
            SGD(0.1, momentum=0.9, dampening=0.9),
            epochs=30,
            batch_size=20,
            progress=False,
        )
        images, ids = subset.test_images, subset.test_labels
        size = np.abs(input_gradient(trained, loss, images, ids)).sum(axis=(1, 2, 3)).mean()
        rows.append(
            [
                100 * error_rate(trained, images, ids),
                100 * noise_errors(trained, images, ids, [0.2])[0],
                100 * fgsm_errors(trained, images, ids, [0.05])[0],
                100 * fgsm_errors(trained, images, ids, [0.1])[0],
                size,
            ]
        )
        nets.setdefault(name, trained)
    table[name] = np.mean(rows, axis=0)

print(
    f"{'test error in %':22}{'clean':>8}{'noise 0.2':>11}{'step 0.05':>11}{'step 0.1':>10}{'mean R':>9}"
)
for name, row in table.items():
    print(f"{name:22}{row[0]:8.1f}{row[1]:11.1f}{row[2]:11.1f}{row[3]:10.1f}{row[4]:9.1f}")

for name in ("Loss IBP, published", "Loss IBP, exact"):
    assert table[name][4] < 0.8 * table["backprop"][4]
    assert (table[name][1:4] < table["backprop"][1:4]).all()
    assert abs(table[name][0] - table["backprop"][0]) < 4

# %% [markdown]
# *Noise* is Gaussian, with its deviation; *step* is the adversary's best friend, $x + \varepsilon\, \mathrm{sign}(dy_0)$. Both
# forms make the network harder to disturb; the clean error moves by a few points, one way or the other. The two columns of
# steps show it best:

# %%
figure, ax = plt.subplots(figsize=(9, 4.5))
levels = np.linspace(0, 0.15, 7)
for (name, trained), style in zip(nets.items(), ("o-", "s--", "^:"), strict=True):
    errors = fgsm_errors(trained, small[0].test_images, small[0].test_labels, levels)
    ax.plot(levels, 100 * np.array(errors), style, label=name)
ax.set(xlabel="ε, step along the sign of the gradient", ylabel="test error in %", ylim=(0, 100))
ax.legend()
plt.show()

# %% [markdown]
# And the input gradients themselves, of five test images that all three networks classify correctly, on one scale for each
# column:

# %%
images, ids = small[0].test_images, small[0].test_labels
right = np.logical_and.reduce([trained.predict(images) == ids for trained in nets.values()])
hardest = np.abs(input_gradient(nets["backprop"], loss, images, ids)).sum(axis=(1, 2, 3)) * right
chosen = np.argsort(hardest)[-5:]
gradients = {
    name: input_gradient(trained, loss, images[chosen], ids[chosen]) for name, trained in nets.items()
}
scale = np.max([np.abs(g).max(axis=(1, 2, 3)) for g in gradients.values()], axis=0)
rows = [list(images[chosen] + small[0].mean_image)]
rows += [[g / size for g, size in zip(group, scale, strict=True)] for group in gradients.values()]
drawing.show_images(rows, labels=["image", *gradients], signed=[False, True, True, True])
plt.show()
assert np.abs(gradients["Loss IBP, published"]).sum() < np.abs(gradients["backprop"]).sum()

# %% [markdown]
# ## What to remember
#
# - A penalty on $dy_0$ needs one third pass from $t_0 = \partial R / \partial(dy_0)$, and no further weight product: $G(y +
#   \beta t,\, dy)$.
# - The published gradient holds $dy_K$ constant. The exact one adds $G(y, s)$ with a fourth pass from $s_K = H\, t_K$.
# - During training the two part company. Both make networks robust; neither's $\beta$ is the other's.
#
# ## Exercises
#
# **1.** Choose a loss for which published and exact gradient are the same. (Hint: what must $\partial^2 L/\partial z^2$ be?)
#
# <details><summary>Solution</summary>
#
# The Hessian in the logits must vanish, so that $dy_K$ does not depend on the weights; then $s = 0$ in a piecewise-linear
# network. The hinge loss is one (away from its kinks).
#
# ```python
# from convnet.losses import MultiClassHinge
#
# hinge = MultiClassHinge()
# both = [LossIBP(0.1, exact=form).gradients(net, hinge, batch).flat_gradient for form in (False, True)]
# assert np.allclose(*both)
# ```
#
# </details>
#
# **2.** Verify the smallest example with a network of one weight: $x = 2$, $l = 1$, $w = 0.8$.
#
# <details><summary>Solution</summary>
#
# ```python
# from convnet.losses import SquaredError
#
# tiny = convnet.Network([Dense(1, bias=False)], (1,), dtype="float64")
# tiny.vector[...] = w = 0.8
# single = convnet.Batch(np.array([[2.0]]), np.array([[1.0]]))
# error, dy_0 = w * 2 - 1, w * (w * 2 - 1)
# plain = Backprop().gradients(tiny, SquaredError(), single).flat_gradient[0]
# steps = [LossIBP(1.0, 2, form).gradients(tiny, SquaredError(), single) for form in (False, True)]
# found = [step.flat_gradient[0] - plain for step in steps]
# assert np.allclose(found, [dy_0 * error, dy_0 * (error + w * 2)])
# ```
#
# </details>
#
# **3.** Does weight decay, which makes all weights smaller, do the same as Loss IBP? Train with `SGD(..., weight_decay=...)`,
# try to come to the mean $R$ of Loss IBP, and look at the clean errors.
#
# <details><summary>Solution</summary>
#
# No. The product of all weights is a factor of $dy_0$, so $R$ becomes smaller; but the other factor is $p - l$, which small
# weights make larger. Long before $R$ is down to that of Loss IBP, the network no longer classifies well.
#
# ```python
# images, ids = small[0].test_images, small[0].test_labels
# reached = []
# for weight_decay in (0.01, 0.03, 0.05):
#     decayed = fresh_network()
#     optimizer = SGD(0.1, momentum=0.9, dampening=0.9, weight_decay=weight_decay)
#     convnet.train(decayed, small[0], Backprop(), optimizer, epochs=30, batch_size=20, progress=False)
#     R = np.abs(input_gradient(decayed, loss, images, ids)).sum(axis=(1, 2, 3)).mean()
#     reached.append([100 * error_rate(decayed, images, ids), R])
#     print(f"weight decay {weight_decay}: clean error {reached[-1][0]:.1f} %, mean R {R:.1f}")
# weakest, _, strongest = reached
# assert weakest[1] > strongest[1] > table["Loss IBP, exact"][4] > table["Loss IBP, published"][4]
# assert strongest[0] > weakest[0] + 3
# ```
#
# </details>
