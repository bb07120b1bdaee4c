"""Fetching against a server on loopback that does everything wrong that a server can do."""
import errno
import gzip
import hashlib
import io
import os
import sys
import tarfile

import numpy as np
import pytest
from loopback import serving
from official_files import as_images, write_cifar10_binary
from test_idx import NAMES, encode, make_files

import convnet.data
from convnet.data import archives, catalogue
from convnet.data.catalogue import Collection, RemoteFile
from convnet.data.cifar import load_cifar
from convnet.data.fetch import fetch
from convnet.data.verify import verify

pytest.importorskip("pooch")
IMAGES = NAMES["train_images"] + ".gz"


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def mnist(server, tmp_path, monkeypatch):
    """A small MNIST on two mirrors, of which the second is what the tests rely on least."""
    make_files(tmp_path / "source", compress=NAMES)
    files = []
    for path in sorted((tmp_path / "source").iterdir()):
        content = path.read_bytes()
        for mirror in ("/a/", "/b/"):
            server.files[mirror + path.name] = content
        mirrors = server.address + "a/", server.address + "b/"
        files.append(RemoteFile(path.name, mirrors, sha256(content), len(content)))
    monkeypatch.setitem(catalogue.COLLECTIONS, "mnist", Collection("mnist", tuple(files)))
    monkeypatch.setitem(catalogue.CONTENT, "mnist", {
        path.name.removesuffix(".gz"): sha256(gzip.decompress(path.read_bytes()))
        for path in (tmp_path / "source").iterdir()})
    return server


def get(root, **options):
    return fetch("mnist", root, **({"progress": False, "wait": 0.0, "timeout": 10.0, "retries": 1} | options))


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_arrive_are_verified_and_read(mnist, tmp_path):
    folder = get(tmp_path / "new" / "root")
    assert folder == tmp_path / "new" / "root" / "mnist"
    assert stored(folder) == stored(tmp_path / "source")
    assert len(convnet.data.load("mnist", tmp_path / "new" / "root").train_images) == 30
    assert all(path.startswith("/a/") and wanted is None for path, wanted in mnist.requests)


def test_what_is_there_is_not_fetched_again(mnist, tmp_path):
    get(tmp_path)
    mnist.requests.clear()
    get(tmp_path)
    assert mnist.requests == []
    (tmp_path / "mnist" / IMAGES).unlink()
    get(tmp_path)
    assert [path for path, _ in mnist.requests] == [f"/a/{IMAGES}"]


@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_another_copy_under_the_root_will_do_even_unpacked(mnist, tmp_path, place):
    make_files(tmp_path / "root" / place)
    assert get(tmp_path / "root") == (tmp_path / "root" / place)
    assert mnist.requests == []


@pytest.mark.parametrize("fault", [
    "truncate", "corrupt", "html", "larger", 404, 500, 503,
    *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("silent", "stall")),
])
def test_the_second_mirror_helps_where_the_first_fails(mnist, tmp_path, fault):
    mnist.faults[f"/a/{IMAGES}"] = [fault]
    folder = get(tmp_path, timeout=0.3 if fault in ("silent", "stall") else 10.0)
    assert stored(folder) == stored(tmp_path / "source")


def test_a_broken_download_is_resumed_where_it_stopped(mnist, tmp_path):
    size = len(mnist.files[f"/a/{IMAGES}"])
    mnist.faults[f"/a/{IMAGES}"] = ["truncate", "truncate"]
    mnist.faults[f"/b/{IMAGES}"] = [500, 500]
    with pytest.raises(ConnectionError):
        get(tmp_path)
    half, three_quarters = size // 2, size // 2 + (size - size // 2) // 2
    assert stored(tmp_path / "mnist")[f".{IMAGES}.part"] == mnist.files[f"/a/{IMAGES}"][:three_quarters]
    folder = get(tmp_path)                                       # a later run, in a new process perhaps
    assert [wanted for path, wanted in mnist.requests if path == f"/a/{IMAGES}"] == [
        None, f"bytes={half}-", f"bytes={three_quarters}-"]
    assert stored(folder) == stored(tmp_path / "source")


@pytest.mark.parametrize("fault", ["ignore range", "wrong range", 416])
def test_servers_that_cannot_resume(mnist, tmp_path, fault):
    mnist.faults[f"/a/{IMAGES}"] = ["truncate", fault]
    mnist.faults[f"/b/{IMAGES}"] = [500, 500, 500]
    assert stored(get(tmp_path, retries=3)) == stored(tmp_path / "source")


def test_leftovers_of_another_file_do_no_harm(mnist, tmp_path):
    (tmp_path / "mnist").mkdir()
    leftover = tmp_path / "mnist" / f".{IMAGES}.part"
    for content in (b"something else", b"x" * len(mnist.files[f"/a/{IMAGES}"]), b"y" * 100000):
        leftover.write_bytes(content)
        assert stored(get(tmp_path)) == stored(tmp_path / "source")
        (tmp_path / "mnist" / IMAGES).unlink()


def test_a_complete_leftover_needs_no_content(mnist, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f".{IMAGES}.part").write_bytes(mnist.files[f"/a/{IMAGES}"])
    assert stored(get(tmp_path)) == stored(tmp_path / "source")


@pytest.mark.parametrize(("fault", "error", "reason"), [
    ("truncate", ConnectionError, "broke off|ended after"),
    ("stall", ConnectionError, "timed out"),
    pytest.param("silent", ConnectionError, "the server did not answer in time", marks=pytest.mark.slow),
    (404, ConnectionError, "the server answered 404 Not Found"),
    (503, ConnectionError, "the server answered 503"),
    ("html", ValueError, "the server answered with a web page"),
    ("corrupt", ValueError, "the content has another checksum"),
    ("larger", ValueError, "the server announces .* the published file has"),
    ("endless", ValueError, "the server sends more than"),
])
def test_no_mirror_works(mnist, tmp_path, fault, error, reason):
    old = b"what was there before"
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / IMAGES).write_bytes(old)
    for mirror in "ab":
        mnist.faults[f"/{mirror}/{IMAGES}"] = [fault] * 4
    with pytest.raises(error, match=reason) as caught:
        get(tmp_path, retries=0, timeout=0.3 if fault in ("silent", "stall") else 10.0)
    message = str(caught.value)
    assert IMAGES in message and f"{mnist.address}a/" in message and f"{mnist.address}b/" in message
    assert str(tmp_path / "mnist") in message and "\n" not in message
    kept = stored(tmp_path / "mnist")
    assert kept.pop(IMAGES) == old
    assert set(kept) <= {f".{IMAGES}.part", *(path.name for path in (tmp_path / "source").iterdir())}
    assert (f".{IMAGES}.part" in kept) == (fault in ("truncate", "stall"))


def test_a_mirror_with_the_wrong_file_is_asked_once(mnist, tmp_path):
    mnist.faults[f"/a/{IMAGES}"] = ["corrupt"] * 9
    mnist.faults[f"/b/{IMAGES}"] = [500] * 9
    with pytest.raises(ConnectionError):
        get(tmp_path, retries=2)
    asked = [path for path, _ in mnist.requests if path.endswith(IMAGES)]
    assert asked.count(f"/a/{IMAGES}") == 1 and asked.count(f"/b/{IMAGES}") == 3


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as gone:
        address = gone.address
    file = RemoteFile(IMAGES, (address,), sha256(b""), 10)
    monkeypatch.setitem(catalogue.COLLECTIONS, "mnist", Collection("mnist", (file,)))
    with pytest.raises(ConnectionError, match=r"cannot fetch .*no connection to the server.*try again later"):
        get(tmp_path)


def test_without_a_published_size_the_checksum_decides(mnist, tmp_path, monkeypatch):
    files = tuple(RemoteFile(file.name, file.mirrors, file.checksum) for file in catalogue.COLLECTIONS["mnist"].files)
    monkeypatch.setitem(catalogue.COLLECTIONS, "mnist", Collection("mnist", files))
    mnist.faults[f"/a/{IMAGES}"] = ["no length"]
    assert stored(get(tmp_path)) == stored(tmp_path / "source")
    mnist.faults[f"/a/{NAMES['train_labels']}.gz"] = ["endless"]
    (tmp_path / "mnist" / f"{NAMES['train_labels']}.gz").unlink()
    assert stored(get(tmp_path)) == stored(tmp_path / "source")


def test_full_disk(mnist, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left on device; free some space") as caught:
        get(tmp_path)
    assert caught.value.errno == errno.ENOSPC and stored(tmp_path / "mnist") == {}


def test_a_place_that_cannot_be_written(mnist, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file"):
        get(tmp_path / "file")


@pytest.mark.parametrize(("name", "message"), [
    ("minst", "unknown data set 'minst'; did you mean 'mnist'"), ("digits", "is part of the package")])
def test_names_that_cannot_be_fetched(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        fetch(name, tmp_path)


def test_without_pooch_the_extra_is_named(mnist, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'convnet-ibp\[data\]'"):
        get(tmp_path)


# --- archives ---------------------------------------------------------------------------------------------------------

FOLDER = "cifar-10-batches-bin"


def tar_of(members):
    """Return a tar.gz of (name or TarInfo, content) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def cifar(server, tmp_path, monkeypatch):
    arrays = write_cifar10_binary(tmp_path / "source")
    paths = (tmp_path / "source" / FOLDER).iterdir()
    content = tar_of([(f"{FOLDER}/{path.name}", path.read_bytes()) for path in paths])

    def publish(content):
        server.files["/cifar.tar.gz"] = content
        file = RemoteFile("cifar.tar.gz", (server.address,), sha256(content), len(content), FOLDER)
        monkeypatch.setitem(catalogue.COLLECTIONS, "cifar10", Collection("cifar10", (file,)))
    publish(content)
    server.publish, server.arrays, server.content = publish, arrays, content
    return server


def get_cifar(root):
    return fetch("cifar10", root, progress=False, wait=0.0, timeout=10.0, retries=0)


def test_archives_are_unpacked_verified_and_removed(cifar, tmp_path):
    folder = get_cifar(tmp_path)
    assert [path.name for path in folder.iterdir()] == [FOLDER]
    np.testing.assert_array_equal(load_cifar("cifar10", folder, (10, 4)).train_images, as_images(cifar.arrays[0]))
    assert {finding.state for finding in verify("cifar10", tmp_path)} == {"as published"}
    cifar.requests.clear()
    get_cifar(tmp_path)
    assert cifar.requests == []


def test_an_archive_that_was_already_there_is_used_and_kept(cifar, tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar.tar.gz").write_bytes(cifar.content)
    folder = get_cifar(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [FOLDER, "cifar.tar.gz"] and cifar.requests == []


def test_a_damaged_copy_is_replaced(cifar, tmp_path):
    folder = get_cifar(tmp_path)
    for damage in (lambda path: path.write_bytes(b"x"), lambda path: path.unlink()):
        damage(folder / FOLDER / "data_batch_3.bin")
        damaged = [finding.path.name for finding in verify("cifar10", tmp_path) if finding.state == "damaged"]
        assert damaged[0] == "data_batch_3.bin"
        get_cifar(tmp_path)
        assert {finding.state for finding in verify("cifar10", tmp_path)} == {"as published"}
        assert [path.name for path in folder.iterdir()] == [FOLDER]


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(("members", "message"), [
    ([(f"{FOLDER}/../../evil", b"x")], "which is not in its folder"),
    ([("../evil", b"x")], "which is not in its folder"),
    ([("/tmp/evil", b"x")], "which is not in its folder"),
    ([("other/file", b"x")], "which is not in its folder"),
    ([(special(f"{FOLDER}/link", tarfile.SYMTYPE, "/etc/passwd"), b"")], "neither a file nor a folder"),
    ([(special(f"{FOLDER}/link", tarfile.LNKTYPE, "../../x"), b"")], "neither a file nor a folder"),
    ([(special(f"{FOLDER}/pipe", tarfile.FIFOTYPE), b"")], "neither a file nor a folder"),
    ([], "holds no folder"),
    ([(f"{FOLDER}/{k}", b"") for k in range(1001)], "more than 1000 members"),
    ([(f"{FOLDER}/a", b"x" * 60), (f"{FOLDER}/b", b"x" * 60)], "members or 100 bytes"),
])
def test_archives_that_are_not_what_they_should_be(cifar, tmp_path, monkeypatch, members, message):
    monkeypatch.setattr(archives, "_MOST_BYTES", 100)
    cifar.publish(tar_of(members))
    (tmp_path / "cifar10" / FOLDER).mkdir(parents=True)
    (tmp_path / "cifar10" / FOLDER / "old").write_text("old")
    with pytest.raises(ValueError, match=message) as caught:
        get_cifar(tmp_path)
    assert "cifar.tar.gz" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "cifar10").iterdir()) == [FOLDER, "cifar.tar.gz"]
    assert [path.name for path in (tmp_path / "cifar10" / FOLDER).iterdir()] == ["old"]
    assert not any(path.name in ("evil", "link", "pipe") for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("change", [lambda b: b[:-30], lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"<html>",
                                    lambda b: b[:5000] + bytes(100) + b[5100:]])
def test_damaged_archives(cifar, tmp_path, change):
    cifar.publish(change(cifar.content))
    with pytest.raises(ValueError, match=r"cifar.tar.gz is damaged"):
        get_cifar(tmp_path)
    assert [path.name for path in (tmp_path / "cifar10").iterdir()] == ["cifar.tar.gz"]


def test_a_disk_that_fills_up_while_unpacking(cifar, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    (tmp_path / "cifar10" / FOLDER).mkdir(parents=True)
    (tmp_path / "cifar10" / FOLDER / "old").write_text("old")
    with pytest.raises(OSError, match=r"cannot unpack .*No space left on device; free some space") as caught:
        get_cifar(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "cifar10" / FOLDER).iterdir()] == ["old"]
    assert not [path for path in (tmp_path / "cifar10").iterdir() if path.name.startswith(".unpacking")]


# --- verification -----------------------------------------------------------------------------------------------------


def states(root, name="mnist"):
    return {finding.path.name: finding.state.split(",")[0] for finding in verify(name, root)}


def test_copies_packed_anew_and_unpacked_are_as_published(mnist, tmp_path):
    root = tmp_path / "root"
    make_files(root)
    path = root / NAMES["test_labels"]
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9))
    path.unlink()
    assert set(states(root).values()) == {"as published"}


def test_other_content_is_damaged_and_named(mnist, tmp_path):
    root = tmp_path / "root"
    make_files(root)
    (root / NAMES["train_labels"]).write_bytes(encode(np.full(30, 3, "u1")))
    assert states(root)[NAMES["train_labels"]] == "damaged"
    (root / NAMES["train_labels"]).unlink()
    assert states(root)[NAMES["train_labels"]] == "damaged"
    (root / (NAMES["train_labels"] + ".gz")).write_bytes(gzip.compress(bytes(50))[:-3])
    assert states(root)[NAMES["train_labels"] + ".gz"] == "damaged"


def test_copies_without_published_sums_are_sound_if_they_can_be_read(tmp_path):
    make_files(tmp_path / "fashion-mnist")
    assert set(states(tmp_path, "fashion-mnist").values()) == {"sound"}
    path = tmp_path / "fashion-mnist" / NAMES["train_images"]
    path.write_bytes(path.read_bytes()[:-1])
    finding, = [finding for finding in verify("fashion-mnist", tmp_path) if finding.state == "damaged"]
    assert "is truncated" in finding.reason


def test_nothing_to_verify(tmp_path):
    with pytest.raises(FileNotFoundError, match="convnet datasets fetch svhn"):
        verify("svhn", tmp_path)


def test_the_catalogue_is_complete():
    for name in convnet.data.known_names():
        if name != "digits":
            for file in catalogue.COLLECTIONS[name].files:
                algorithm, _, digest = file.checksum.partition(":")
                assert len(digest) == {"sha256": 64, "md5": 32}[algorithm] and int(digest, 16)
                assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in file.mirrors)
