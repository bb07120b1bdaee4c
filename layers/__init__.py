"""The layers: one small file per family, with the four methods side by side."""
from convnet.layers.activations import LeakyReLU, ReLU, Sigmoid, Tanh
from convnet.layers.base import Builder, Container, Layer, Record
from convnet.layers.batchnorm import BatchNorm
from convnet.layers.complex import ComplexConv, Modulus
from convnet.layers.concatenate import Concatenate
from convnet.layers.containers import Residual, Sequential
from convnet.layers.conv import Conv
from convnet.layers.deconv import Deconv
from convnet.layers.dense import Dense
from convnet.layers.dropout import Dropout
from convnet.layers.jitter import Jitter
from convnet.layers.pooling import MaxPool, MeanPool
from convnet.layers.scale_invariant import RescaledDense, ScaleInvariantClassifier, SphereProjection, TargetScores
from convnet.layers.shape import Flatten
from convnet.layers.softmax import Softmax
from convnet.layers.statistics import PixelDeviation, SubtractImageMean

__all__ = [
    "BatchNorm", "Builder", "ComplexConv", "Concatenate", "Container", "Conv", "Deconv", "Dense", "Dropout", "Flatten",
    "Jitter", "Layer", "LeakyReLU", "MaxPool", "MeanPool", "Modulus", "PixelDeviation", "ReLU", "Record", "RescaledDense",
    "Residual", "ScaleInvariantClassifier", "Sequential", "Sigmoid", "Softmax", "SphereProjection", "SubtractImageMean",
    "Tanh", "TargetScores",
]
