"""The sources compile for a device, by nvcc and by NVRTC, wherever these are installed; no device is needed."""
import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convnet.kernels.cuda import launch, products, source
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


@pytest.mark.parametrize("name, part, dtype", [
    ("Windows", "common", launch.WINDOWS), ("Divisor", "common", launch.DIVISOR), ("Product", "product", products.PRODUCT),
])
def test_structures_have_the_layout_of_the_source(name, part, dtype):
    types = {"int": np.dtype(np.int32), "u32": np.dtype(np.uint32), "bool": np.dtype(np.bool_), "Divisor": launch.DIVISOR}
    body = source.part(part).split(f"struct {name} {{")[1].split("}")[0]
    statements = re.sub(r"//.*", "", body).split(";")[:-1]
    fields = [(field.strip(), types[kind]) for kind, names in (s.split(maxsplit=1) for s in statements)
              for field in names.split(",")]
    padding = [field for field in dtype.names if dtype.fields[field][0].kind == "V" and not dtype.fields[field][0].names]
    assert fields == [(field, dtype.fields[field][0]) for field in dtype.names if field not in padding]
    assert dtype.itemsize % 4 == 0 and np.dtype(dtype.descr, align=True).itemsize == dtype.itemsize


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_division_is_a_multiplication(number, i):
    factor, shift = launch.divisor(number)
    assert 0 <= factor < 2**32
    near = i // number * number
    for each in (i, near, max(near - 1, 0), min(near + number, 2**31 - 1), 2**31 - 1):
        assert (each if shift < 0 else each * factor >> (32 + shift)) == each // number
