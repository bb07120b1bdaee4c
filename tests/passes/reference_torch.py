"""The same mathematics by automatic differentiation: networks, losses and algorithms in PyTorch, float64.

Nothing of the engine's passes is used: a network's layers are translated into PyTorch functions on the same parameters
(channels last), and every penalty is differentiated by double backward. From the engine come only the random numbers:
dropout's factors and the noise of a draw.

The exact form of an algorithm is the gradient of its objective. Of the published forms,

- those on ``dL/dx`` differentiate the reverse network, layer by layer, with activations and output error detached;
- those on predictions differentiate the linearised forward network, with activations and the first tangent detached.
"""
import torch

from convnet import kernels
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
from convnet.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy, SquaredError
from convnet.passes import (
    AdversarialTraining,
    Backprop,
    DoubleBackprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    NoiseInjection,
    PredictionIBP,
    Run,
    SumOfPenalties,
    TangentProp,
)

torch.set_num_threads(1)
F = torch.nn.functional


def gradient(y, x, v=None):
    """Return ``J^T v`` of `y` in `x`, differentiable; `v` is 1 by default."""
    return torch.autograd.grad(y, x, torch.ones_like(y) if v is None else v, create_graph=True)[0]


def product(y, x, t):
    """Return ``J t`` of `y` in `x`: the derivative of ``J^T v``, which is linear in ``v``, in ``v``."""
    v = torch.zeros_like(y, requires_grad=True)
    return gradient(gradient(y, x, v), v, t)


def first_axis(v):
    """Return the sum over all axes but the first."""
    return v.reshape(len(v), -1).sum(dim=1)


def norm(v, r):
    """Return ``(1/r) ‖v‖_r^r`` of each sample."""
    return first_axis(v.abs() ** r) / r


def images(function, x, *args, **options):
    """Apply a PyTorch function of channels-first images to channels-last ones."""
    return function(x.permute(0, 3, 1, 2), *args, **options).permute(0, 2, 3, 1)


class Reference:
    """One batch on a network, in PyTorch.

    Parameters
    ----------
    net, loss, batch
        As for an algorithm. The draw is the next one of a copy of the network.
    training : bool
    """

    def __init__(self, net, loss, batch, training=True):
        self.net, self.loss, self.training = net, loss, training
        self.run = Run(net.copy(), loss, batch, training)
        first, _ = self.run.first(self.run.x)
        # A copy's layers are other objects, at the same places.
        records = {layer.index: record for layer, record in first.records.items()}
        self.factors = {layer: torch.from_numpy(kernels.to_numpy(records[layer.index].scale)) for layer in net.paths
                        if isinstance(layer, Dropout) and training and layer.rate}
        self.w = {name: torch.tensor(array, requires_grad=True) for name, array in net.parameters.items()}
        self.state = {name: torch.tensor(array) for name, array in net.state.items()}
        self.x = torch.tensor(self.run.x, requires_grad=True)
        self.labels = torch.tensor(self.run.labels)
        self.tangents = None if batch.tangents is None else torch.tensor(batch.tangents)
        self.inputs = {}

    # --- networks -----------------------------------------------------------------------------------------------------

    def apply(self, layer, path, x):
        """Return a layer's output, and note the input of layers that are not containers."""
        if isinstance(layer, Sequential):
            for name, child in layer.children():
                x = self.apply(child, f"{path}.{name}".strip("."), x)
            return x
        if isinstance(layer, Residual):
            branches = dict(layer.children())
            body = self.apply(branches["body"], f"{path}.body", x)
            return body + (self.apply(branches["shortcut"], f"{path}.shortcut", x) if "shortcut" in branches else x)
        self.inputs[path] = x
        return self.leaf(layer, path, x)

    def leaf(self, layer, path, x):
        """Return the output of a layer that is not a container; batch normalisation counts as one."""
        weight, bias = self.w.get(f"{path}.weight"), self.w.get(f"{path}.bias")
        if isinstance(layer, Conv):
            return images(F.conv2d, x, weight.permute(3, 2, 0, 1), bias, layer.stride, layer.padding)
        if isinstance(layer, Dense):
            return F.linear(x, weight.T, bias)
        if isinstance(layer, BatchNorm):
            axes = tuple(range(x.ndim - 1))
            if self.training:
                mean = x.mean(dim=axes)
                variance = ((x - mean) ** 2).mean(dim=axes)
            else:
                mean, variance = self.state[f"{path}.running_mean"], self.state[f"{path}.running_variance"]
            return (x - mean) / torch.sqrt(variance + layer.epsilon) * weight + bias
        if isinstance(layer, Dropout):
            return x * self.factors[layer] if layer in self.factors else x
        if isinstance(layer, MaxPool):
            return images(F.max_pool2d, x, layer.size, layer.stride)
        if isinstance(layer, MeanPool):
            return images(F.avg_pool2d, x, layer.size, layer.stride)
        functions = {
            Flatten: lambda x: x.reshape(len(x), -1), ReLU: torch.relu, Sigmoid: torch.sigmoid, Tanh: torch.tanh,
            Softmax: lambda x: torch.softmax(x, dim=-1),
        }
        if isinstance(layer, LeakyReLU):
            return F.leaky_relu(x, layer.slope)
        return functions[type(layer)](x)

    def linearised(self, layer, path, x):
        """Return a layer's output at the detached input it had, and that input."""
        x = self.inputs[path].detach().requires_grad_()
        return self.leaf(layer, path, x), x

    def reverse(self, layer, path, b):
        """Take `b` back through the reverse network: activations held, weights free."""
        if isinstance(layer, Sequential):
            for name, child in reversed(list(layer.children())):
                b = self.reverse(child, f"{path}.{name}".strip("."), b)
            return b
        if isinstance(layer, Residual):
            branches = dict(layer.children())
            body = self.reverse(branches["body"], f"{path}.body", b)
            return body + (self.reverse(branches["shortcut"], f"{path}.shortcut", b) if "shortcut" in branches else b)
        return gradient(*self.linearised(layer, path, None), b)

    def tangent(self, layer, path, t):
        """Take `t` up through the linearised network: activations held, weights free."""
        if isinstance(layer, Sequential):
            for name, child in layer.children():
                t = self.tangent(child, f"{path}.{name}".strip("."), t)
            return t
        if isinstance(layer, Residual):
            branches = dict(layer.children())
            body = self.tangent(branches["body"], f"{path}.body", t)
            return body + (self.tangent(branches["shortcut"], f"{path}.shortcut", t) if "shortcut" in branches else t)
        return product(*self.linearised(layer, path, None), t)

    # --- losses -------------------------------------------------------------------------------------------------------

    def logits(self, x):
        """Return the network's output before its last softmax or sigmoid."""
        return self.apply(self.net.body, "", x)

    def head(self, z):
        """Return the network's output."""
        return z if self.net.head is None else self.leaf(self.net.head, None, z)

    def readout(self, z, at):
        """Return what a penalty at the logits or at the output is about."""
        if at == "logits":
            return z
        if self.net.head is not None:
            return self.head(z)
        if isinstance(self.loss, SoftmaxCrossEntropy):
            return torch.softmax(z, dim=1)
        return torch.sigmoid(z) if isinstance(self.loss, BinaryCrossEntropy) else z

    def losses(self, z):
        """Return the loss of each sample."""
        o, l = self.head(z), self.labels
        if isinstance(self.loss, SoftmaxCrossEntropy):
            value = -(l * F.log_softmax(o, dim=1)).sum(dim=1)
        elif isinstance(self.loss, BinaryCrossEntropy):
            value = -(l * F.logsigmoid(o) + (1 - l) * F.logsigmoid(-o)).sum(dim=1)
        elif isinstance(self.loss, MeanSquaredError):
            value = ((o - l) ** 2).mean(dim=1)
        else:
            assert type(self.loss) is SquaredError
            value = ((o - l) ** 2).sum(dim=1) / 2
        weights = self.loss.class_weights
        return value if weights is None else value * (l * torch.tensor(weights)).sum(dim=1)

    # --- algorithms ---------------------------------------------------------------------------------------------------

    def objective(self, algorithm):
        """Return (objective, loss, penalty) of an algorithm, to be differentiated in the weights."""
        x = self.x
        if isinstance(algorithm, NoiseInjection):
            x = x + algorithm.sigma * torch.tensor(self.run.normal(self.run.x.shape))
        loss = self.losses(self.logits(x)).mean()
        if isinstance(algorithm, (Backprop, NoiseInjection)):
            return loss, loss, 0 * loss
        if isinstance(algorithm, AdversarialTraining):
            dx = gradient(loss * len(x), x)
            x_star = (x + algorithm.epsilon * (dx.sign() if algorithm.norm == 1 else dx)).detach()
            loss_star = self.losses(self.logits(x_star)).mean()
            return (loss_star if algorithm.fast else (loss + loss_star) / 2), loss, loss_star - loss
        if isinstance(algorithm, SumOfPenalties):
            penalty = sum(part.coefficient * self.penalty(part).mean() for part in algorithm.parts)
            return loss + penalty, loss, penalty
        penalty = self.penalty(algorithm).mean()
        return loss + algorithm.coefficient * penalty, loss, penalty

    def penalty(self, algorithm):
        """Return the penalty of each sample."""
        z = self.logits(self.x)
        losses = self.losses(z)
        dx = gradient(losses, self.x)
        if isinstance(algorithm, JacobianRegularizer):
            return self.jacobian_penalty(algorithm, self.readout(z, algorithm.at))
        if isinstance(algorithm, HessianFrobenius):
            trace = self.hessian_trace(z, losses)
            squares = first_axis(dx**2)
            return {None: trace, "db1": trace + squares, "db2": trace**2 + squares}[algorithm.variant]
        if isinstance(algorithm, DoubleBackprop):
            return first_axis(dx**2)
        held = not algorithm.exact
        if isinstance(algorithm, LossIBP) or algorithm_is_fast(algorithm):
            if held:
                dx = self.reverse(self.net.body, "", gradient(losses, z).detach())
            if isinstance(algorithm, LossIBP):
                return norm(dx, algorithm.norm)
            return sum(norm(first_axis(dx * tau), algorithm.norm) for tau in self.tangents.unbind(dim=1))
        starts = [dx] if isinstance(algorithm, PredictionIBP) else self.tangents.unbind(dim=1)
        return sum(norm(self.change(z, t.detach() if held else t, algorithm.at, held), algorithm.norm) for t in starts)

    def change(self, z, t, at, held):
        """Return how the predictions change along `t`."""
        if not held:
            return product(self.readout(z, at), self.x, t)
        z = z.detach().requires_grad_()
        return product(self.readout(z, at), z, self.tangent(self.net.body, "", t))

    def jacobian_penalty(self, algorithm, o):
        """Return ``sum_c ‖do_c/dx‖²``, or its estimate from the directions of the draw."""
        n, classes = o.shape
        if algorithm.projections is None:
            return sum(first_axis(gradient(o[:, c], self.x) ** 2) for c in range(classes))
        directions = torch.tensor(self.run.normal((algorithm.projections, n, classes)))
        directions = directions / directions.norm(dim=2, keepdim=True)
        total = sum(first_axis(gradient((o * v).sum(dim=1), self.x) ** 2) for v in directions)
        return classes / algorithm.projections * total

    def hessian_trace(self, z, losses):
        """Return ``sum_ab H_ab (dz_a/dx)·(dz_b/dx)`` of each sample, with the Hessian by double backward."""
        dz = gradient(losses, z)
        rows = [gradient(z[:, a], self.x) for a in range(z.shape[1])]
        hessian = [gradient(dz[:, a], z) for a in range(z.shape[1])]
        return sum(hessian[a][:, b] * first_axis(rows[a] * rows[b]) for a in range(len(rows)) for b in range(len(rows)))

    def step(self, algorithm):
        """Return the objective, loss, penalty, gradients by name, and ``dL/dx``, as numbers."""
        objective, loss, penalty = self.objective(algorithm)
        found = torch.autograd.grad(objective, list(self.w.values()), allow_unused=True)
        gradients = {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(self.w.items(), found, strict=True)}
        dx = gradient(self.losses(self.logits(self.x)), self.x)
        return (*(v.item() for v in (objective, loss, penalty)), {k: g.numpy() for k, g in gradients.items()},
                dx.detach().numpy())


def algorithm_is_fast(algorithm):
    """Whether this is fast tangent propagation."""
    return isinstance(algorithm, TangentProp) and algorithm.fast
