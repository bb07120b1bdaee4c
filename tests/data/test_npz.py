import zipfile

import numpy as np
import pytest

import convnet.data

GENERATOR = np.random.default_rng(0)
ARRAYS = {"train_images": GENERATOR.integers(0, 256, (12, 5, 4, 3)).astype(np.uint8), "train_labels": np.arange(12) % 3,
          "test_images": GENERATOR.integers(0, 256, (6, 5, 4, 3)).astype(np.uint8), "test_labels": np.arange(6) % 3}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_path(tmp_path, save):
    save(tmp_path / "mine.npz", **ARRAYS, classes=np.array(["cat", "dog", "owl"]))
    data = convnet.data.load(tmp_path / "mine.npz")
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(getattr(data, key), array)
    assert data.name == "mine" and data.classes == ("cat", "dog", "owl")


def test_keras_names_grey_images_and_column_labels(tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=ARRAYS["train_images"][..., 0], y_train=ARRAYS["train_labels"],
             x_test=ARRAYS["test_images"][..., 0].astype("f8"), y_test=ARRAYS["test_labels"][:, None])
    data = convnet.data.load(str(tmp_path / "mnist.npz"))
    assert data.input_shape == (5, 4, 1) and data.classes == ("0", "1", "2")
    np.testing.assert_array_equal(data.test_images[..., 0], ARRAYS["test_images"][..., 0])


def test_absent_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        convnet.data.load(tmp_path / "none.npz")


@pytest.mark.parametrize(("changes", "message"), [
    ({"test_labels": None}, "it has no array 'test_labels'"),
    ({"train_images": np.array([None] * 12)}, "holds Python objects"),
    ({"test_labels": np.full(6, 3)}, "label 3 of image 0"),
    ({"train_labels": np.zeros(12)}, "train_labels are float64"),
    ({"train_labels": np.zeros(0, int)}, r"train_labels are int64 of shape \(0,\)"),
    ({"test_images": np.full((6, 5, 4, 3), np.nan)}, "holds NaN"),
])
def test_unsuitable_arrays_are_refused(tmp_path, changes, message):
    np.savez(tmp_path / "bad.npz", **{key: value for key, value in (ARRAYS | changes).items() if value is not None})
    with pytest.raises(ValueError, match=message):
        convnet.data.load(tmp_path / "bad.npz")


def damage_member(path, change):
    """Rewrite the first member of an archive with changed content."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    name = next(iter(contents))
    contents[name] = change(contents[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in contents.items():
            archive.writestr(key, content)


@pytest.mark.parametrize("change", [
    lambda b: b[:-1], lambda b: b[:40], lambda b: b"", lambda b: b"<html>" + b,
    lambda b: b.replace(b"(12, 5, 4, 3)", b"(1234567, 5,)"),
    lambda b: b.replace(b"(12, 5, 4, 3)", b"(-12, -5, 4,)"),
    lambda b: b.replace(b"(12, 5, 4, 3)", b"(12, 5, 4, 3("),
    lambda b: b.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"),
])
def test_damaged_members_are_refused(tmp_path, change):
    np.savez(tmp_path / "bad.npz", **ARRAYS)
    damage_member(tmp_path / "bad.npz", change)
    with pytest.raises(ValueError, match=r"bad.npz cannot be read as a data set"):
        convnet.data.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("change", [lambda b: b[:-30], lambda b: b[:200], lambda b: b"", lambda b: b"<html></html>",
                                    lambda b: b[:200] + bytes(50) + b[250:]])
def test_damaged_archives_are_refused(tmp_path, change):
    np.savez_compressed(tmp_path / "bad.npz", **ARRAYS)
    content = (tmp_path / "bad.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(change(content))
    with pytest.raises(ValueError, match=r"bad.npz cannot be read as a data set"):
        convnet.data.load(tmp_path / "bad.npz")


def test_unknown_paths_are_told_from_unknown_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is neither a \.npz file nor a folder"):
        convnet.data.load(tmp_path / "nothing")
