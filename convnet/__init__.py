"""Convolutional networks whose layers write out every pass of backpropagation.

The names that other programs rely on are imported on first use, so that ``import convnet`` stays light.
"""
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# In a source checkout convnet.layers and convnet.passes stand beside this folder, not inside it. An installed package
# has them inside, and this does nothing there.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "layers" / "base.py").is_file() and (_checkout / "setup.cfg").is_file():
    __path__.append(str(_checkout))

_HOME = {
    "Network": "convnet.network",
    "Batch": "convnet.batch",
    "train": "convnet.training",
}
_MODULES = (
    "analysis", "architectures", "data", "evaluation", "kernels", "layers", "losses", "optimizers", "passes", "pretrained",
    "schedules", "testing",
)

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"convnet.{name}")
    raise AttributeError(f"module 'convnet' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
