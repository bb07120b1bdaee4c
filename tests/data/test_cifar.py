import os
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from official_files import (
    as_images,
    python2_pickle,
    python3_pickle,
    real_data,
    write_cifar10_binary,
    write_cifar10_python,
    write_cifar100,
)

import convnet.data
from convnet.data.cifar import load_cifar
from convnet.data.pickles import read_pickle

SMALL = (10, 4)
WRITERS = {"binary": write_cifar10_binary, "python 2 pickles": write_cifar10_python,
           **{f"pickle protocol {n}": partial(write_cifar10_python, dump=python3_pickle(n)) for n in (0, 2, 4, 5)}}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_cifar10_in_every_form(tmp_path, write):
    train, train_labels, test, test_labels = write(tmp_path)
    data = load_cifar("cifar10", tmp_path, SMALL)
    np.testing.assert_array_equal(data.train_images, as_images(train))
    np.testing.assert_array_equal(data.test_images, as_images(test))
    np.testing.assert_array_equal(data.train_labels, train_labels)
    np.testing.assert_array_equal(data.test_labels, test_labels)
    assert data.classes == tuple(f"class{k}" for k in range(10)) and data.name == "cifar10"


@pytest.mark.parametrize("binary", [True, False])
def test_cifar100_fine_and_coarse(tmp_path, binary):
    parts = write_cifar100(tmp_path, binary)
    for name, column in (("cifar100", 2), ("cifar100-coarse", 1)):
        data = load_cifar(name, tmp_path, (12, 6))
        np.testing.assert_array_equal(data.train_images, as_images(parts["train"][0]))
        np.testing.assert_array_equal(data.train_labels, parts["train"][column])
        np.testing.assert_array_equal(data.test_labels, parts["test"][column])
        assert data.classes[7] == ("fine7" if column == 2 else "coarse7")


def test_the_archive_folder_itself_may_be_named(tmp_path):
    write_cifar10_binary(tmp_path)
    assert len(load_cifar("cifar10", tmp_path / "cifar-10-batches-bin", SMALL).train_images) == 10


@pytest.mark.slow
def test_official_counts_are_expected_by_name(tmp_path):
    write_cifar10_binary(tmp_path / "cifar10", records=(50000, 10000))
    data = convnet.data.load("cifar10", tmp_path)
    assert data.train_images.shape == (50000, 32, 32, 3) and data.test_images.shape == (10000, 32, 32, 3)


def test_a_file_cut_off_between_records_is_noticed(tmp_path):
    write_cifar10_binary(tmp_path)
    with pytest.raises(ValueError, match=r"data_batch_1.bin is truncated: it has 6146 bytes, cifar10 has 30730000"):
        convnet.data.load("cifar10", tmp_path)


BASE = "cifar-10-batches-bin"


@pytest.mark.parametrize(("file", "change", "error", "message"), [
    ("data_batch_2.bin", lambda b: b[:-1], ValueError, "data_batch_2.bin is truncated"),
    ("data_batch_2.bin", lambda b: b + b"x", ValueError, "data_batch_2.bin is too long"),
    ("test_batch.bin", lambda b: b"<html>", ValueError, "test_batch.bin is truncated"),
    ("data_batch_5.bin", lambda b: b"\x0b" + b[1:], ValueError, "data_batch_5.bin holds the label 11, but cifar10"),
    ("data_batch_4.bin", lambda b: None, FileNotFoundError, "data_batch_4.bin is missing"),
    ("batches.meta.txt", lambda b: None, FileNotFoundError, "batches.meta.txt is missing"),
    ("batches.meta.txt", lambda b: b"one\ntwo\n", ValueError, "batches.meta.txt has 2 names of classes"),
])
def test_binary_faults_are_named(tmp_path, file, change, error, message):
    write_cifar10_binary(tmp_path)
    path = tmp_path / BASE / file
    changed = change(path.read_bytes())
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    with pytest.raises(error, match=message):
        load_cifar("cifar10", tmp_path, SMALL)


def batch(**changes):
    entries = {"labels": [0, 1], "data": np.zeros((2, 3072), np.uint8)} | changes
    return python2_pickle({key: value for key, value in entries.items() if value is not None})


@pytest.mark.parametrize(("content", "message"), [
    (batch(data=None), "has no 'data'"),
    (batch(labels=None), "has no 'labels'"),
    (batch(labels="two"), "has no 'labels'"),
    (batch(labels=[0]), "is not a list of 2 class ids"),
    (batch(labels=[0, "one"]), "is not a list of 2 class ids"),
    (batch(labels=[0, 10]), "holds the label 10"),
    (batch(labels=[0, -1]), "holds the label -1"),
    (batch(data=np.zeros((3, 3072), np.uint8)), r"'data' is uint8 of shape \(3, 3072\)"),
    (batch(data=np.zeros((2, 3072), np.float32)), "'data' is float32"),
    (batch(data=[1, 2]), "'data' is a list"),
    (batch()[:-20], "is not a pickle of plain containers and arrays, or is damaged"),
    (b"", "is not a pickle"),
    (b"<html>404</html>", "is not a pickle"),
    (pickle.dumps([1, 2]), "it holds a list, not a dictionary"),
])
def test_python_faults_are_named(tmp_path, content, message):
    write_cifar10_python(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_cifar("cifar10", tmp_path, SMALL)
    assert str(path) in str(caught.value)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("content", [
    pickle.dumps({"data": Evil()}),
    pickle.dumps({"data": print}),
    b"\x80\x02}(U\x04datacbuiltins\neval\nU\x031+1\x85Ru.",
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\nscalar\nu.",
])
def test_pickles_run_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="it refers to"):
        read_pickle(tmp_path / "file")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [
    b"\x80\x02}r\xff\xff\xff\xff.",                                     # a memo of 4 294 967 295 entries
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",                  # a frame of 8 EiB
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f}.",                  # a string of 8 EiB
    python2_pickle({"data": np.zeros((4, 5), np.uint8)}).replace(b"J\x04\0\0\0", b"J\xff\xff\xff\x7f"),
    python2_pickle({"data": np.zeros(8, np.uint8)}).replace(b"U\x02u1", b"U\x02O8"),
])
def test_announced_sizes_take_no_memory(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="or is damaged"):
        read_pickle(tmp_path / "file")


def test_pickled_arrays_keep_type_order_and_layout(tmp_path):
    arrays = {"a": np.arange(6, dtype=">i2").reshape(2, 3), "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
              "c": np.array([True, False])}
    for protocol in range(6):
        (tmp_path / "file").write_bytes(pickle.dumps(arrays, protocol=protocol))
        ours = read_pickle(tmp_path / "file")
        for key, array in arrays.items():
            np.testing.assert_array_equal(ours[key], array)
            assert ours[key].dtype == array.dtype


@pytest.mark.slow
def test_the_real_cifar10_from_its_jpeg_copy(tmp_path):
    pytest.importorskip("PIL")
    script = real_data() / "unpack_cifar10.py"
    if not script.is_file():
        pytest.skip("the JPEG copy of CIFAR-10 is not here")
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    data = convnet.data.load("cifar10", tmp_path)
    assert np.bincount(data.train_labels).tolist() == [5000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    assert data.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    # the channel means that every tutorial quotes (the copy's pixels differ slightly)
    means = data.train_images.reshape(-1, 3).mean(axis=0, dtype=np.float64) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-3)
