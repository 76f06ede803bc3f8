"""Reads MNIST-format folders: IDX files, gzipped or not. Size and header are checked.

IDX (LeCun, Cortes and Burges, 1998): a magic number of four bytes - two zeros, the type (8: unsigned byte), the number
of dimensions - then each dimension as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from homeostat.core.errors import BadInput

_UNSIGNED_BYTE = 8


def read_idx(path: Path, dims: int) -> Tensor:
    """One IDX file of unsigned bytes.

    Args:
        dims: dimensions it must have (3: images, 1: labels).

    Raises:
        BadInput: it cannot be read, is not IDX, has other dimensions, or is shorter or longer than its header says.
    """
    raw = _bytes(path)
    header = 4 + 4 * dims
    if len(raw) < header:
        raise BadInput(f"{path} is cut short: {len(raw)} bytes, the header alone has {header}; fetch it again")
    zeros, kind, found = struct.unpack(">HBB", raw[:4])
    if zeros != 0 or kind != _UNSIGNED_BYTE or found != dims:
        wanted = f"0000 08 {dims:02d}"
        raise BadInput(
            f"{path} is not an IDX file of bytes with {dims} dimension(s): magic {raw[:4].hex()}, wanted {wanted}"
        )
    shape = struct.unpack(f">{dims}I", raw[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(raw) != expected:
        word = "cut short" if len(raw) < expected else "too long"
        raise BadInput(f"{path} is {word}: {len(raw)} bytes, but shape {shape} needs {expected}; fetch it again")
    return torch.as_tensor(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error}; check the file") from error
    except (EOFError, zlib.error) as error:
        raise BadInput(f"{path} is a damaged gzip file ({error}); fetch it again") from error


def read_mnist(folder: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, rows, columns] and labels uint8 [N] of the training part, else of the `t10k` part.

    Raises:
        BadInput: no part is complete, a file is damaged, or the two files have different lengths.
    """
    for part in ("train", "t10k"):
        images, labels = _locate(folder, f"{part}-images", 3), _locate(folder, f"{part}-labels", 1)
        if images and labels:
            return _pair(images, labels)
        if images or labels:
            there, missing = (images, "labels-idx1") if images else (labels, "images-idx3")
            raise BadInput(f"{folder} has {there.name if there else ''} but no {part}-{missing}-ubyte[.gz]; add it")
    raise BadInput(
        f"no MNIST-format files in {folder}: wanted train-images-idx3-ubyte and train-labels-idx1-ubyte "
        "(or t10k-...), gzipped or not"
    )


def _pair(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise BadInput(f"{images.name} holds {len(x)} images but {labels.name} {len(y)} labels; they must be pairs")
    return x, y


def _locate(folder: Path, stem: str, dims: int) -> Path | None:
    names = [f"{stem}{joint}idx{dims}-ubyte{zipped}" for joint in "-." for zipped in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)
