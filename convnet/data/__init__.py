"""Data sets: readers of the standard sets, preparation, subsets, tangent vectors, augmentation and batch loading.

>>> from convnet.data import load
>>> dataset = load("digits").subset(per_class=50, seed=0).prepared()
>>> dataset.train_images.shape
(500, 8, 8, 1)
"""
from convnet.data.dataset import Dataset
from convnet.data.registry import known_names, load

__all__ = ["Dataset", "known_names", "load"]
