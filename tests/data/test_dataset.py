import numpy as np
import pytest

import convnet.data
from convnet.data import Dataset
from convnet.data.sampling import stratified_indices


def make(train=40, test=12, class_count=4, shape=(5, 6, 2), dtype="uint8", **changes):
    generator = np.random.default_rng(7)
    fields = {
        "name": "made", "classes": [f"class {i}" for i in range(class_count)],
        "train_images": generator.integers(0, 256, (train, *shape)).astype(dtype),
        "train_labels": np.arange(train) % class_count,
        "test_images": generator.integers(0, 256, (test, *shape)).astype(dtype),
        "test_labels": np.arange(test) % class_count,
    }
    return Dataset(**(fields | changes))


def test_digits_are_the_whole_uci_test_part():
    digits = convnet.data.load("digits")
    assert digits.train_images.shape == (1437, 8, 8, 1) and digits.test_images.shape == (360, 8, 8, 1)
    assert digits.input_shape == (8, 8, 1) and digits.classes == tuple("0123456789")
    counts = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.train_labels.dtype == np.int64
    assert max(digits.train_images.max(), digits.test_images.max()) == 16
    shares = np.bincount(digits.test_labels)
    assert np.abs(shares - 360 * counts / 1797).max() < 1


def test_digits_agree_with_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    ours = convnet.data.load("digits")

    def rows(images, labels):
        return sorted((label, image.astype("u1").tobytes()) for image, label in zip(images, labels, strict=True))
    assert rows(bunch.images, bunch.target) == rows(np.concatenate([ours.train_images, ours.test_images]),
                                                    np.concatenate([ours.train_labels, ours.test_labels]))


def test_prepared_digits_are_scaled_by_sixteen_and_centred():
    digits = convnet.data.load("digits")
    prepared = digits.prepared(dtype="float64")
    mean = digits.train_images.mean(axis=0, dtype=np.float64) / 16
    np.testing.assert_allclose(prepared.train_images, digits.train_images / 16 - mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(prepared.test_images, digits.test_images / 16 - mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(prepared.mean_image, mean, rtol=1e-14)
    assert np.abs(prepared.train_images.mean(axis=0)).max() < 1e-14
    assert np.abs(prepared.test_images.mean(axis=0)).max() > 1e-3      # the training part's mean, not each part's own


def test_prepared_uint8_is_divided_by_255():
    data = make()
    prepared = data.prepared(subtract_mean=False)
    assert prepared.train_images.dtype == np.float32
    np.testing.assert_array_equal(prepared.train_images, data.train_images / np.float32(255))
    assert prepared.train_images.max() <= 1 and prepared.max_value == 1


def test_preparing_twice_changes_nothing():
    once = make().prepared(dtype="float64")
    twice = once.prepared(dtype="float64")
    np.testing.assert_allclose(twice.train_images, once.train_images, rtol=0, atol=1e-15)
    np.testing.assert_allclose(twice.mean_image, once.mean_image, rtol=0, atol=1e-15)


def test_preparing_leaves_the_original_alone_and_reads_in_blocks(monkeypatch):
    data = make(train=50)
    before = data.train_images.copy()
    whole = data.prepared()
    monkeypatch.setattr("convnet.data.images._BLOCK_BYTES", 7 * 60)      # seven images a block
    np.testing.assert_array_equal(data.prepared().train_images, whole.train_images)
    np.testing.assert_array_equal(data.train_images, before)


def test_subset_by_size_keeps_shares_by_largest_remainder():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    data = make(train=100, class_count=3, train_labels=labels)
    small = data.subset(size=9)
    # shares 4.5, 2.7, 1.8: the remainders .8 and .7 win
    assert np.bincount(small.train_labels).tolist() == [4, 3, 2]
    assert len(small.train_images) == 9 and small.test_images is data.test_images


def test_subset_images_keep_their_labels():
    data = make(train=100)
    labels_of = {image.tobytes(): label for image, label in zip(data.train_images, data.train_labels, strict=True)}
    small = data.subset(per_class=5, seed=3)
    assert [labels_of[image.tobytes()] for image in small.train_images] == small.train_labels.tolist()
    assert np.bincount(small.train_labels).tolist() == [5, 5, 5, 5]


def test_subset_depends_on_seed_alone_and_nests():
    labels = np.random.default_rng(0).integers(0, 5, 300)
    first, again = (stratified_indices(labels, size=60, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, stratified_indices(labels, size=60, seed=5))
    assert set(stratified_indices(labels, per_class=8, seed=4)) < set(stratified_indices(labels, per_class=20, seed=4))


def test_subset_without_a_number_is_the_set_itself():
    data = make()
    assert data.subset() is data


@pytest.mark.parametrize(("options", "message"), [
    ({"size": 0}, "size must be a positive whole number, not 0"),
    ({"size": 2.5}, "size must be a positive whole number"),
    ({"size": 41}, "size is 41, but there are only 40 images"),
    ({"per_class": -1}, "per_class must be a positive whole number"),
    ({"per_class": True}, "per_class must be a positive whole number"),
    ({"per_class": 11}, "class 0 has only 10 images"),
    ({"per_class": 2, "size": 3}, "not both"),
])
def test_impossible_subsets_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make().subset(**options)


NAN = np.where(np.arange(40 * 60).reshape(40, 5, 6, 2) == 17 * 60 + 3, np.nan, 0.5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"train_labels": np.full(40, 4)}, "train_labels: label 4 of image 0 .* labels are 0 to 3"),
    ({"test_labels": np.arange(12) - 1}, "test_labels: label -1 of image 0"),
    ({"train_labels": np.zeros(39, int)}, "40 train_images but 39 train_labels"),
    ({"train_labels": np.zeros(40)}, "train_labels must be one integer class id per image"),
    ({"train_labels": np.zeros((40, 1), int)}, "train_labels must be one integer class id per image"),
    ({"train_images": NAN}, "image 17 holds NaN"),
    ({"test_images": np.full((12, 5, 6, 2), np.inf)}, "test_images: image 0 holds NaN or infinite"),
    ({"train_images": np.zeros((40, 5, 6), "uint8")}, r"images\[..., None\]"),
    ({"train_images": np.zeros((40, 5, 6, 2), "int32")}, "must be uint8 or floating point, not int32"),
    ({"train_images": np.zeros((0, 5, 6, 2), "uint8"), "train_labels": np.zeros(0, int)}, "train_images is empty"),
    ({"test_images": np.zeros((12, 5, 7, 2), "uint8")}, "both parts need one image shape"),
    ({"train_images": [np.zeros((5, 6, 2)), np.zeros((4, 6, 2))]}, "not all of one shape"),
    ({"classes": ()}, "classes is empty"),
    ({"max_value": 0}, "max_value must be a positive number"),
])
def test_bad_data_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(**changes)
    assert "'made'" in str(caught.value)


def test_prepared_refuses_images_whose_full_intensity_was_not_told():
    assert make(dtype="float32", max_value=255).prepared(subtract_mean=False).train_images.max() <= 1
    for subtract_mean in (True, False):
        with pytest.raises(ValueError, match=r"'made': .* 1\d\d\S* on average, but max_value is 1: .*max_value=255"):
            make(dtype="float32").prepared(subtract_mean=subtract_mean)


def test_prepared_refuses_integer_types():
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        make().prepared(dtype="int8")


def test_repr_says_what_is_inside():
    assert repr(make()) == "Dataset('made', 40 training and 12 test images of 5x6x2, 4 classes, uint8)"


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'minst'; did you mean 'mnist'"):
        convnet.data.load("minst")
