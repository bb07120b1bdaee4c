"""The command line; ``convnet --help`` lists the commands."""
from convnet.cli.main import main

__all__ = ["main"]
