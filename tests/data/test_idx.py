import gzip

import numpy as np
import pytest
from official_files import real_data

import convnet.data
from convnet.data.idx import read_idx

NAMES = {"train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
         "test_images": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte"}


def encode(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def make_files(folder, compress=(), names=NAMES, classes=10):
    generator = np.random.default_rng(3)
    arrays = {"train_images": generator.integers(0, 256, (30, 7, 6), "u1"),
              "train_labels": np.arange(30, dtype="u1") % classes,
              "test_images": generator.integers(0, 256, (20, 7, 6), "u1"),
              "test_labels": np.arange(20, dtype="u1") % classes}
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        if key in compress:
            (folder / (names[key] + ".gz")).write_bytes(gzip.compress(encode(array), 1, mtime=0))
        else:
            (folder / names[key]).write_bytes(encode(array))
    return arrays


@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compress", [(), tuple(NAMES), ("train_images", "test_labels")])
def test_mnist_is_found_and_read(tmp_path, place, compress):
    arrays = make_files(tmp_path / place, compress)
    data = convnet.data.load("mnist", tmp_path)
    for key, array in arrays.items():
        expected = array[..., None] if "images" in key else array
        np.testing.assert_array_equal(getattr(data, key), expected)
    assert data.name == "mnist" and data.classes == tuple("0123456789")


def test_environment_variable_names_the_root(tmp_path, monkeypatch):
    arrays = make_files(tmp_path / "mnist")
    monkeypatch.setenv("CONVNET_DATA", str(tmp_path))
    np.testing.assert_array_equal(convnet.data.load("mnist").train_labels, arrays["train_labels"])


def test_names_with_a_dot_are_read(tmp_path):
    make_files(tmp_path, names={key: name.replace("-idx", ".idx") for key, name in NAMES.items()})
    assert len(convnet.data.load("mnist", tmp_path).train_images) == 30


def test_uncompressed_images_are_memory_mapped(tmp_path):
    make_files(tmp_path)
    images = convnet.data.load("mnist", tmp_path).train_images
    assert isinstance(images, np.memmap) and not images.flags.writeable


def test_absent_set_names_the_folders_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="convnet datasets fetch mnist") as caught:
        convnet.data.load("mnist", tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)


def test_missing_member_is_named(tmp_path):
    make_files(tmp_path)
    (tmp_path / NAMES["test_labels"]).unlink()
    with pytest.raises(FileNotFoundError, match="no t10k-labels-idx1-ubyte"):
        convnet.data.load("mnist", tmp_path)


def damaged(tmp_path, change, compress=False, key="train_images"):
    make_files(tmp_path, compress=NAMES if compress else ())
    path = tmp_path / (NAMES[key] + (".gz" if compress else ""))
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(("change", "message"), [
    (lambda b: b[:-1], "is truncated"),
    (lambda b: b + b"\0", "is too long"),
    (lambda b: b[:9], "is not an IDX file"),
    (lambda b: b"", "is not an IDX file"),
    (lambda b: b"<!DOCTYPE html><html>" + b, "is not an IDX file"),
    (lambda b: b[:2] + b"\x0d" + b[3:], "type 0x0d"),
    (lambda b: b[:3] + b"\x01" + b[4:], "with 1 axes; is it another file under this name"),
    (lambda b: b[:4] + b"\xff\xff\xff\xff" + b[8:], "is truncated"),
])
def test_damaged_file_is_refused_by_name(tmp_path, change, message):
    path = damaged(tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        convnet.data.load("mnist", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda b: b[:-4], "is truncated or corrupted"),
    (lambda b: b[:len(b) // 2], "is truncated or corrupted"),
    (lambda b: b[:-8] + bytes(8), "is truncated or corrupted"),      # checksum and length of the gzip trailer
    (lambda b: b[:15] + bytes([b[15] ^ 255]) + b[16:], "corrupted|not an IDX|announces"),
    (lambda b: gzip.compress(gzip.decompress(b)[:-1], 1), "is truncated"),
    (lambda b: gzip.compress(gzip.decompress(b) + b"x", 1), "is too long"),
    (lambda b: gzip.compress(encode(np.zeros(30, "u1")), 1), "is it another file under this name"),
    (lambda b: gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(500), 1), "more than its .* bytes can hold"),
])
def test_damaged_compressed_file_is_refused_by_name(tmp_path, change, message):
    path = damaged(tmp_path, change, compress=True)
    with pytest.raises(ValueError, match=message) as caught:
        convnet.data.load("mnist", tmp_path)
    assert str(path) in str(caught.value)


def test_images_and_labels_of_different_number_name_both_files(tmp_path):
    make_files(tmp_path)
    (tmp_path / NAMES["train_labels"]).write_bytes(encode(np.zeros(29, "u1")))
    with pytest.raises(ValueError, match=r"30 images but .* 29 labels") as caught:
        convnet.data.load("mnist", tmp_path)
    assert NAMES["train_images"] in str(caught.value) and NAMES["train_labels"] in str(caught.value)


def test_label_out_of_range_names_the_file(tmp_path):
    make_files(tmp_path, classes=11)
    with pytest.raises(ValueError, match="holds the label 10, but mnist has 10 classes") as caught:
        convnet.data.load("mnist", tmp_path)
    assert NAMES["train_labels"] in str(caught.value)


def test_absent_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none", 3)


@pytest.mark.parametrize("place", ["fashion-mnist", "FashionMNIST/raw"])
def test_clothes_are_told_from_digits_by_their_folder(tmp_path, place):
    arrays = make_files(tmp_path / place)
    data = convnet.data.load("fashion-mnist", tmp_path)
    np.testing.assert_array_equal(data.train_labels, arrays["train_labels"])
    assert data.classes[0] == "T-shirt/top" and data.classes[9] == "ankle boot"
    assert convnet.data.load("fashion-mnist", tmp_path / place).name == "fashion-mnist"
    for root in (tmp_path, tmp_path / place):
        with pytest.raises(FileNotFoundError):
            convnet.data.load("mnist", root)
    make_files(tmp_path / "plain")
    with pytest.raises(FileNotFoundError):
        convnet.data.load("fashion-mnist", tmp_path / "plain")


def test_the_real_mnist():
    try:
        data = convnet.data.load("mnist", real_data())
    except FileNotFoundError:
        pytest.skip("the real MNIST is not here")
    assert data.train_images.shape == (60000, 28, 28, 1) and data.test_images.shape == (10000, 28, 28, 1)
    assert np.bincount(data.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # the mean intensity that every tutorial quotes
    assert data.train_images.mean(dtype=np.float64) / 255 == pytest.approx(0.13066, abs=1e-5)
    small = data.subset(per_class=50, seed=2).prepared()
    assert small.train_images.shape == (500, 28, 28, 1)
    assert np.abs(small.train_images.mean(axis=0, dtype=np.float64)).max() < 1e-6
