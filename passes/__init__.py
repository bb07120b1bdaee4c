"""The passes over a network, and each training algorithm as a short schedule of them."""
from convnet.passes.adversarial import AdversarialTraining
from convnet.passes.algorithm import Algorithm, Penalty, Run, Step
from convnet.passes.backprop import Backprop
from convnet.passes.jacobian import HessianFrobenius, JacobianRegularizer
from convnet.passes.loss_ibp import DoubleBackprop, LossIBP
from convnet.passes.noise import NoiseInjection
from convnet.passes.prediction_ibp import PredictionIBP
from convnet.passes.sums import SumOfPenalties
from convnet.passes.tangent import TangentProp
from convnet.passes.walk import FirstPass, Trace, first_pass, fourth_pass, inference, second_pass, third_pass

__all__ = [
    "AdversarialTraining", "Algorithm", "Backprop", "DoubleBackprop", "FirstPass", "HessianFrobenius",
    "JacobianRegularizer", "LossIBP", "NoiseInjection", "Penalty", "PredictionIBP", "Run", "Step", "SumOfPenalties",
    "TangentProp", "Trace", "first_pass", "fourth_pass", "inference", "second_pass", "third_pass",
]
