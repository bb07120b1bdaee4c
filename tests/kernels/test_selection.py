"""Which kernels are taken."""
import pytest

from convnet import kernels


@pytest.fixture
def undecided(monkeypatch):
    """No kernels are in use yet, and the fast ones raise when they are imported, as numba does beside a newer NumPy."""
    before = kernels.load

    def load(name):
        if name == "fast":
            raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.5.")
        return before(name)

    monkeypatch.setattr(kernels, "_cpu", None)
    monkeypatch.setattr(kernels, "load", load)
    monkeypatch.setattr(kernels, "available", lambda: "fast")


def test_fast_kernels_that_cannot_be_loaded_are_replaced_by_the_plain_ones(undecided, monkeypatch):
    monkeypatch.delenv("CONVNET_KERNELS", raising=False)
    with pytest.warns(UserWarning, match=r"plain ones are taken: Numba needs NumPy 2\.4"):
        assert kernels.cpu().name == "reference"
    assert kernels.cpu().name == "reference"


def test_kernels_that_are_asked_for_are_not_replaced(undecided, monkeypatch):
    monkeypatch.setenv("CONVNET_KERNELS", "fast")
    with pytest.raises(ImportError, match="Numba needs"):
        kernels.cpu()
