"""Support vector machines on pixels, what a network's errors are compared with (paper 003, section 4).

The solver is scikit-learn's, which nothing else here needs; the kernels are those of the paper's Table 1.
"""
from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet.layers.base import real_number, whole_number

if TYPE_CHECKING:
    from convnet.data import Dataset

KERNELS = ("linear", "gaussian", "polynomial")


@dataclass(frozen=True)
class BaselineResult:
    """What a baseline reached.

    Attributes
    ----------
    train_error, test_error : float
        Fractions of images misclassified.
    support_vectors : int
        Training images that the decision rests on.
    seconds : float
        Of training and testing.
    """

    train_error: float
    test_error: float
    support_vectors: int
    seconds: float


@dataclass(frozen=True)
class KernelSVM:
    """Soft-margin support vector machine, one against one for more than two classes.

    Parameters
    ----------
    kernel : {"gaussian", "linear", "polynomial"}
        ``exp(-‖x - x'‖²/(2 σ²))``, ``x·x'`` or ``(1 + x·x')^degree`` (paper 003, Table 1).
    penalty : float
        Weight of the violations of the margin, above 0.
    sigma : float, optional
        ``σ`` of the Gaussian kernel, in units of the images; by default ``σ² = D · var(x)/2`` for ``D`` values per image
        with the variance of all training pixels.
    degree : int
        Of the polynomial kernel.

    Raises
    ------
    ValueError
        If an option is none of these.
    """

    kernel: str = "gaussian"
    penalty: float = 1.0
    sigma: float | None = None
    degree: int = 3

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel is {self.kernel!r}; it must be one of {', '.join(KERNELS)}")
        for name in ("penalty", "sigma"):
            value = getattr(self, name)
            if value is not None and real_number(name, value, 0.0) == 0:
                raise ValueError(f"{name} is {value!r}; it must be above 0")
        whole_number("degree", self.degree, 1)

    def fit(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """Return scikit-learn's ``SVC``, trained on flattened `images` (N, ...) with class ids `labels` (N,).

        Raises
        ------
        ImportError
            If scikit-learn is not installed.
        """
        try:
            from sklearn.svm import SVC
        except ImportError:
            raise ImportError("the kernel SVM needs scikit-learn: pip install scikit-learn") from None
        x = _flat(images)
        if self.kernel == "gaussian":
            variance = x.shape[1] * x.var() / 2 if self.sigma is None else self.sigma**2
            options: dict[str, Any] = {"kernel": "rbf", "gamma": 1 / (2 * variance) if variance else 1.0}
        elif self.kernel == "polynomial":
            options = {"kernel": "poly", "gamma": 1.0, "coef0": 1.0, "degree": self.degree}
        else:
            options = {"kernel": "linear"}
        return SVC(C=self.penalty, **options).fit(x, labels)

    def evaluate(self, dataset: Dataset) -> BaselineResult:
        """Train on the training part of a prepared data set and return the errors on both parts."""
        start = time.perf_counter()
        machine = self.fit(dataset.train_images, dataset.train_labels)
        train = float((machine.predict(_flat(dataset.train_images)) != dataset.train_labels).mean())
        test = float((machine.predict(_flat(dataset.test_images)) != dataset.test_labels).mean())
        return BaselineResult(train, test, int(machine.n_support_.sum()), time.perf_counter() - start)


def _flat(images: np.ndarray) -> np.ndarray:
    """Return images as rows of double numbers."""
    return np.asarray(images, float).reshape(len(images), -1)
