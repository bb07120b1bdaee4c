"""Checks for anyone who writes a layer or an algorithm: the full battery in one call, which names what is wrong."""
from convnet.testing.algorithms import check_algorithm
from convnet.testing.layers import check_layer
from convnet.testing.report import Check, CheckError, Report

__all__ = ["Check", "CheckError", "Report", "check_algorithm", "check_layer"]
