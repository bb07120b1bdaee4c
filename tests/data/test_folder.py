import sys

import numpy as np
import pytest

import convnet.data
from convnet.data.folder import load_folder

Image = pytest.importorskip("PIL.Image")
COLOURS = {"red": (250, 10, 20), "sea": (10, 60, 200)}


def write_images(root, count=5, size=(6, 8), suffix="png"):
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((*size, 3), colour, np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).save(root / name / f"{number}.{suffix}")


def test_train_and_test_folders(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", count=2)
    data = convnet.data.load(tmp_path)
    assert data.classes == ("red", "sea") and data.name == tmp_path.name
    assert data.train_images.shape == (10, 6, 8, 3) and data.test_images.shape == (4, 6, 8, 3)
    np.testing.assert_array_equal(data.train_labels, np.repeat([0, 1], 5))
    np.testing.assert_array_equal(data.train_images[:, 3, 3], [COLOURS["red"]] * 5 + [COLOURS["sea"]] * 5)
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2


def test_one_folder_is_split_by_class_and_seed(tmp_path):
    write_images(tmp_path, count=10)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "red" / ".hidden.png").write_text("not an image either")
    data = load_folder(tmp_path, test_fraction=0.3, seed=1)
    assert np.bincount(data.train_labels).tolist() == [7, 7] and np.bincount(data.test_labels).tolist() == [3, 3]
    np.testing.assert_array_equal(data.train_images, load_folder(tmp_path, test_fraction=0.3, seed=1).train_images)
    seen = np.concatenate([data.train_images[data.train_labels == 0], data.test_images[data.test_labels == 0]])
    assert sorted(seen[:, 0, 0, 0]) == list(range(10))


def test_grey_images_and_jpeg(tmp_path):
    write_images(tmp_path, suffix="JPG")
    data = load_folder(tmp_path, channels=1)
    assert data.input_shape == (6, 8, 1)
    red, green, blue = COLOURS["sea"]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert abs(data.train_images[data.train_labels == 1][:, 3, 5, 0] - luma).max() < 6


def test_size_scales_to_cover_and_takes_the_centre(tmp_path):
    for name in COLOURS:
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = np.zeros((20, 60 + number, 3), np.uint8)
            pixels[:, 15:45 + number] = COLOURS[name]
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = load_folder(tmp_path, size=10)
    assert data.input_shape == (10, 10, 3)
    np.testing.assert_array_equal(data.train_images[0, 4, 4], COLOURS["red"])      # no stripe of the sides
    assert data.train_images.min() >= 10
    with pytest.raises(ValueError, match=r"is 20x6., others are 20x6.; give a size \(image_size\)"):
        load_folder(tmp_path)


def test_decoded_images_are_kept_in_a_cache(tmp_path):
    write_images(tmp_path / "images")
    plain = load_folder(tmp_path / "images")
    cached = load_folder(tmp_path / "images", cache=tmp_path / "cache")
    assert isinstance(cached.train_images, np.memmap)
    np.testing.assert_array_equal(cached.train_images, plain.train_images)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is not an image that Pillow can read"),
    (b"<html></html>", "is not an image that Pillow can read"),
    ("truncated", "is truncated or damaged"),
])
def test_damaged_images_are_named(tmp_path, content, message):
    write_images(tmp_path, size=(60, 80), suffix="jpg")
    path = tmp_path / "sea" / "3.jpg"
    path.write_bytes(path.read_bytes()[:-40] if content == "truncated" else content)
    with pytest.raises(ValueError, match=message) as caught:
        load_folder(tmp_path)
    assert str(path) in str(caught.value)


def test_announced_sizes_take_no_memory(tmp_path):
    write_images(tmp_path)
    path = tmp_path / "red" / "0.ppm"
    path.write_bytes(b"P6 9000 9000 255\n" + bytes(100))
    with pytest.raises(ValueError, match="announces 9000x9000 pixels"):
        load_folder(tmp_path, size=4)


def test_folders_without_images_or_with_other_classes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no images in a folder per class"):
        load_folder(tmp_path)
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    (tmp_path / "test" / "sea").rename(tmp_path / "test" / "sky")
    with pytest.raises(ValueError, match="do not hold the same classes: sea, sky"):
        load_folder(tmp_path)
    (tmp_path / "train" / "void").mkdir()
    with pytest.raises(ValueError, match="void has no images"):
        load_folder(tmp_path)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    write_images(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'convnet-ibp\[images\]'"):
        load_folder(tmp_path)


@pytest.mark.parametrize(("options", "message"), [
    ({"channels": 4}, "channels is 4"), ({"test_fraction": 0}, "test_fraction is 0"), ({"size": 0}, "size is 0"),
    ({"test_fraction": 0.99}, "has too few images"),
])
def test_bad_options_are_refused(tmp_path, options, message):
    write_images(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path, **options)
