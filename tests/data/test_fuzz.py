"""Any bytes give a data set or a clean error: never another exception, a crash, a hang or memory without bounds."""
import gzip
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import mat_file, mat_matrix, python2_pickle, python3_pickle, svhn_arrays

from convnet.data.idx import read_idx
from convnet.data.mat import variables
from convnet.data.npz import load_npz
from convnet.data.pickles import read_pickle

MOST_MEMORY = 32 << 20
EXAMPLES = settings(max_examples=150, deadline=2000, derandomize=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npz(save):
    buffer = io.BytesIO()
    save(buffer, train_images=np.zeros((4, 3, 3), "u1"), train_labels=np.arange(4) % 2,
         test_images=np.zeros((2, 3, 3), "u1"), test_labels=np.arange(2))
    return buffer.getvalue()


def read_mat(path):
    return {name: variable.read() for name, variable in variables(path).items()}


X, Y = svhn_arrays(2, 0)
ENTRIES = {"data": np.arange(60, dtype="u1").reshape(4, 15), "labels": [1, 2, 3, 4], "name": "batch", "more": ["a", "b"]}
READERS = {
    "idx": (lambda path: read_idx(path, 3), [idx(np.arange(60, dtype="u1").reshape(5, 4, 3))]),
    "idx.gz": (lambda path: read_idx(path, 1), [gzip.compress(idx(np.arange(60, dtype="u1")), mtime=0)]),
    "mat": (read_mat, [mat_file(mat_matrix("X", X[:3, :3]), mat_matrix("y", Y)),
                       mat_file(mat_matrix("X", X[:3, :3], ">"), mat_matrix("y", Y, ">"), order=">")]),
    "compressed mat": (read_mat, [mat_file(mat_matrix("X", X[:3, :3]), mat_matrix("y", Y), compress=True)]),
    "pickle": (read_pickle, [python2_pickle(ENTRIES), *(python3_pickle(n)(ENTRIES) for n in (0, 2, 4, 5))]),
    "npz": (load_npz, [npz(np.savez), npz(np.savez_compressed)]),
}


@st.composite
def damaged(draw, contents):
    """Return a sound file with some bytes replaced, taken out, put in, or cut off."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        # Headers are where it hurts: half of the damage is done in the first bytes.
        reach = draw(st.sampled_from([min(260, len(content)), len(content)]))
        place = draw(st.integers(0, reach))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7])))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
        if kind == "replace":
            content[place:place + len(piece)] = piece
        elif kind == "insert":
            content[place:place] = piece
        elif kind == "delete":
            del content[place:place + len(piece)]
        else:
            del content[place:]
    return bytes(content)


def attempt(read, path, content):
    """Read the content; only ValueError may be raised, and only little memory be taken."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < 600 and str(error).isprintable()
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < MOST_MEMORY


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(tmp_path, name):
    read, contents = READERS[name]
    for content in contents:
        (tmp_path / "file").write_bytes(content)
        assert read(tmp_path / "file") is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(tmp_path, name):
    read, contents = READERS[name]

    @EXAMPLES
    @given(damaged(contents))
    def check(content):
        attempt(read, tmp_path / "file", content)
    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_any_bytes(tmp_path, name):
    read, contents = READERS[name]
    beginning = contents[0][:8]

    @EXAMPLES
    @given(st.binary(max_size=300), st.booleans())
    def check(content, plausible):
        attempt(read, tmp_path / "file", beginning + content if plausible else content)
    check()


@pytest.mark.slow
def test_damage_inside_compressed_arrays(tmp_path):
    element = mat_matrix("X", X[:3, :3])

    @EXAMPLES
    @given(damaged([element]))
    def check(content):
        packed = zlib.compress(content)
        attempt(read_mat, tmp_path / "file", mat_file() + struct.pack("<II", 15, len(packed)) + packed)
    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["idx.gz", "compressed mat"])
def test_bombs(tmp_path, name):
    # 64 MB of zeros in 64 kB
    zeros = bytes(1 << 26)
    if name == "idx.gz":
        content = gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 100) + zeros, 9)
        attempt(lambda path: read_idx(path, 1), tmp_path / "file", content)
    else:
        packed = zlib.compress(mat_matrix("X", X[:3, :3]) + zeros, 9)
        attempt(read_mat, tmp_path / "file", mat_file() + struct.pack("<II", 15, len(packed)) + packed)
