"""What each module is to the tracer: a producer of units, a norm, something opaque, or plain computation."""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class Role(StrEnum):
    """How the tracer treats a module.

    UNITS: one unit per output feature, weight rows make it (Linear, Conv1d/2d/3d); its output is pinned.
    NORM: identity while tracing, because its statistics mix units; its parameters may carry units.
    SLOPE: an elementwise activation with parameters (PReLU); computes as it is, its parameters may carry units.
    OPAQUE: has parameters and cannot be looked into; its output is pinned.
    PLAIN: a leaf without parameters; computes as it is.
    CONTAINER: everything else; only its children matter.
    """

    UNITS = "units"
    NORM = "norm"
    SLOPE = "slope"
    OPAQUE = "opaque"
    PLAIN = "plain"
    CONTAINER = "container"


_UNIT_AXIS = {nn.Linear: -1, nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4}
_BATCH_NORMS = (nn.modules.batchnorm._NormBase,)
_NORMS = (*_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_CLOSED = (nn.RNNBase, nn.MultiheadAttention, nn.RNNCellBase)
_NORM_NAME = re.compile(r"(layer|rms|batch|group|instance)_?norm", re.IGNORECASE)


def _unit_class(module: nn.Module) -> type[nn.Module] | None:
    for base in _UNIT_AXIS:
        if isinstance(module, base) and type(module).forward is base.forward:
            conv = getattr(base, "_conv_forward", None)
            return base if getattr(type(module), "_conv_forward", None) is conv else None
    return None


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module._parameters.values() if p is not None]


def role_of(module: nn.Module) -> Role:
    """The role of a module, from its class and its own parameters."""
    if _unit_class(module) is not None:
        return Role.UNITS
    if isinstance(module, _NORMS):
        return Role.NORM
    if isinstance(module, nn.PReLU):
        return Role.SLOPE
    if isinstance(module, _CLOSED):
        return Role.OPAQUE
    leaf, own = not module._modules, _own(module)
    if leaf and own and _NORM_NAME.search(type(module).__name__) and all(p.ndim <= 1 for p in own):
        return Role.NORM
    if leaf:
        return Role.OPAQUE if own else Role.PLAIN
    return Role.CONTAINER


@dataclass(frozen=True, eq=False)
class Part:
    """One module of the network with its role.

    Args:
        path: its (first) name.
        axis: feature axis of input and output, counted from the end (units) or of the input (norms; 1 means dim 1).
        aliases: other names of the same module.
    """

    path: str
    module: nn.Module
    role: Role
    axis: int = -1
    aliases: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of units made (Role.UNITS only)."""
        return int(getattr(self.module, "out_features", 0) or getattr(self.module, "out_channels", 0))

    @property
    def kind(self) -> str:
        """Class name for messages, without the prefix of torch's parametrized subclasses."""
        return type(self.module).__name__.removeprefix("Parametrized")

    @property
    def grouped(self) -> bool:
        """A convolution in which an input channel reaches only some of the outputs."""
        return int(getattr(self.module, "groups", 1)) > 1 and self.role is Role.UNITS

    @property
    def mixes(self) -> bool:
        """A norm whose statistics are shared by several units (not so for batch and instance norm)."""
        return self.role is Role.NORM and not isinstance(self.module, _BATCH_NORMS)


def _axis(module: nn.Module, role: Role) -> int:
    base = _unit_class(module)
    if base is not None:
        return _UNIT_AXIS[base]
    if isinstance(module, nn.LayerNorm):
        return -len(module.normalized_shape)
    if role is Role.SLOPE or isinstance(module, (*_BATCH_NORMS, nn.GroupNorm, nn.LocalResponseNorm)):
        return 1
    return -1


@dataclass(frozen=True, eq=False)
class Anatomy:
    """All parts of a network, and which parameters have several names."""

    parts: dict[str, Part]
    names: dict[int, list[str]] = field(default_factory=dict)

    def of(self, *roles: Role) -> Iterator[Part]:
        """The parts in one of the roles, in order of registration."""
        return (part for part in self.parts.values() if part.role in roles)

    def trouble(self, part: Part, key: str) -> str | None:
        """Why a parameter of a part cannot be edited per unit, or None when it can."""
        parameter = part.module._parameters.get(key)
        if parameter is None or is_parametrized(part.module, key):
            return (
                f"its {key} is computed from other parameters (weight_norm, spectral_norm or another parametrization)"
            )
        if is_traceable_wrapper_subclass(parameter):
            return f"its {key} is a {type(parameter).__name__}"
        others = [n for n in self.names[id(parameter)] if n != f"{part.path}.{key}".lstrip(".")]
        if others:
            return f"its {key} is shared with {', '.join(others)}"
        return None if parameter.requires_grad else f"its {key} is frozen"

    def producer_trouble(self, part: Part) -> str | None:
        """Why a part's rows cannot be edited, or None."""
        keys = ["weight"] if getattr(part.module, "bias", None) is None else ["weight", "bias"]
        return next((why for key in keys if (why := self.trouble(part, key))), None)


def anatomy(model: nn.Module) -> Anatomy:
    """Sort the modules of a network into roles. What is inside an opaque or unit-making module is not visited."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    parts: dict[str, Part] = {}
    seen: dict[int, str] = {}
    _visit("", model, parts, seen)
    return Anatomy(parts, names)


def _visit(path: str, module: nn.Module, parts: dict[str, Part], seen: dict[int, str]) -> None:
    if id(module) in seen:
        first = parts[seen[id(module)]]
        parts[first.path] = Part(first.path, module, first.role, first.axis, (*first.aliases, path))
        return
    role = role_of(module)
    seen[id(module)] = path
    parts[path] = Part(path, module, role, _axis(module, role))
    if role not in (Role.CONTAINER, Role.PLAIN):
        return
    for name, child in module._modules.items():
        if child is not None:
            _visit(f"{path}.{name}" if path else name, child, parts, seen)


def tensors_in(value: object, depth: int = 4) -> list[Tensor]:
    """Every tensor in a nested value: mappings, sequences, dataclasses and other plain objects."""
    if isinstance(value, Tensor):
        return [value]
    if depth == 0 or isinstance(value, (str, bytes, int, float, complex, type, nn.Module)) or value is None:
        return []
    if isinstance(value, (Mapping, UserDict)):
        inner: list[object] = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = list(value)
    else:
        inner = list(getattr(value, "__dict__", {}).values())
    return [tensor for item in inner for tensor in tensors_in(item, depth - 1)]
