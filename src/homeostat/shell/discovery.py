"""Finding the networks of a script that never mentions Homeostat: from each optimizer's parameters to their modules.

Live modules and optimizers are looked up once, with the garbage collector, when an optimizer steps for the first time.
Nothing is decided by variable names or registration order; names are used for labels only.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}


@dataclass(eq=False)
class Found:
    """One network and the optimizers that train it.

    Args:
        label: short name ("actor", "critic", "model"), unique among the networks found together.
        model: the module whose parameters are trained.
        optimizers: every optimizer that holds some of them.
        compiled: the module is run by torch.compile, so hooks on its parts may not fire.
    """

    label: str
    model: nn.Module
    optimizers: list[Optimizer]
    compiled: bool = False


@dataclass(eq=False)
class Discovery:
    """The outcome of one look.

    Args:
        networks: found networks.
        loose: optimizers that hold parameters owned by no live module, with how many.
    """

    networks: list[Found] = field(default_factory=list)
    loose: list[tuple[Optimizer, int]] = field(default_factory=list)


def discover_networks(extra: Iterable[Optimizer] = ()) -> Discovery:
    """Find every live optimizer's networks.

    Args:
        extra: optimizers to include even if the garbage collector does not list them.
    """
    modules, optimizers = _live(extra)
    family = _Family(modules)
    result = Discovery()
    by_model: dict[int, Found] = {}
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        roots, unowned = family.roots(held)
        if unowned:
            result.loose.append((optimizer, unowned))
        for root in roots:
            model, compiled = unwrap(root)
            found = by_model.setdefault(id(model), Found(family.label(root), model, [], compiled))
            found.optimizers.append(optimizer)
    result.networks = list(by_model.values())
    _make_unique(result.networks)
    return result


def unwrap(model: nn.Module) -> tuple[nn.Module, bool]:
    """The module inside torch.compile and data-parallel wrappers, and whether it is compiled."""
    compiled = False
    while (inner := _WRAPPERS.get(type(model).__name__)) and isinstance(getattr(model, inner, None), nn.Module):
        compiled |= inner == "_orig_mod"
        model = getattr(model, inner)
    compiled |= getattr(model, "_compiled_call_impl", None) is not None
    return model, compiled


def _live(extra: Iterable[Optimizer]) -> tuple[list[nn.Module], list[Optimizer]]:
    gc.collect()  # copies that died in reference cycles are not networks
    # type() rather than isinstance(): looking at __class__ of strangers can run their code.
    modules, optimizers = [], {id(o): o for o in extra}
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, nn.Module):
            if "_modules" in thing.__dict__:
                modules.append(thing)
        elif issubclass(kind, Optimizer) and "param_groups" in thing.__dict__:
            optimizers.setdefault(id(thing), thing)
    return modules, list(optimizers.values())


class _Family:
    """Who contains whom among the live modules."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.parents: dict[int, list[tuple[str, nn.Module]]] = {}
        self.owners: dict[int, list[nn.Module]] = {}
        for module in modules:
            for name, child in module._modules.items():
                if child is not None:
                    self.parents.setdefault(id(child), []).append((name, module))
            for parameter in module._parameters.values():
                if parameter is not None:
                    self.owners.setdefault(id(parameter), []).append(module)

    def roots(self, held: set[int]) -> tuple[list[nn.Module], int]:
        """The modules to call networks for an optimizer that holds these parameters, and how many nobody owns."""
        owned = {p for p in held if p in self.owners}
        unowned = len(held) - len(owned)
        above: dict[int, nn.Module] = {}
        for parameter in owned:
            for owner in self.owners[parameter]:
                self._climb(owner, above)
        trainable = {key: _trainable(module) for key, module in above.items()}
        whole = [m for key, m in above.items() if owned <= {id(p) for p in m.parameters()}]
        pure = [m for m in whole if trainable[id(m)] <= owned]
        if pure:
            return [max(pure, key=lambda m: sum(1 for _ in m.modules()))], unowned
        if whole:
            return [min(whole, key=lambda m: sum(1 for _ in m.modules()))], unowned
        return self._cover(owned, above, trainable), unowned

    def _climb(self, module: nn.Module, above: dict[int, nn.Module]) -> None:
        if id(module) in above:
            return
        above[id(module)] = module
        for _, parent in self.parents.get(id(module), ()):
            self._climb(parent, above)

    @staticmethod
    def _cover(owned: set[int], above: dict[int, nn.Module], trainable: dict[int, set[int]]) -> list[nn.Module]:
        """No module holds all: the largest ones that hold only parameters of this optimizer."""
        chosen: list[nn.Module] = []
        left = set(owned)
        candidates = [m for key, m in above.items() if trainable[key] and trainable[key] <= owned]
        for module in sorted(candidates, key=lambda m: -len(trainable[id(m)])):
            if trainable[id(module)] & left:
                chosen.append(module)
                left -= trainable[id(module)]
        return chosen

    def label(self, module: nn.Module) -> str:
        """The path in the outermost container, else the variable name in the main script, else the class name."""
        path: list[str] = []
        here, seen = module, {id(module)}
        while parents := [p for p in self.parents.get(id(here), ()) if id(p[1]) not in seen]:
            name, here = parents[0]
            seen.add(id(here))
            if type(here).__name__ not in _WRAPPERS:
                path.append(name)
        if path:
            return ".".join(reversed(path))
        inner, _ = unwrap(module)
        main = getattr(sys.modules.get("__main__"), "__dict__", {})
        names = [n for n, v in list(main.items()) if (v is module or v is inner) and not n.startswith("_")]
        return names[0] if names else type(inner).__name__.lower()


def _trainable(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters() if p.requires_grad}


def _make_unique(networks: list[Found]) -> None:
    counts: dict[str, int] = {}
    for network in networks:
        counts[network.label] = counts.get(network.label, 0) + 1
        if counts[network.label] > 1:
            network.label = f"{network.label}-{counts[network.label]}"
