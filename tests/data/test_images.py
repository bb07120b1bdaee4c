"""Views of large image arrays behave as the arrays they stand for."""
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convnet.data import Dataset, images
from convnet.data.cache import cached_array
from convnet.data.images import ImageView, blocks
from convnet.data.tangents import training_tangents

GENERATOR = np.random.default_rng(0)
SOURCE = GENERATOR.integers(0, 256, (20, 4, 5, 2)).astype(np.uint8)
MEAN = GENERATOR.random((4, 5, 2))
ROWS = np.array([3, 19, 0, 7, 7, 12])

VIEWS = {
    "plain": (ImageView(SOURCE), SOURCE),
    "rows": (ImageView(SOURCE, ROWS), SOURCE[ROWS]),
    "scaled": (ImageView(SOURCE, None, "f8", 255.0, MEAN), SOURCE / 255 - MEAN),
    "scaled rows": (ImageView(SOURCE, ROWS, "f4", 16.0), (SOURCE[ROWS] / 16).astype("f4")),
    "view of a view": (ImageView(ImageView(SOURCE, ROWS), np.array([5, 1]), "f8", 2.0), SOURCE[[12, 19]] / 2),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("index", [
    0, -1, np.int64(1), slice(None), slice(0, 2), slice(None, None, -1), np.array([1, 0, 1]), [0, 1],
    (slice(0, 2), 1), (1, slice(None), 2), (np.array([0, 1]), ..., 1)])
def test_indexing(name, index):
    view, array = VIEWS[name]
    np.testing.assert_array_equal(view[index], array[index])
    assert view[index].dtype == array.dtype


@pytest.mark.parametrize("name", VIEWS)
def test_array_properties(name):
    view, array = VIEWS[name]
    assert (view.shape, view.dtype, view.ndim, len(view), view.nbytes) == (
        array.shape, array.dtype, array.ndim, len(array), array.nbytes)
    np.testing.assert_array_equal(np.asarray(view), array)
    assert np.asarray(view, "f8").dtype == np.float64
    np.testing.assert_array_equal(np.concatenate([view[block] for block in blocks(view)]), array)


def test_masks_and_ends():
    view = ImageView(SOURCE, ROWS)
    mask = np.array([True, False, True, False, False, True])
    np.testing.assert_array_equal(view[mask], SOURCE[ROWS][mask])
    for index in (6, -7):
        with pytest.raises(IndexError):
            view[index]
    with pytest.raises(ValueError, match="always a copy"):
        np.array(view, copy=False)


def test_what_a_view_gives_is_the_callers_own():
    view = ImageView(SOURCE)
    before = SOURCE.copy()
    view[0:3][:] = 0
    np.testing.assert_array_equal(SOURCE, before)


@pytest.fixture
def both(monkeypatch):
    """Return a function that makes a data set twice: in memory, and in views."""
    def make(change):
        labels = np.arange(20) % 4
        plain = Dataset("made", SOURCE, labels, SOURCE[:8], labels[:8], tuple("abcd"))
        small = change(plain)
        monkeypatch.setattr(images, "_MEMORY_BYTES", 0)
        large = change(plain)
        assert isinstance(large.train_images, ImageView) and not isinstance(small.train_images, ImageView)
        return small, large
    return make


@pytest.mark.parametrize("change", [
    lambda d: d.prepared(), lambda d: d.subset(size=10, seed=1), lambda d: d.subset(per_class=3).prepared("float64"),
    lambda d: d.prepared().subset(size=10), lambda d: d.subset(size=16).subset(size=8).prepared(subtract_mean=False),
    lambda d: d.prepared().prepared(), lambda d: replace(d.prepared(), name="other")])
def test_sets_too_large_for_memory_are_prepared_on_access(both, change):
    small, large = both(change)
    for part in ("train_images", "test_images"):
        np.testing.assert_allclose(np.asarray(getattr(large, part)), getattr(small, part), rtol=0, atol=1e-7)
        assert getattr(large, part).dtype == getattr(small, part).dtype
    np.testing.assert_array_equal(large.train_labels, small.train_labels)
    if small.mean_image is not None:
        np.testing.assert_allclose(large.mean_image, small.mean_image, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_walking_over_a_mapped_file_takes_little_memory(tmp_path):
    with open(tmp_path / "images", "wb") as file:
        file.truncate(300 << 20)
    code = ("import resource, sys\nimport numpy as np\nfrom convnet.data.images import ImageView, blocks\n"
            "images = np.memmap(sys.argv[1], np.uint8, 'r', shape=(300, 1024, 1024, 1))\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "for view in (images, ImageView(images)):\n"
            "    print(sum(int(view[block].sum()) for block in blocks(view)))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n")
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "images"], cwd=Path(__file__).parents[2],
                         capture_output=True, text=True, check=True)
    plain, view, kilobytes = map(int, run.stdout.split())
    assert plain == view == 0 and kilobytes < 120_000


def test_walking_over_a_private_mapping_keeps_its_changes(tmp_path):
    (tmp_path / "images").write_bytes(bytes(1 << 16))
    changed = np.memmap(tmp_path / "images", np.uint8, "c", shape=(16, 64, 64, 1))
    changed[3] = 7
    assert [int(changed[block].max()) for block in blocks(changed)] == [7]
    assert changed[3].min() == 7


def test_views_serve_as_sources(both, tmp_path):
    small, large = both(lambda d: d.prepared("float64"))
    np.testing.assert_allclose(training_tangents(large), training_tangents(small), rtol=0, atol=1e-14)
    copy = cached_array(tmp_path, "copy", large.train_images, {}, large.train_images.shape, np.dtype("f8"),
                        (large.train_images[block] for block in blocks(large.train_images)))
    np.testing.assert_array_equal(copy, np.asarray(large.train_images))
