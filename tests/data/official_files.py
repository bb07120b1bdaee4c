"""Writes small data sets in the official file layouts, and finds the real ones."""
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np


def real_data():
    """Return the folder where the real data sets are, if anywhere: $CONVNET_DATA or a folder beside the repository."""
    return Path(os.environ.get("CONVNET_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def cifar_arrays(records, classes, seed=0, coarse=None):
    """Return (pixels (N, 3072), labels) with every class present as far as it goes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (records, 3072)).astype(np.uint8)
    return pixels, np.arange(seed, seed + records) % classes


def as_images(pixels):
    """Return (N, 32, 32, 3) by the description of the layout: red plane, green plane, blue plane, row by row."""
    images = np.empty((len(pixels), 32, 32, 3), np.uint8)
    for channel in range(3):
        for row in range(32):
            images[:, row, :, channel] = pixels[:, channel * 1024 + row * 32:channel * 1024 + row * 32 + 32]
    return images


def write_cifar10_binary(folder, records=(10, 4)):
    """Write cifar-10-batches-bin with 5 batches; return train pixels, train labels, test pixels, test labels."""
    base = folder / "cifar-10-batches-bin"
    base.mkdir(parents=True)
    batches = [cifar_arrays(records[0] // 5, 10, seed) for seed in range(5)] + [cifar_arrays(records[1], 10, 9)]
    for number, (pixels, labels) in enumerate(batches):
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        (base / name).write_bytes(np.hstack([labels[:, None].astype("u1"), pixels]).tobytes())
    (base / "batches.meta.txt").write_text("\n".join(f"class{k}" for k in range(10)) + "\n\n")
    return (np.concatenate([p for p, _ in batches[:5]]), np.concatenate([y for _, y in batches[:5]]), *batches[5])


def python2_pickle(entries):
    """Return a protocol 2 pickle as Python 2 wrote CIFAR's: byte strings as keys and as the arrays' content."""
    def string(text):
        data = text.encode() if isinstance(text, str) else text
        return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<I", len(data)) + data

    def number(value):
        return b"J" + struct.pack("<i", value)

    out = b"\x80\x02}("
    for key, value in entries.items():
        out += string(key)
        if isinstance(value, np.ndarray):
            shape = b"".join(number(n) for n in value.shape)
            out += (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + string("b")
                    + b"\x87R(" + number(1) + b"(" + shape + b"t" + b"cnumpy\ndtype\n" + string(value.dtype.str[1:])
                    + number(0) + number(1) + b"\x87R(" + number(3) + string("|") + b"NNN" + number(-1) + number(-1)
                    + number(0) + b"tb\x89" + string(value.tobytes()) + b"tb")
        elif isinstance(value, list):
            items = b"".join(number(v) if isinstance(v, int) else string(v) for v in value)
            out += b"](" + items + b"e"
        else:
            out += string(value)
    return out + b"u."


def write_cifar10_python(folder, records=(10, 4), dump=python2_pickle):
    """Write cifar-10-batches-py; return what `write_cifar10_binary` does."""
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    batches = [cifar_arrays(records[0] // 5, 10, seed) for seed in range(5)] + [cifar_arrays(records[1], 10, 9)]
    for number, (pixels, labels) in enumerate(batches):
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        (base / name).write_bytes(dump({"batch_label": name, "labels": labels.tolist(), "data": pixels,
                                        "filenames": [f"image{k}.png" for k in range(len(labels))]}))
    (base / "batches.meta").write_bytes(dump({"num_cases_per_batch": "10000",
                                              "label_names": [f"class{k}" for k in range(10)]}))
    return (np.concatenate([p for p, _ in batches[:5]]), np.concatenate([y for _, y in batches[:5]]), *batches[5])


def write_cifar100(folder, binary, records=(12, 6)):
    """Write cifar-100-binary or cifar-100-python; return per part (pixels, coarse labels, fine labels)."""
    base = folder / ("cifar-100-binary" if binary else "cifar-100-python")
    base.mkdir(parents=True)
    parts = {}
    for seed, (name, count) in enumerate(zip(("train", "test"), records, strict=True)):
        pixels, fine = cifar_arrays(count, 100, 7 * seed)
        coarse = fine // 5
        parts[name] = pixels, coarse, fine
        if binary:
            content = np.hstack([coarse[:, None].astype("u1"), fine[:, None].astype("u1"), pixels]).tobytes()
            (base / f"{name}.bin").write_bytes(content)
        else:
            (base / name).write_bytes(python2_pickle({"data": pixels, "coarse_labels": coarse.tolist(),
                                                      "fine_labels": fine.tolist()}))
    names = [f"fine{k}" for k in range(100)], [f"coarse{k}" for k in range(20)]
    if binary:
        (base / "fine_label_names.txt").write_text("\n".join(names[0]) + "\n")
        (base / "coarse_label_names.txt").write_text("\n".join(names[1]) + "\n")
    else:
        (base / "meta").write_bytes(python2_pickle({"fine_label_names": names[0], "coarse_label_names": names[1]}))
    return parts


def python3_pickle(protocol):
    return lambda entries: pickle.dumps({key.encode(): value for key, value in entries.items()}, protocol=protocol)


def mat_element(kind, data, order="<"):
    """Return an element of a MATLAB 5 file in its long form."""
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat_matrix(name, array, order="<", array_class=9, kind=2):
    """Return the element of a numeric array, by the letter of the format."""
    content = mat_element(6, struct.pack(order + "II", array_class, 0), order)
    content += mat_element(5, np.array(array.shape, order + "i4").tobytes(), order)
    content += mat_element(1, name.encode(), order)
    content += mat_element(kind, array.tobytes(order="F"), order)
    return mat_element(14, content, order)


def mat_file(*elements, order="<", compress=False):
    """Return a MATLAB 5 file of elements."""
    if compress:
        packed = [zlib.compress(element) for element in elements]
        elements = [struct.pack(order + "II", 15, len(data)) + data for data in packed]
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(order + "H", 0x0100) + (b"IM" if order == "<" else b"MI") \
        + b"".join(elements)


def svhn_arrays(count, seed):
    """Return SVHN's X (32, 32, 3, N) and y (N, 1) with labels 1 to 10."""
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 256, (32, 32, 3, count)).astype(np.uint8),
            (np.arange(count)[:, None] % 10 + 1).astype(np.uint8))
