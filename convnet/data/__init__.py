"""Data sets: readers of the standard sets, preparation, subsets, tangent vectors, augmentation and batch loading.

>>> from convnet.data import load
>>> dataset = load("digits").subset(per_class=50, seed=0).prepared()
>>> dataset.train_images.shape
(500, 8, 8, 1)
"""
from convnet.data.augment import Augmentation
from convnet.data.corruption import with_label_noise, with_test_noise
from convnet.data.dataset import Dataset
from convnet.data.registry import known_names, load

__all__ = ["Augmentation", "Dataset", "known_names", "load", "with_label_noise", "with_test_noise"]
