"""A GPU, where there is one; everything here is skipped where there is none."""
import pytest

from convnet import devices, kernels


@pytest.fixture(scope="session")
def probed():
    """CuPy, or why there is no device to be used."""
    try:
        return devices.usable_cupy(), ""
    except devices.DeviceError as error:
        return None, str(error)


@pytest.fixture
def cupy(probed, monkeypatch, tmp_path):
    """CuPy on a device that computes; choices between products are made anew."""
    module, reason = probed
    if module is None:
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "_gpu", None)
    monkeypatch.setattr(devices, "_tf32", False)
    return module


@pytest.fixture
def order():
    """A device runs threads in an order of its own."""
    return "any"
