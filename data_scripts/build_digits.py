#!/usr/bin/env python3
"""Write convnet/data/digits.npz from scikit-learn's copy of the digits (needs scikit-learn; run once).

    python data_scripts/build_digits.py OUTPUT.npz
"""
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from convnet.data.sampling import stratified_indices

TEST_IMAGES = 360
SEED = 0


def main(output):
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.uint8)
    test = stratified_indices(labels, size=TEST_IMAGES, seed=SEED)
    train = np.setdiff1d(np.arange(len(labels)), test)
    np.savez_compressed(output, train_images=images[train], train_labels=labels[train],
                        test_images=images[test], test_labels=labels[test])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
