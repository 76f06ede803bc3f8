"""Labelled items from which a stream draws its batches. They are checked once and held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.streams.mnist import read_mnist


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled items. Create them with `digits`, `arrays` or `mnist_folder`, which check them.

    Args:
        inputs: float32 [N, ...].
        labels: int64 [N], classes 0 .. classes - 1.
        classes: number of classes.
        name: name in settings, records and verdicts.
    """

    inputs: Tensor
    labels: Tensor
    classes: int
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Data({self.name}: {len(self)} items {tuple(self.inputs.shape[1:])}, {self.classes} classes)"


def arrays(inputs: Any, labels: Any, name: str = "arrays") -> Data:
    """Data from two arrays, tensors or nested lists.

    Args:
        inputs: [N, ...] numbers; converted to float32, otherwise unchanged.
        labels: [N] whole numbers from 0.

    Raises:
        BadInput: no items, lengths that differ, NaN or infinite inputs, or labels that are not integers from 0.
    """
    x, y = _tensor(name, "inputs", inputs), _tensor(name, "labels", labels)
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
        raise BadInput(f"{name}: labels must be whole numbers (class numbers from 0), got {y.dtype}; cast them first")
    if y.ndim != 1:
        raise BadInput(f"{name}: labels must have one number an item [N], got shape {tuple(y.shape)}")
    if x.ndim < 2 or x[:1].numel() == 0:
        raise BadInput(f"{name}: inputs must have shape [items, features, ...], all above 0, got {tuple(x.shape)}")
    if len(x) != len(y):
        raise BadInput(f"{name}: {len(x)} inputs but {len(y)} labels; they must be pairs")
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x.flatten(1)).all(1)).sum())
        raise BadInput(f"{name}: {bad} of {len(x)} inputs hold NaN or infinite values; remove or repair them first")
    if y.min() < 0:
        raise BadInput(f"{name}: the smallest label is {int(y.min())}; number the classes from 0")
    return Data(x.to(torch.float32), y.to(torch.int64), int(y.max()) + 1, name)


def _tensor(name: str, what: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name}: {what} cannot be read as an array of numbers: {error}") from error
    if tensor.numel() == 0:
        raise BadInput(f"{name}: {what} are empty; give at least one item")
    return tensor


@lru_cache(maxsize=1)
def digits() -> Data:
    """The 1,797 handwritten digits of scikit-learn (8x8, UCI), flattened to 64 pixels in [0, 1].

    Raises:
        BadInput: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise BadInput("the digits come with scikit-learn: pip install 'homeostat[studies]'") from error
    bunch = cast(Any, load_digits())
    return arrays(bunch.data / 16.0, bunch.target, "digits")


def mnist_folder(path: str | Path) -> Data:
    """Images and labels of an MNIST-format folder, flattened, pixels in [0, 1].

    Args:
        path: folder with `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (gzipped or not). If there is no
            training part, the `t10k-` files are read.

    Raises:
        BadInput: a file is missing, damaged, cut short, or not in the IDX format.
    """
    images, labels = read_mnist(Path(path))
    return arrays(images.flatten(1).to(torch.float32) / 255.0, labels.long(), str(path))


@lru_cache(maxsize=2)
def _folder_once(path: str) -> Data:
    return mnist_folder(path)


def resolve(data: Data | str | Path) -> Data:
    """The data of a stream's `data` setting: `Data`, "digits", or the path of an MNIST-format folder.

    Raises:
        BadInput: it is none of these.
    """
    if isinstance(data, Data):
        return data
    if data == "digits":
        return digits()
    given = cast(object, data)  # a user may pass any type
    if isinstance(given, (str, Path)) and Path(data).expanduser().is_dir():
        return _folder_once(str(Path(data).expanduser()))
    raise BadInput(
        "data must be 'digits', the path of an existing folder in MNIST format, or arrays(inputs, labels); "
        f"got {data!r}"
    )
