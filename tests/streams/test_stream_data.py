"""Sources of data: real files, and every way in which they can be wrong."""

import gzip
import struct
import sys

import numpy as np
import pytest
import torch

from homeostat.core.errors import BadInput
from homeostat.streams import PermutedPixels, arrays, digits, mnist_folder
from homeostat.streams.data import resolve

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 1, 2, 3], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, images=IMAGES, labels=LABELS, part="train", zipped=False, joint="-"):
    pack, tail = (gzip.compress, ".gz") if zipped else (bytes, "")
    (folder / f"{part}-images{joint}idx3-ubyte{tail}").write_bytes(pack(idx(images)))
    (folder / f"{part}-labels{joint}idx1-ubyte{tail}").write_bytes(pack(idx(labels)))
    return folder


@pytest.mark.parametrize(
    ("part", "zipped", "joint"), [("train", False, "-"), ("t10k", True, "-"), ("train", True, ".")]
)
def test_mnist_folder_is_read(tmp_path, part, zipped, joint):
    data = mnist_folder(write(tmp_path, part=part, zipped=zipped, joint=joint))
    assert data.classes == 4 and data.labels.tolist() == LABELS.tolist()
    assert np.allclose(data.inputs.numpy() * 255, IMAGES.reshape(5, 12))


def test_a_stream_takes_a_folder_by_name(tmp_path):
    stream = PermutedPixels(data=str(write(tmp_path)), tasks=2, batch_size=2)
    assert stream.batch(0)[0].shape == (2, 12) and stream.settings()["data"] == str(tmp_path)


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda raw: raw[:-1], "cut short"),
        ("train-images-idx3-ubyte", lambda raw: raw[:9], "cut short"),
        ("train-images-idx3-ubyte", lambda raw: raw + b"x", "too long"),
        ("train-images-idx3-ubyte", lambda raw: b"\0\0\x0d" + raw[3:], "not an IDX file.*magic 00000d03"),
        ("train-labels-idx1-ubyte", lambda raw: idx(IMAGES), "not an IDX file"),
        ("train-labels-idx1-ubyte", lambda raw: b"", "cut short"),
        ("train-labels-idx1-ubyte", lambda raw: gzip.compress(raw)[:-9], "damaged gzip"),
        ("train-labels-idx1-ubyte", lambda raw: b"\x1f\x8b\x08\x00" + raw, "damaged gzip|cannot read"),
        ("train-labels-idx1-ubyte", lambda raw: idx(LABELS[:4]), "5 images but .* 4 labels"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, change, message):
    damage(write(tmp_path) / file, change)
    with pytest.raises(BadInput, match=message):
        mnist_folder(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="no MNIST-format files"):
        mnist_folder(tmp_path)
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(BadInput, match="no train-labels-idx1-ubyte"):
        mnist_folder(tmp_path)


@pytest.mark.parametrize("data", ["digit", "/no/such/folder", 3, None])
def test_an_unknown_source_is_refused(data):
    with pytest.raises(BadInput, match="'digits', the path of an existing folder"):
        resolve(data)


X = np.ones((3, 2))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (X, [0, 1], "3 inputs but 2 labels"),
        (np.array([[1.0, np.nan]] * 3), [0, 1, 2], "3 of 3 inputs hold NaN"),
        (np.array([[1.0, np.inf], [1, 1]]), [0, 1], "1 of 2 inputs hold NaN or infinite"),
        (np.ones((0, 2)), [], "empty"),
        (X, [0.0, 1.0, 2.0], "whole numbers"),
        (X, [True, False, True], "whole numbers"),
        (X, [0, -1, 2], "smallest label is -1"),
        (X, [[0], [1], [2]], r"shape \(3, 1\)"),
        (np.ones(3), [0, 1, 2], "must have shape"),
        ([["a"]], [0], "cannot be read"),
    ],
)
def test_bad_arrays_are_refused(inputs, labels, message):
    with pytest.raises(BadInput, match=message):
        arrays(inputs, labels)


def test_arrays_cast_but_do_not_rescale():
    data = arrays(np.full((2, 2), 7, dtype=np.uint8), np.array([0, 5], dtype=np.uint8))
    assert data.inputs.dtype == torch.float32 and data.inputs.max() == 7 and data.classes == 6


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits.cache_clear()
    with pytest.raises(BadInput, match=r"homeostat\[studies\]"):
        digits()


def test_digits_are_the_real_ones():
    data = digits()
    assert len(data) == 1797 and data.classes == 10 and data.inputs.shape == (1797, 64)
    assert 0.0 == data.inputs.min() and data.inputs.max() == 1.0
