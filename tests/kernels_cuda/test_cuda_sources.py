"""The sources compile for a device, by nvcc and by NVRTC, wherever these are installed; no device is needed."""
import shutil
import subprocess

import numpy as np
import pytest

from convnet.kernels.cuda import source
from tests.kernels_cuda.shim import signatures

DTYPES = ["float32", "float64"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvcc(dtype, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    path = tmp_path / "kernels.cu"
    path.write_text(source.text())
    result = subprocess.run(
        ["nvcc", "-cubin", "-arch=sm_90", "-Werror=all-warnings", *source.options(dtype), str(path), "-o",
         str(path.with_suffix(".cubin"))], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    cubin = path.with_suffix(".cubin").read_bytes()
    for name in signatures(source.text()):
        assert name.encode() in cubin


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvrtc(dtype):
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"CuPy or NVRTC is not installed: {error}")
    program = nvrtc.createProgram(source.text(), "kernels.cu", (), ())
    try:
        # What CuPy adds to a module's own options.
        nvrtc.compileProgram(program, (*source.options(dtype), "--gpu-architecture=sm_90",
                                       "--device-as-default-execution-space"))
    finally:
        print(nvrtc.getProgramLog(program))
    assert len(nvrtc.getCUBIN(program)) > 10_000


def test_every_source_takes_part():
    from importlib.resources import files

    found = {path.name.removesuffix(".cu") for path in files("convnet.kernels.cuda").iterdir() if path.name.endswith(".cu")}
    assert found == set(source.NAMES)


def test_structures_have_the_layout_of_the_source():
    from convnet.kernels.cuda.launch import WINDOWS

    body = source.part("common").split("struct Windows {")[1].split("};")[0]
    lines = [line.split("//")[0].strip() for line in body.splitlines()]
    fields = [name.strip() for line in lines if line for name in line.removeprefix("int").rstrip(";").split(",")]
    assert fields == list(WINDOWS.names) and WINDOWS.itemsize == 4 * len(fields)
    assert set(WINDOWS.fields[name][0] for name in fields) == {np.dtype(np.int32)}
