"""Nested plain data as JSON and tensors in one safetensors file, and back. Nothing is ever pickled."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from homeostat.core.atomic_file import reason, whole_file
from homeostat.core.errors import BadInput, CheckpointError
from homeostat.core.signals import pass_on

_STORED = frozenset(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
    )
)
_COMPLEX = {torch.complex64: torch.float32, torch.complex128: torch.float64}
_KEY, _DIGEST = "homeostat", "sha256"
_LONG = 32
"""A list of at least so many numbers of one type is stored as a tensor."""


class Encoder:
    """Turns values into JSON and a table of tensors.

    Values may be None, bool, int, float (infinite and NaN too), str, list, tuple, dict with keys of these types,
    Counter, tensors, numpy arrays and numbers. Tensors keep dtype, shape, order of strides and device. A tensor that
    occurs twice is stored once and decoded as one object.

    Attributes:
        tensors: name -> contiguous tensor on the CPU, none sharing memory with another.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[tuple[Any, ...], tuple[Tensor, dict[str, Any]]] = {}

    def encode(self, value: Any, where: str = "") -> Any:
        """JSON for the value.

        Args:
            where: its name in error messages.

        Raises:
            BadInput: it, or something inside it, cannot be saved without pickling.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if kind in _ENCODERS:
            return _ENCODERS[kind](self, value, where)
        if isinstance(value, np.generic):
            return self.encode(value.item(), where)
        raise BadInput(
            f"{where} is a {kind.__name__}, which cannot be kept without pickling: a checkpoint holds tensors, "
            "numbers, texts, and lists, tuples and dictionaries of them"
        )

    def _list(self, value: list[Any], where: str) -> Any:
        kinds = {type(item) for item in value}
        if len(value) >= _LONG and kinds == {float}:
            return {"floats": self._store(torch.tensor(value, dtype=torch.float64))}
        if len(value) >= _LONG and kinds == {int} and all(-(2**63) <= item < 2**63 for item in value):
            return {"ints": self._store(torch.tensor(value, dtype=torch.int64))}
        return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]

    def _dict(self, value: Mapping[Any, Any], where: str) -> Any:
        values = {key: self.encode(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
        if all(type(key) is str for key in value):
            return {"dict": values}
        return {"pairs": [[self.encode(key, f"a key of {where}"), item] for key, item in values.items()]}

    def _array(self, value: np.ndarray, where: str) -> Any:
        if value.dtype.kind not in "biuf":
            raise BadInput(f"{where} is an array of {value.dtype}, which a checkpoint cannot hold")
        return {"array": self._store(torch.from_numpy(np.array(value)))}

    def _tensor(self, value: Tensor, where: str) -> Any:
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            what = "has no values (meta)" if value.is_meta else "is sparse or quantised"
            raise BadInput(f"{where} {what}, which a checkpoint cannot hold")
        if value.dtype not in _STORED and value.dtype not in _COMPLEX:
            raise BadInput(f"{where} is of {value.dtype}, which a checkpoint cannot hold")
        value = value.detach().resolve_conj().resolve_neg()
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and place in self._known:
            return self._known[place][1]
        order = _order(value)
        flat = value.permute(order).contiguous()
        node: dict[str, Any] = {"tensor": self._store(torch.view_as_real(flat) if flat.is_complex() else flat)}
        node |= {"complex": True} if flat.is_complex() else {}
        node |= {"order": order} if order != sorted(order) else {}
        node |= {"device": str(value.device)} if value.device.type != "cpu" else {}
        self._known[place] = (value, node)  # keeps the tensor alive, so that no other can get its address
        return node

    def _store(self, tensor: Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = tensor.to("cpu", copy=True).contiguous()
        return name


_ENCODERS: dict[type, Callable[[Encoder, Any, str], Any]] = {
    list: Encoder._list,
    **dict.fromkeys((tuple, torch.Size), lambda it, value, where: {"tuple": it._list(list(value), where)}),
    dict: Encoder._dict,
    OrderedDict: Encoder._dict,
    Counter: lambda it, value, where: {"counter": it._dict(value, where)},
    np.ndarray: Encoder._array,
    Tensor: Encoder._tensor,
    nn.Parameter: Encoder._tensor,
    nn.Buffer: Encoder._tensor,
}


def decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that was encoded; tensors of devices that this machine lacks come to the CPU.

    Raises:
        BadInput: this is not what an encoder wrote.
    """
    try:
        return _Decoder(tensors).decode(node)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        pass_on(error)
        raise BadInput(f"damaged or written by something else ({type(error).__name__}: {error})") from error


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._made: dict[str, Tensor] = {}

    def decode(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        return _DECODERS[next(iter(node))](self, node)

    def tensor(self, node: Any) -> Tensor:
        name = node["tensor"]
        if name not in self._made:
            value = self.tensors[name]
            value = torch.view_as_complex(value) if node.get("complex") else value
            if order := node.get("order"):
                value = value.permute(sorted(range(len(order)), key=order.__getitem__))
            self._made[name] = value.to(_present(node.get("device", "cpu")))
        return self._made[name]


_DECODERS: dict[str, Callable[[_Decoder, Any], Any]] = {
    "float": lambda it, node: float(node["float"]),
    "floats": lambda it, node: it.tensors[node["floats"]].tolist(),
    "ints": lambda it, node: it.tensors[node["ints"]].tolist(),
    "tuple": lambda it, node: tuple(it.decode(node["tuple"])),
    "dict": lambda it, node: {key: it.decode(value) for key, value in node["dict"].items()},
    "pairs": lambda it, node: {it.decode(key): it.decode(value) for key, value in node["pairs"]},
    "counter": lambda it, node: Counter(it.decode(node["counter"])),
    "array": lambda it, node: it.tensors[node["array"]].numpy(),
    "tensor": _Decoder.tensor,
}


def _order(value: Tensor) -> list[int]:
    """Dimensions from the widest stride to the narrowest: a transposed or channels-last tensor stays so."""
    return sorted(range(value.ndim), key=lambda dim: (-value.stride(dim) if value.numel() else 0, dim))


def _present(device: str) -> torch.device:
    wanted = torch.device(device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        return torch.device("cpu")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        return torch.device("cpu")
    return wanted


def write_file(path: Path, head: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write a file whole or not at all.

    Args:
        head: JSON.
        tensors: contiguous, on the CPU, sharing no memory.

    Raises:
        CheckpointError: the folder or disk does not take it; the file that was there is untouched.
    """
    text = json.dumps(head, allow_nan=False)
    metadata = {_KEY: text, _DIGEST: digest(text, tensors)}
    try:
        with whole_file(path) as temporary:
            save_file(dict(tensors), temporary, metadata)
    except (OSError, SafetensorError) as error:
        pass_on(error)
        raise CheckpointError(
            f"cannot write the checkpoint {path} ({reason(error)}): free some space or choose another place; "
            "the checkpoint that was there before, if any, is untouched"
        ) from error


def read_file(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The JSON and the tensors of a file.

    Raises:
        CheckpointError: it is missing, another kind of file, or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}: `run.save(path)` writes one")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise CheckpointError(f"{path} holds tensors, but was not written by run.save()")
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if digest(metadata[_KEY], tensors) != metadata.get(_DIGEST):
            raise CheckpointError(f"{path} is damaged (its checksum is wrong): use an older checkpoint")
        return json.loads(metadata[_KEY]), tensors
    except SafetensorError as error:
        pass_on(error)
        raise CheckpointError(f"{path} is not a checkpoint, or it is cut off or damaged ({reason(error)})") from error
    except (OSError, ValueError) as error:
        pass_on(error)
        raise CheckpointError(f"cannot read the checkpoint {path} ({reason(error)})") from error


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the JSON and, in order of name, every tensor's name, dtype, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
