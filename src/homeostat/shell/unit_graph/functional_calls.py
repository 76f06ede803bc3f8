"""Functions that use a parameter as a layer does: `F.linear(x, self.w)`, `x @ self.w`, `F.layer_norm(...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from homeostat.shell.hooks.torch_internals import view_base
from homeostat.shell.unit_graph.weight_layout import Layout, convolution, matrix


@dataclass(frozen=True)
class LayerCall:
    """A call that makes units: the input, and the place of its weight.

    Args:
        name: of the weight; for a part of a larger matrix with its rows: "attn.in_proj_weight[16:24]".
        weight: name of the weight.
    """

    name: str
    weight: str
    input: Tensor
    layout: Layout


@dataclass(frozen=True)
class NormCall:
    """A call of a norm whose statistics mix units.

    Args:
        name: of the function.
        own: names of its weight and bias.
        axis: feature axis, as in `Part`.
    """

    name: str
    input: Tensor
    own: tuple[str, ...]
    axis: int


Call = LayerCall | NormCall


class Calls(TorchFunctionMode):
    """While active, hands every call that uses a parameter as a layer, and every norm, to `handle`.

    Args:
        parameters: name -> parameter of the network that runs.
        handle: receives the call and a function that performs it; its result is returned instead.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], handle: Callable[[Call, Callable[[], Any]], Any]
    ) -> None:
        super().__init__()
        self._known = _Known(parameters)
        self._handle = handle

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _READERS.get(func)
        call = None if read is None else read(self._known, *args, **kwargs)
        return func(*args, **kwargs) if call is None else self._handle(call, lambda: func(*args, **kwargs))


@dataclass(frozen=True)
class _View:
    """A range of rows of a matrix parameter, possibly transposed, or a whole parameter of any shape."""

    name: str
    shape: tuple[int, ...]
    start: int
    total: int
    transposed: bool = False

    @property
    def label(self) -> str:
        rows = self.shape[1] if self.transposed else self.shape[0]
        return self.name if rows == self.total else f"{self.name}[{self.start}:{self.start + rows}]"


class _Known:
    """Recognises parameters and the plain views of them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._names: dict[int, str] = {}
        self._keep = list(parameters.values())
        for name, parameter in parameters.items():
            self._names.setdefault(id(parameter), name)

    def name(self, tensor: Any) -> str | None:
        """The name of a whole parameter."""
        return self._names.get(id(tensor)) if isinstance(tensor, nn.Parameter) else None

    def view(self, tensor: Any) -> _View | None:
        """A parameter, some rows of it, or the transpose of either."""
        if not isinstance(tensor, Tensor):
            return None
        if (name := self.name(tensor)) is not None:
            return _View(name, tuple(tensor.shape), 0, tensor.shape[0] if tensor.ndim else 1)
        base = view_base(tensor)
        name = self.name(base)
        if base is None or name is None or base.ndim != tensor.ndim or not base.is_contiguous() or not base.numel():
            return None
        return self._stretch(name, base, tensor)

    def _stretch(self, name: str, base: Tensor, tensor: Tensor) -> _View | None:
        inner = base[0].numel()
        start, rest = divmod(int(tensor.storage_offset()) - int(base.storage_offset()), inner)
        for transposed, like in ((False, tensor), (True, tensor.mT if tensor.ndim == 2 else None)):
            if like is not None and rest == 0 and like.stride() == base.stride() and like.shape[1:] == base.shape[1:]:
                return _View(name, tuple(tensor.shape), start, base.shape[0], transposed)
        return None


def _product(known: _Known, x: Any, weight: Any, bias: Any = None, by_rows: bool = True) -> LayerCall | None:
    """`by_rows`: weight is [out, in]; else [in, out]."""
    seen = known.view(weight)
    if seen is None or len(seen.shape) != 2 or not isinstance(x, Tensor) or known.view(x) is not None:
        return None
    out, inputs = seen.shape if by_rows else seen.shape[::-1]
    stored_by_rows = by_rows != seen.transposed
    if not stored_by_rows and seen.total != inputs:
        return None
    bias_view = known.view(bias)
    extra = {} if bias_view is None else {"bias_start": bias_view.start, "bias_total": bias_view.total}
    rows = {"start": seen.start, "total": seen.total} if stored_by_rows else {}
    name = None if bias_view is None else bias_view.name
    layout = matrix(seen.name, (out, inputs), name, transposed=not stored_by_rows, **rows, **extra)
    return LayerCall(seen.label, seen.name, x, layout)


def _linear(known: _Known, input: Any, weight: Any, bias: Any = None) -> LayerCall | None:
    return _product(known, input, weight, bias)


def _matmul(known: _Known, input: Any, other: Any = None, **kwargs: Any) -> LayerCall | None:
    return _product(known, input, kwargs.get("mat2", other), by_rows=False)


def _addmm(known: _Known, bias: Any, x: Any = None, weight: Any = None, **kwargs: Any) -> LayerCall | None:
    scaled = any(kwargs.get(key, 1) != 1 for key in ("alpha", "beta"))
    return None if scaled or set(kwargs) - {"alpha", "beta"} else _product(known, x, weight, bias, by_rows=False)


def _conv(axis: int) -> Callable[..., LayerCall | None]:
    def read(
        known: _Known, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> LayerCall | None:  # fmt: skip
        name = known.name(weight)
        if name is None:
            return None
        layout = convolution(name, weight.shape[0], weight.shape[1] * groups, groups, axis, known.name(bias))
        return LayerCall(name, name, input, layout)

    return read


def _norm(name: str, axis: int | None = None) -> Callable[..., NormCall]:
    def read(known: _Known, input: Any, shape: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Any:
        own = tuple(n for n in (known.name(weight), known.name(bias)) if n is not None)
        return NormCall(name, input, own, axis if axis is not None else -len(shape))

    return read


_READERS: dict[Any, Callable[..., Call | None]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    F.conv1d: _conv(-2),
    F.conv2d: _conv(-3),
    F.conv3d: _conv(-4),
    F.layer_norm: _norm("layer_norm"),
    F.rms_norm: _norm("rms_norm"),
    F.group_norm: _norm("group_norm", 1),
}
