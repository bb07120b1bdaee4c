"""Numerical tests run on one thread: sums have one order, and test runs on one machine do not slow each other down."""
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
