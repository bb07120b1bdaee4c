"""The same training steps in PyTorch: autograd, with double backward (``create_graph``) for the penalties."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from convnet import layers
from convnet.layers.base import Layer


class Sum(nn.Module):
    """Two branches added."""

    def __init__(self, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``body(x) + shortcut(x)``."""
        return self.body(x) + self.shortcut(x)


def module_of(layer: Layer) -> nn.Module:
    """Return the PyTorch module of a layer of convnet, freshly initialised."""
    if isinstance(layer, layers.Sequential):
        return nn.Sequential(*map(module_of, layer.layers))
    if isinstance(layer, layers.Residual):
        shortcut = nn.Identity() if layer.shortcut is None else nn.Sequential(*map(module_of, layer.shortcut))
        return Sum(nn.Sequential(*map(module_of, layer.body)), shortcut)
    if isinstance(layer, layers.Conv):
        return nn.Conv2d(layer.input_shape[2], layer.filters, layer.size, layer.stride, layer.padding, bias=layer.bias)
    if isinstance(layer, layers.Dense):
        return nn.Linear(layer.input_shape[0], layer.units, layer.bias)
    if isinstance(layer, layers.BatchNorm):
        return nn.BatchNorm2d(layer.input_shape[-1])
    if isinstance(layer, layers.MaxPool):
        return nn.MaxPool2d(layer.size, layer.stride)
    if isinstance(layer, layers.MeanPool):
        return nn.AvgPool2d(layer.size, layer.stride)
    return {layers.ReLU: nn.ReLU, layers.Flatten: nn.Flatten}[type(layer)]()


class TorchSteps:
    """The training steps of one network on one batch.

    Parameters
    ----------
    net : convnet.Network
    images, labels, tangents : array
    channels_last : bool
        Memory layout of the images and filters.
    device : {"cpu", "cuda"}
    """

    def __init__(self, net: Any, images: np.ndarray, labels: np.ndarray, tangents: np.ndarray, channels_last: bool,
                 device: str = "cpu"):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module = module_of(net.root).to(device, memory_format=layout)
        nchw = (0, 3, 1, 2)
        self.x = torch.from_numpy(np.ascontiguousarray(images.transpose(nchw))).to(device, memory_format=layout)
        self.labels = torch.from_numpy(labels).to(device)
        self.tangents = [torch.from_numpy(np.ascontiguousarray(t.transpose(nchw))).to(device, memory_format=layout)
                         for t in tangents.swapaxes(0, 1)]
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01, momentum=0.9)

    def steps(self) -> dict[str, Callable[[], None]]:
        """Return the step of each algorithm by its name on our command line."""
        return {
            "bp": lambda: self._step(self._loss(self.x)),
            "loss-ibp": self._loss_ibp, "prediction-ibp": self._prediction_ibp, "fast-tangent-prop": self._fast_tangent,
            "tangent-prop": self._tangent, "at": lambda: self._adversarial(False), "fast-at": lambda: self._adversarial(True),
        }

    def forward(self) -> None:
        """Inference."""
        with torch.inference_mode():
            self.module(self.x)

    def _loss(self, x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.module(x), self.labels)

    def _step(self, objective: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        objective.backward()
        self.optimizer.step()

    def _input_gradient(self, create_graph: bool) -> tuple[torch.Tensor, ...]:
        x = self.x.detach().requires_grad_()
        z = self.module(x)
        loss = F.cross_entropy(z, self.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
        return x, z, loss, gradient

    def _loss_ibp(self) -> None:
        _, _, loss, gradient = self._input_gradient(True)
        self._step((loss + 0.01 * gradient.abs().sum()) / len(self.x))

    def _tangent_of_logits(self, x: torch.Tensor, z: torch.Tensor, tangents: list[torch.Tensor]) -> torch.Tensor:
        """Return the absolute sum of the logits' tangents: a vector-Jacobian product, differentiated in its vector."""
        v = torch.zeros_like(z, requires_grad=True)
        (pulled,) = torch.autograd.grad(z, x, v, create_graph=True)
        return sum(torch.autograd.grad(pulled, v, t, create_graph=True)[0].abs().sum() for t in tangents)

    def _prediction_ibp(self) -> None:
        x, z, loss, gradient = self._input_gradient(True)
        self._step((loss + 0.01 * self._tangent_of_logits(x, z, [gradient])) / len(self.x))

    def _tangent(self) -> None:
        x = self.x.detach().requires_grad_()
        z = self.module(x)
        loss = F.cross_entropy(z, self.labels, reduction="sum")
        self._step((loss + 0.01 * self._tangent_of_logits(x, z, self.tangents)) / len(self.x))

    def _fast_tangent(self) -> None:
        _, _, loss, gradient = self._input_gradient(True)
        penalty = sum((gradient * t).flatten(1).sum(1).abs().sum() for t in self.tangents)
        self._step((loss + 0.01 * penalty) / len(self.x))

    def _adversarial(self, fast: bool) -> None:
        _, _, _, gradient = self._input_gradient(False)
        moved = self._loss(self.x + 0.03 * gradient.sign())
        self._step(moved if fast else (moved + self._loss(self.x)) / 2)
