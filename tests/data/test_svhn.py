import zlib

import numpy as np
import pytest
from official_files import mat_element, mat_file, mat_matrix, svhn_arrays
from scipy.io import loadmat, savemat

import convnet.data
from convnet.data.mat import variables
from convnet.data.svhn import load_svhn

COUNTS = {"train": 30, "test": 20, "extra": 40}


def write_svhn(folder, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for seed, (part, count) in enumerate(COUNTS.items()):
        X, y = arrays[part] = svhn_arrays(count, seed)
        savemat(folder / f"{part}_32x32.mat", {"X": X, "y": y}, do_compression=compress)
    return arrays


def images(X):
    return np.moveaxis(X, 3, 0)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("place", [".", "svhn", "SVHN"])
def test_train_and_test_files(tmp_path, place, compress):
    arrays = write_svhn(tmp_path / place, compress)
    data = convnet.data.load("svhn", tmp_path, cache=tmp_path / "cache")
    np.testing.assert_array_equal(data.train_images, images(arrays["train"][0]))
    np.testing.assert_array_equal(data.test_images, images(arrays["test"][0]))
    np.testing.assert_array_equal(data.train_labels, arrays["train"][1][:, 0] % 10)      # label 10 is the digit 0
    assert isinstance(data.train_images, np.memmap) and data.classes == tuple("0123456789")


def test_extra_images_come_after_the_training_images(tmp_path):
    arrays = write_svhn(tmp_path)
    data = convnet.data.load("svhn-extra", tmp_path, cache=tmp_path / "cache")
    together = [np.concatenate([arrays["train"][k], arrays["extra"][k]], axis=3 * (1 - k)) for k in (0, 1)]
    np.testing.assert_array_equal(data.train_images, images(together[0]))
    np.testing.assert_array_equal(data.train_labels, together[1][:, 0] % 10)
    np.testing.assert_array_equal(data.test_images, images(arrays["test"][0]))


def test_validation_split_takes_so_many_of_each_class_from_both_files(tmp_path):
    arrays = write_svhn(tmp_path)
    data = load_svhn(tmp_path, tmp_path / "cache", validation=True, per_class=(2, 1), seed=4)
    assert np.bincount(data.test_labels).tolist() == [3] * 10
    train = {image.tobytes() for image in images(arrays["train"][0])}
    assert sum(image.tobytes() in train for image in data.test_images) == 20
    everything = {image.tobytes() for part in ("train", "extra") for image in images(arrays[part][0])}
    chosen = [image.tobytes() for image in np.concatenate([data.train_images, data.test_images])]
    assert len(chosen) == 70 and set(chosen) == everything
    labels = {image.tobytes(): label % 10 for part in ("train", "extra")
              for image, (label,) in zip(images(arrays[part][0]), arrays[part][1], strict=True)}
    assert [labels[image.tobytes()] for image in data.train_images] == data.train_labels.tolist()


def test_files_are_unpacked_once_and_again_when_they_change(tmp_path, monkeypatch):
    write_svhn(tmp_path)
    first = convnet.data.load("svhn", tmp_path, cache=tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr("convnet.data.mat.Variable.blocks", None)
        patched.setattr("convnet.data.mat.Variable.read", lambda self: np.ones((self.shape[0], 1), np.uint8))
        again = convnet.data.load("svhn", tmp_path, cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.train_images, first.train_images)
    X, y = svhn_arrays(30, 77)
    savemat(tmp_path / "train_32x32.mat", {"X": X, "y": y})
    np.testing.assert_array_equal(convnet.data.load("svhn", tmp_path, cache=tmp_path / "cache").train_images, images(X))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compress", [True, False])
def test_arrays_of_every_type_by_the_letter_of_the_format(tmp_path, order, compress):
    generator = np.random.default_rng(0)
    types = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
    arrays = {f"a{kind}": generator.integers(0, 100, (3, 2, 5)).astype(order + code) for kind, code in types.items()}
    elements = [mat_matrix(name, array, order, kind=int(name[1:])) for name, array in arrays.items()]
    path = tmp_path / "file.mat"
    path.write_bytes(mat_file(*elements, order=order, compress=compress))
    found = variables(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].read(), array)
        blocks = np.concatenate(list(found[name].blocks(2)))
        np.testing.assert_array_equal(blocks, array.transpose(2, 1, 0))
    np.testing.assert_array_equal(loadmat(path)["a3"], arrays["a3"])           # the fixture is a sound file


def test_what_scipy_writes_is_read_and_what_is_not_numeric_is_left_out(tmp_path):
    path = tmp_path / "file.mat"
    content = {"small": np.array([[1, 2]], np.uint8), "one": 3.5, "text": "abc", "empty": np.zeros((0, 3)),
               "nested": {"x": 1}, "complex": np.array([[1j]]), "long_name_of_an_array": np.arange(12.0).reshape(3, 4)}
    for compress in (True, False):
        savemat(path, content, do_compression=compress)
        found = variables(path)
        assert list(found) == ["small", "one", "long_name_of_an_array"]
        for name, variable in found.items():
            np.testing.assert_array_equal(variable.read(), np.atleast_2d(content[name]))


def test_large_compressed_arrays_are_streamed(tmp_path):
    array = np.random.default_rng(1).integers(0, 4, (200, 50, 200)).astype(np.uint8)
    path = tmp_path / "file.mat"
    savemat(path, {"X": array}, do_compression=True)
    blocks = [block.copy() for block in variables(path)["X"].blocks(7)]
    assert [len(block) for block in blocks] == [7] * 28 + [4]
    np.testing.assert_array_equal(np.concatenate(blocks), array.transpose(2, 1, 0))


X, Y = svhn_arrays(5, 0)


def spoiled(**changes):
    arrays = {"X": X, "y": Y} | changes
    return mat_file(*(mat_matrix(name, array, kind=2 if array.dtype == np.uint8 else 9)
                      for name, array in arrays.items() if array is not None))


def compressed_with(change):
    element = change(mat_matrix("X", X))
    return mat_file(element, mat_matrix("y", Y), compress=True)


def repacked(change):
    """Return a file whose first element is a changed zlib stream."""
    packed = change(zlib.compress(mat_matrix("X", X)))
    return mat_file() + np.array([15, len(packed)], "<u4").tobytes() + packed + mat_matrix("y", Y)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is not a MATLAB 5 file"),
    (b"<!DOCTYPE html>" * 20, "is not a MATLAB 5 file"),
    (b"\x89HDF\r\n\x1a\n" + bytes(600), "is not a MATLAB 5 file"),
    (spoiled()[:-1], "is truncated: an element announces"),
    (spoiled()[:1000], "is truncated: an element announces"),
    (spoiled() + b"\x0e\0\0", "is truncated: an element begins 3 bytes before its end"),
    (spoiled(X=None), "has no array 'X' .it has: y"),
    (spoiled(y=None), "has no array 'y' .it has: X"),
    (mat_file(), "it has: none"),
    (spoiled(X=X[:28]), r"X is uint8 of shape \(28, 32, 3, 5\)"),
    (spoiled(X=X.astype(float)), "X is float64"),
    (spoiled(X=X[..., 0]), r"X is uint8 of shape \(32, 32, 3\)"),
    (spoiled(y=Y[:4]), "but X has 5 images"),
    (spoiled(y=np.zeros_like(Y)), "holds the label 0"),
    (spoiled(y=np.full_like(Y, 11)), "holds the label 11"),
    (spoiled(y=np.full(Y.shape, 1.5)), "holds the label 1.5"),
    (spoiled(y=np.full(Y.shape, np.nan)), "holds the label nan"),
    (compressed_with(lambda e: e[:-400]), "is truncated: an array ends"),
    (compressed_with(lambda e: e + bytes(30)), "does not end where it should"),
    (compressed_with(lambda e: mat_element(7, e)), "an element of type 7 where an array should be"),
    (compressed_with(lambda e: e[:40] + b"\xff\xff\xff\x7f" + e[44:]), "has .* bytes of type 2"),
    (repacked(lambda p: p[:-4] + bytes(4)), "is corrupted"),
    (repacked(lambda p: p[:-4]), "does not end where it should"),
    (repacked(lambda p: p[:200]), "is truncated: an array ends"),
    (repacked(lambda p: b"<html>"), "is corrupted"),
])
def test_damaged_files_are_refused_by_name(tmp_path, content, message):
    write_svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        convnet.data.load("svhn", tmp_path, cache=tmp_path / "cache")
    assert str(path) in str(caught.value)
    left = list((tmp_path / "cache").iterdir()) if (tmp_path / "cache").exists() else []
    assert not any(file.suffix == ".part" for file in left)


def test_absent_files_are_named(tmp_path):
    write_svhn(tmp_path)
    (tmp_path / "extra_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"extra_32x32.mat is missing; fetch it with .*fetch svhn-extra"):
        convnet.data.load("svhn-extra", tmp_path, cache=tmp_path / "cache")
    assert len(convnet.data.load("svhn", tmp_path, cache=tmp_path / "cache").train_images) == 30


def test_announced_sizes_take_no_memory(tmp_path):
    # an array of 2^31 - 1 by 2^31 - 1 bytes in a stream of a few hundred
    huge = np.frombuffer(np.array([2**31 - 1, 2**31 - 1], "<i4").tobytes(), "u1")
    head = (mat_element(6, bytes([9, 0, 0, 0, 0, 0, 0, 0])) + mat_element(5, huge.tobytes()) + mat_element(1, b"X")
            + np.array([2, 2**32 - 1], "<u4").tobytes())
    path = tmp_path / "file.mat"
    for compress in (True, False):
        path.write_bytes(mat_file(mat_element(14, head + bytes(64)), compress=compress))
        with pytest.raises(ValueError, match="is damaged: the array 'X' of shape"):
            variables(path)
    consistent = head[:-8] + np.array([2, 2**31], "<u4").tobytes()
    consistent = consistent.replace(huge.tobytes(), np.array([2**16, 2**15], "<i4").tobytes())
    path.write_bytes(mat_file(mat_element(14, consistent + bytes(64)), compress=True))
    with pytest.raises(ValueError, match=r"of shape \(65536, 32768\) cannot be in"):
        variables(path)
