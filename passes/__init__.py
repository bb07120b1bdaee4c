"""The passes over a network, and each training algorithm as a short schedule of them."""
from convnet.passes.adversarial import AdversarialTraining
from convnet.passes.algorithm import Algorithm, Penalty, Run, Step
from convnet.passes.backprop import Backprop
from convnet.passes.loss_ibp import LossIBP
from convnet.passes.walk import FirstPass, Trace, first_pass, fourth_pass, inference, second_pass, third_pass

__all__ = [
    "AdversarialTraining", "Algorithm", "Backprop", "FirstPass", "LossIBP", "Penalty", "Run", "Step", "Trace",
    "first_pass", "fourth_pass", "inference", "second_pass", "third_pass",
]
