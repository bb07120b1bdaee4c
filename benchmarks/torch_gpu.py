"""Epochs of PyTorch on a GPU, eager or with the step captured as a CUDA graph, on data that lives on the device."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.torch_peer import TorchSteps


class TorchEpochs:
    """The epochs of one algorithm.

    Parameters
    ----------
    net : convnet.Network
        Whose layers are taken.
    algorithm : str
        As in `TorchSteps.steps`.
    shape : (H, W, C)
    batch_size, images : int
    channels_last : bool
    graph : bool
        Whether the step is captured. A last, smaller batch runs eagerly.
    device : {"cuda", "cpu"}
    """

    def __init__(self, net: Any, algorithm: str, shape: tuple[int, int, int], batch_size: int, images: int,
                 channels_last: bool, graph: bool, device: str = "cuda"):
        # Full float32 products, as on our side; PyTorch's convolutions take TF32 by default.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        rng = np.random.default_rng(0)
        data, ids = rng.standard_normal((images, *shape)).astype(np.float32), rng.integers(10, size=images)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._data = torch.from_numpy(data.transpose(0, 3, 1, 2).copy()).to(device, memory_format=layout)
        self._ids, self._images, self._graph = torch.from_numpy(ids).to(device), images, None
        self._sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
        none = np.zeros((batch_size, 0, *shape), np.float32)
        self._full = TorchSteps(net, data[:batch_size], ids[:batch_size], none, channels_last, device)
        self._step = self._full.steps()[algorithm]
        self._algorithm = algorithm
        if graph:
            self._capture()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._step()

    def epoch(self) -> None:
        """Train for one epoch; what is queued may still run."""
        order = torch.randperm(self._images, device=self._ids.device)
        start = 0
        for size in self._sizes:
            rows = order[start:start + size]
            start += size
            if size == len(self._full.x):
                self._full.x.copy_(self._data[rows])
                self._full.labels.copy_(self._ids[rows])
                if self._graph is None:
                    self._step()
                else:
                    self._graph.replay()
            else:
                self._smaller(rows)

    def _smaller(self, rows: torch.Tensor) -> None:
        """Run the last batch on its own arrays."""
        x, labels = self._full.x, self._full.labels
        self._full.x, self._full.labels = self._data[rows], self._ids[rows]
        self._step()
        self._full.x, self._full.labels = x, labels
