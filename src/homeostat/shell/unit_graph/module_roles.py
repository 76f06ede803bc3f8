"""The role of each module for the tracer: it makes units, is a norm, is opaque, or only computes."""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from homeostat.shell.hooks.module_tree import named_parameters_in
from homeostat.shell.hooks.torch_internals import (
    BATCH_NORM,
    buffers_of,
    children_of,
    is_wrapper_tensor,
    own_parameters,
)
from homeostat.shell.unit_graph.weight_layout import UNIT_AXIS, Layout, layout_of, unit_class


class Role(StrEnum):
    """How the tracer treats a module, or a function call that uses a parameter as a layer does.

    UNITS: one unit per output feature, weight rows make it (Linear, convolutions); its output is pinned.
    RECURRENT: RNN, GRU, LSTM; its output is pinned, unit by unit where it has one layer and one direction.
    NORM: identity while tracing, because its statistics mix units; its parameters may carry units.
    SLOPE: an elementwise activation with parameters (PReLU); computes as it is, its parameters may carry units.
    ATTENTION: nn.MultiheadAttention; computed by `attention.attend`, so that its matrices can be followed.
    OPEN: a leaf with its own parameters that uses them in function calls, which are followed; computes as it is.
    OPAQUE: has parameters whose use cannot be followed; its output is pinned.
    PLAIN: a leaf without parameters; computes as it is.
    CONTAINER: any other; only its children matter.
    """

    UNITS = "units"
    RECURRENT = "recurrent"
    NORM = "norm"
    SLOPE = "slope"
    ATTENTION = "attention"
    OPEN = "open"
    OPAQUE = "opaque"
    PLAIN = "plain"
    CONTAINER = "container"


_NORMS = (BATCH_NORM, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_CLOSED = (nn.RNNCellBase, nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
_NORM_NAME = re.compile(r"(layer|rms|batch|group|instance)_?norm", re.IGNORECASE)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in own_parameters(module).values() if p is not None]


def role_of(module: nn.Module) -> Role:
    """The role of a module, from its class and its own parameters."""
    if unit_class(module) is not None:
        return Role.UNITS
    for role, kinds in _ROLES.items():
        if isinstance(module, kinds):
            return role
    leaf, own = not children_of(module), _own(module)
    if leaf and own and _NORM_NAME.search(type(module).__name__) and all(p.ndim <= 1 for p in own):
        return Role.NORM
    if leaf:
        return Role.OPEN if own else Role.PLAIN
    return Role.CONTAINER


_ROLES: dict[Role, tuple[type[nn.Module], ...]] = {
    Role.NORM: _NORMS,
    Role.SLOPE: (nn.PReLU,),
    Role.RECURRENT: (nn.RNNBase,),
    Role.ATTENTION: (nn.MultiheadAttention,),
    Role.OPAQUE: _CLOSED,
}


@dataclass(frozen=True, eq=False)
class Part:
    """One module of the network with its role, or one parameter that is used as a layer by a function call.

    Args:
        path: its (first) name; for a function call the name of the weight.
        module: the module itself; for a function call the module that has the weight.
        axis: feature axis of input and output, counted from the end (units) or of the input (norms; 1 means dim 1).
        aliases: other names of the same module.
        layout: place of its rows and columns (units and recurrent layers).
        own: names of the parameters of a norm or slope.
        mixes: whether it is a norm whose statistics are shared by several units (not so for batch and instance norm).
        label: its name in messages.
    """

    path: str
    module: nn.Module
    role: Role
    axis: int = -1
    aliases: tuple[str, ...] = ()
    layout: Layout | None = None
    own: tuple[str, ...] = ()
    mixes: bool = False
    label: str = ""

    @property
    def width(self) -> int:
        """Number of its units; 1 if single units are not known."""
        return self.layout.width if self.layout is not None else 1

    @property
    def kind(self) -> str:
        """Class name for messages, without the prefix of torch's parametrized subclasses."""
        return type(self.module).__name__.removeprefix("Parametrized")


def _axis(module: nn.Module, role: Role) -> int:
    base = unit_class(module)
    if base is not None:
        return UNIT_AXIS[base]
    if isinstance(module, nn.LayerNorm):
        return -len(module.normalized_shape)
    if role is Role.SLOPE or isinstance(module, (BATCH_NORM, nn.GroupNorm, nn.LocalResponseNorm)):
        return 1
    return -1


@dataclass(frozen=True, eq=False)
class ModuleRoles:
    """All parts of a network, and the names and users of its parameters.

    Args:
        parts: path -> part.
        parameters: name -> parameter (every name of a shared one).
        claims: id of a parameter -> paths of the parts that use it.
    """

    parts: dict[str, Part]
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    claims: dict[int, set[str]] = field(default_factory=dict)
    _names: dict[int, list[str]] = field(default_factory=dict)

    def of(self, *roles: Role) -> Iterator[Part]:
        """The parts in one of the roles, in order of registration."""
        return (part for part in list(self.parts.values()) if part.role in roles)

    def add(self, part: Part) -> None:
        """Add a part and record which parameters it uses."""
        self.parts[part.path] = part
        for name in {name for name in self.parameters if name.rpartition(".")[0] == part.path} | _used(part):
            if (parameter := self.parameters.get(name)) is not None:
                self.claims.setdefault(id(parameter), set()).add(part.path)

    def refusal(self, name: str, part: Part) -> str | None:
        """The reason why a parameter of a part cannot be edited per unit, or None."""
        parameter, key = self.parameters.get(name), name.rpartition(".")[2]
        if parameter is None or is_parametrized(part.module, key):
            return (
                f"its {key} is computed from other parameters (weight_norm, spectral_norm or another parametrization)"
            )
        if is_wrapper_tensor(parameter):
            return f"its {key} is a {type(parameter).__name__}"
        if not parameter.requires_grad:
            return f"its {key} is frozen"
        others = [n for n in self.names(parameter) if n != name]
        if others:
            return f"its {key} is shared with {', '.join(others)}"
        rivals = {p for p in self.claims.get(id(parameter), ()) if p != part.path and self._elsewhere(p, part, name)}
        return f"its {key} is also used by {', '.join(sorted(map(str, rivals)))}" if rivals else None

    def _elsewhere(self, other: str, part: Part, name: str) -> bool:
        """Whether another part uses the same rows of the parameter (parts of a fused matrix do not)."""
        rival = self.parts.get(other)
        if rival is None or rival.layout is None or part.layout is None:
            return rival is None or rival.role not in (Role.OPEN, Role.ATTENTION, Role.CONTAINER)
        mine, theirs = ([b for b in p.layout.rows if b.name == name] for p in (part, rival) if p.layout is not None)
        return any(a.start < b.start + b.count and b.start < a.start + a.count for a in mine for b in theirs)

    def names(self, parameter: nn.Parameter) -> list[str]:
        """Every name of a parameter."""
        if not self._names:
            for name, known in self.parameters.items():
                self._names.setdefault(id(known), []).append(name)
        return self._names.get(id(parameter), [])

    def row_refusal(self, part: Part) -> str | None:
        """The reason why a part's rows cannot be edited, or None."""
        if part.layout is None:
            return f"{part.kind} cannot be looked into, so its units are not known"
        if part.layout.no_rows:
            return part.layout.no_rows
        return next((why for block in part.layout.rows if (why := self.refusal(block.name, part))), None)


def _used(part: Part) -> set[str]:
    if part.layout is None:
        return set(part.own)
    blocks = (*part.layout.rows, *part.layout.columns)
    return {block.name for block in blocks} | {name for name in part.layout.biases if name is not None}


def module_roles(model: nn.Module) -> ModuleRoles:
    """Assign a role to each module of a network. Children of opaque modules and of layers are not visited."""
    found = ModuleRoles({}, dict(named_parameters_in(model, remove_duplicate=False)))
    _visit("", model, found, {})
    return found


def join(path: str, key: str) -> str:
    """The name of a parameter of the module at a path."""
    return f"{path}.{key}" if path else key


def _visit(path: str, module: nn.Module, found: ModuleRoles, seen: dict[int, str]) -> None:
    if id(module) in seen:
        first = found.parts[seen[id(module)]]
        # other names of the parameters are reported as other names of the module
        found.parts[first.path] = replace(first, aliases=(*first.aliases, path))
        return
    seen[id(module)] = path
    found.add(_part(path, module))
    if found.parts[path].role not in (Role.CONTAINER, Role.PLAIN):
        return
    for name, child in children_of(module).items():
        if child is not None:
            _visit(join(path, name), child, found, seen)


def _part(path: str, module: nn.Module) -> Part:
    role, layout = role_of(module), layout_of(module)
    own = (*own_parameters(module), *buffers_of(module)) if role in (Role.NORM, Role.SLOPE) else ()
    return Part(
        path=path,
        module=module,
        role=role,
        axis=_axis(module, role),
        layout=None if layout is None else layout.renamed(lambda key: join(path, key)),
        own=tuple(join(path, key) for key in own),
        mixes=role is Role.NORM and not isinstance(module, BATCH_NORM),
        label=path,
    )


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
