"""Batches made ahead: the same for any number of threads, in order, and no thread outlives its iterator."""
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from convnet.data.augment import Augmentation
from convnet.data.images import ImageView
from convnet.data.loader import BatchLoader, prefetch

THREADS = [0, 1, 2, 5]


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("convnet-batches")]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_order(threads, ahead):
    def make(item):
        time.sleep(0.002 * (item % 3))
        return item * item
    assert list(prefetch(make, iter(range(20)), threads=threads, ahead=ahead)) == [n * n for n in range(20)]
    assert list(prefetch(make, [], threads=threads, ahead=ahead)) == []
    assert ours() == []


def test_results_are_made_while_the_caller_works():
    made = [threading.Event() for _ in range(6)]
    with closing(prefetch(lambda item: made[item].set(), range(6), threads=1, ahead=2)) as results:
        next(results)
        assert made[1].wait(5) and made[2].wait(5)                # without being asked for
        assert not made[3].wait(0.05)                             # but no more than two ahead
    assert ours() == []


def test_several_threads_work_at_once():
    barrier = threading.Barrier(3)
    assert list(prefetch(lambda item: barrier.wait(5), range(3), threads=3, ahead=3)).count(0) == 1


@pytest.mark.parametrize("threads", THREADS)
def test_a_failure_is_raised_in_its_place(threads):
    def make(item):
        if item == 3:
            raise OSError("disk gone")
        return item
    seen = []
    with pytest.raises(OSError, match="disk gone"):
        for result in prefetch(make, range(10), threads=threads, ahead=4):
            seen.append(result)
    assert seen == [0, 1, 2] and ours() == []


@pytest.mark.parametrize("leave", ["break", "raise", "close"])
def test_leaving_early_ends_the_threads(leave):
    started = []

    def make(item):
        started.append(item)
        return item
    results = prefetch(make, range(1000), threads=2, ahead=3)
    if leave == "close":
        next(results)
        results.close()
    elif leave == "break":
        for _ in results:
            break
        del results
    else:
        with pytest.raises(KeyboardInterrupt), closing(results):
            for _ in results:
                raise KeyboardInterrupt
    assert ours() == [] and len(started) <= 4


def test_items_that_fail_end_the_threads():
    def items():
        yield from range(3)
        raise LookupError("no more")
    with pytest.raises(LookupError, match="no more"):
        list(prefetch(lambda item: item, items(), threads=2, ahead=2))
    assert ours() == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_waiting_caller_at_once():
    code = ("import time\nfrom convnet.data.loader import prefetch\n"
            "def make(item):\n    if item == 1: print('waiting', flush=True)\n    time.sleep(0.3 * item)\n    return item\n"
            "try:\n    for _ in prefetch(make, range(9), threads=2, ahead=2): pass\n"
            "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n")
    # A test run in the background passes on that Ctrl-C is ignored.
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=Path(__file__).parents[2], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    with process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)


def test_too_small_numbers_are_refused():
    for options in ({"threads": -1}, {"ahead": 0}):
        with pytest.raises(ValueError, match="threads and ahead"):
            prefetch(abs, [1], **options)


GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.standard_normal((23, 6, 6, 2)).astype("f4")
LABELS = np.arange(23) % 4
TANGENTS = GENERATOR.standard_normal((23, 3, 6, 6, 2)).astype("f4")


def batches(loader, epoch):
    with loader.epoch(epoch) as made:
        return [(batch.images, batch.labels, batch.tangents) for batch in made]


def test_an_epoch_holds_every_sample_once():
    loader = BatchLoader(IMAGES, LABELS, 5, seed=1, tangents=TANGENTS)
    made = batches(loader, 0)
    assert [len(images) for images, _, _ in made] == [5, 5, 5, 5, 3] and len(loader) == 5
    position = {image.tobytes(): n for n, image in enumerate(IMAGES)}
    order = [position[image.tobytes()] for images, _, _ in made for image in images]
    assert sorted(order) == list(range(23)) and order != sorted(order)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels, _ in made]), LABELS[order])
    np.testing.assert_array_equal(np.concatenate([tangents for _, _, tangents in made]), TANGENTS[order])


@pytest.mark.parametrize("threads", THREADS)
def test_batches_depend_on_seed_and_epoch_alone(threads):
    augmentation = Augmentation(crop=5, shift=1, rotation=20)
    expected = batches(BatchLoader(IMAGES, LABELS, 4, seed=3, augmentation=augmentation, threads=0), 7)
    loader = BatchLoader(ImageView(IMAGES), LABELS, 4, seed=3, augmentation=augmentation, threads=threads, ahead=3)
    for _ in range(2):
        for (images, labels, _), (ours_images, ours_labels, _) in zip(expected, batches(loader, 7), strict=True):
            np.testing.assert_array_equal(ours_images, images)
            np.testing.assert_array_equal(ours_labels, labels)
    assert not np.array_equal(batches(loader, 8)[0][0], expected[0][0])
    other = BatchLoader(IMAGES, LABELS, 4, seed=4, augmentation=augmentation)
    assert not np.array_equal(batches(other, 7)[0][0], expected[0][0])


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 0}, "batch_size is 0"), ({"labels": LABELS[:5]}, "23 images but 5 labels"),
    ({"tangents": TANGENTS[:5]}, "23 images but 5 tangents"),
    ({"tangents": TANGENTS, "augmentation": Augmentation()}, "leave tangents or augmentation out")])
def test_misfits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BatchLoader(**({"images": IMAGES, "labels": LABELS, "batch_size": 4} | options))
