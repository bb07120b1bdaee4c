"""What is said where there is no GPU, too little memory, or a request that cannot be met."""
import sys
import types

import numpy as np
import pytest

from convnet import Network, devices, testing
from convnet.cli.main import main
from convnet.devices import DeviceError, DeviceMemoryError, array_library, memory_errors
from convnet.layers import Dense, ReLU
from convnet.passes import Backprop
from tests.kernels_cuda import cupy_double


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    monkeypatch.setattr(devices, "_tf32", False)


def broken(monkeypatch, **parts):
    """Put a CuPy in place that is installed and of no use."""
    module = cupy_double.module()
    for name, part in parts.items():
        monkeypatch.setattr(module, name, part)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def raising(message):
    def call(*args, **options):
        raise RuntimeError(message)

    return call


def test_cupy_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"CuPy cannot be imported .* install the extra cuda12 or cuda13, or use device='cpu'"):
        array_library("gpu")


def test_there_is_no_driver(monkeypatch):
    module = broken(monkeypatch)
    monkeypatch.setattr(module.cuda.runtime, "getDeviceCount", raising("cudaErrorInsufficientDriver"))
    with pytest.raises(DeviceError, match=r"CuPy 14.* asking the driver .* failed: cudaErrorInsufficientDriver"):
        array_library("gpu")


def test_the_device_does_not_compute(monkeypatch):
    broken(monkeypatch, arange=raising("no kernel image is available"))
    with pytest.raises(DeviceError, match=r"sees 1 device\(s\), but a sum on the device failed: no kernel image"):
        array_library("gpu")


def test_the_device_computes_wrongly(monkeypatch):
    broken(monkeypatch, arange=lambda *args, **options: np.ones(8))
    with pytest.raises(DeviceError, match=r"computed 0 \+ ... \+ 7 = 8.0"):
        array_library("gpu")


def test_auto_falls_back_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.warns(UserWarning, match="device 'auto': the CPU is used, because CuPy cannot be imported"):
        net = Network([Dense(2)], (3,), device="auto")
    assert net.device == "cpu" and net.xp is np


def test_auto_takes_a_device_that_computes(cupy):
    assert array_library("auto") == ("gpu", cupy)
    assert array_library("gpu") == ("gpu", cupy)
    assert array_library("cpu") == ("cpu", np)


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="device is 'tpu'; it must be 'cpu', 'gpu' or 'auto'"):
        array_library("tpu")


def test_memory_errors_of_the_device_name_the_batch_size(cupy):
    said = r"a batch of 32 images: Out of memory .* smaller batch size"
    with pytest.raises(DeviceMemoryError, match=said) as error, memory_errors(32):
        cupy_double.out_of_memory()
    assert isinstance(error.value, MemoryError)


def test_other_errors_stay_what_they_are(cupy, monkeypatch):
    for kind in (MemoryError, ValueError):
        with pytest.raises(kind) as error, memory_errors(32):
            raise kind("of the host")
        assert error.type is kind
    monkeypatch.delitem(sys.modules, "cupy")
    with pytest.raises(MemoryError, match="of the host") as error, memory_errors(32):
        raise MemoryError("of the host")


def test_tf32_is_off_until_it_is_allowed():
    assert not devices.tf32_allowed()
    devices.refuse_tf32("anything")
    devices.allow_tf32()
    assert devices.tf32_allowed()
    devices.allow_tf32(False)
    assert not devices.tf32_allowed()
    with pytest.raises(TypeError, match="allowed is 1"):
        devices.allow_tf32(1)


@pytest.mark.parametrize("check", [lambda: testing.check_layer(ReLU(), (3,)), lambda: testing.check_algorithm(Backprop())])
def test_gradient_checks_refuse_tf32(check):
    devices.allow_tf32()
    with pytest.raises(RuntimeError, match="needs exact products, but TF32 is on"):
        check()


def test_the_command_line_allows_tf32_for_training_only(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("convnet.cli.train.run", lambda arguments: seen.append(devices.tf32_allowed()))
    monkeypatch.setattr("convnet.cli.gradcheck.run", lambda arguments: seen.append(devices.tf32_allowed()))
    assert main(["train", "--output", "nowhere", "--tf32"]) == 0
    assert main(["train", "--output", "nowhere"]) == 0
    assert seen == [True, False]
    assert main(["gradcheck", "--tf32"]) == 2
    assert "--tf32" in capsys.readouterr().err


def test_probing_survives_a_module_without_parts(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(__version__="1.0"))
    with pytest.raises(DeviceError, match=r"CuPy 1\.0"):
        array_library("gpu")
