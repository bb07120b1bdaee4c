"""The embedded data set: 1797 handwritten digits of 8x8 pixels (see DIGITS.md for source and licence)."""
from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np

from convnet.data.dataset import Dataset


def load_digits() -> Dataset:
    """Return the embedded digits: 1437 training and 360 test images (8, 8, 1), values 0 to 16, ten classes.

    The split is part of the file: stratified, the same for everyone.

    References
    ----------
    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    https://doi.org/10.24432/C50P49 (CC BY 4.0).
    """
    with as_file(files("convnet.data") / "digits.npz") as path, np.load(path, allow_pickle=False) as stored:
        parts = {key: stored[key] for key in ("train_images", "train_labels", "test_images", "test_labels")}
    return Dataset("digits", **parts, classes=tuple("0123456789"), max_value=16.0)
