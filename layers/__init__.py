"""The layers: one small file per family, with the four methods side by side."""
from convnet.layers.activations import LeakyReLU, ReLU, Sigmoid, Tanh
from convnet.layers.base import Builder, Container, Layer, Record
from convnet.layers.batchnorm import BatchNorm
from convnet.layers.containers import Residual, Sequential
from convnet.layers.conv import Conv
from convnet.layers.dense import Dense
from convnet.layers.dropout import Dropout
from convnet.layers.pooling import MaxPool, MeanPool
from convnet.layers.shape import Flatten
from convnet.layers.softmax import Softmax

__all__ = [
    "BatchNorm", "Builder", "Container", "Conv", "Dense", "Dropout", "Flatten", "Layer", "LeakyReLU", "MaxPool",
    "MeanPool", "ReLU", "Record", "Residual", "Sequential", "Sigmoid", "Softmax", "Tanh",
]
