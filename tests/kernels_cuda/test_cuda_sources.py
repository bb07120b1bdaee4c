"""The sources compile for a device, by nvcc and by NVRTC, wherever these are installed; no device is needed."""
import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convnet.kernels.cuda import epochs, gradient, launch, products, source
from convnet.kernels.cuda import kernels as cuda_kernels
from tests.kernels_cuda.shim import signatures

DTYPES = ["float32", "float64"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvcc(dtype, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    path = tmp_path / "kernels.cu"
    path.write_text(source.text())
    # Optimised as little as there can be: that takes a quarter of the time.
    result = subprocess.run(
        ["nvcc", "-cubin", "-arch=sm_90", "-Xcicc", "-O1", "-Xptxas", "-O1", "-Werror=all-warnings", *source.options(dtype),
         str(path), "-o", str(path.with_suffix(".cubin"))], capture_output=True, text=True)
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


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("name, part, layout", [
    ("Windows", "common", lambda real: launch.WINDOWS), ("Divisor", "common", lambda real: launch.DIVISOR),
    ("Product", "product", lambda real: products.PRODUCT), ("Rows", "data", lambda real: epochs.ROWS),
    ("Pairs", "elementwise", cuda_kernels.pairs_type), ("Parts", "gradient", gradient.parts_type),
])
def test_structures_have_the_layout_of_the_source(name, part, layout, real):
    dtype = layout(np.dtype(real))
    types = {"int": np.int32, "u32": np.uint32, "bool": np.bool_, "real": real, "Divisor": launch.DIVISOR}
    lengths = {line.split()[1]: int(line.split()[2]) for line in source.part(part).splitlines()
               if re.match(r"#define [A-Z]+ \d+", line)}
    body = source.part(part).split(f"struct {name} {{")[1].split("}")[0]
    expected = []
    for statement in re.sub(r"//.*", "", body).split(";")[:-1]:
        kind, names = statement.split(maxsplit=1)
        for field in names.split(","):
            field, _, length = field.strip().rstrip("]").partition("[")
            expected.append((field, np.dtype((types[kind], lengths[length]) if length else types[kind])))
    # As a compiler lays them out; what is added at the end is unnamed.
    compiled = np.dtype(expected, align=True)
    named = [field for field in dtype.names if field in compiled.names]
    assert named == list(compiled.names)
    assert [dtype.fields[field][:2] for field in named] == [compiled.fields[field][:2] for field in named]
    assert dtype.itemsize == compiled.itemsize


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_division_is_a_multiplication(number, i):
    factor, shift = launch.divisor(number)
    assert 0 <= factor < 2**32
    near = i // number * number
    for each in (i, near, max(near - 1, 0), min(near + number, 2**31 - 1), 2**31 - 1):
        assert (each if shift < 0 else each * factor >> (32 + shift)) == each // number
