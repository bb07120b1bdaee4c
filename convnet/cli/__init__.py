"""The command line: ``convnet compare``, ``train``, ``evaluate``, ``datasets``, ``gradcheck`` and ``info``."""
from convnet.cli.main import main

__all__ = ["main"]
