"""Find the networks of a script: from each optimizer's parameters to the modules that own them.

Live modules and optimizers are searched with the garbage collector when an optimizer steps for the first time. Names of
variables are used for labels only.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.shell.hooks.module_tree import modules_in, parameters_in
from homeostat.shell.hooks.torch_internals import LOSS_MODULE, WRAPPED, children_of, own_parameters
from homeostat.shell.hooks.wrappers import live, unwrap


@dataclass(eq=False)
class Found:
    """One network and the optimizers that train it.

    Args:
        label: short name ("actor", "critic", "model"), unique among the networks found together.
        model: the module whose parameters are trained.
        optimizers: every optimizer that holds some of them.
        compiled: torch.compile runs the module, so hooks on its parts may not fire.
    """

    label: str
    model: nn.Module
    optimizers: list[Optimizer]
    compiled: bool = False


class Loose:
    """Parameters that an optimizer holds and that no live module owns. Keeps none of them alive.

    Args:
        optimizer: the optimizer, at its first step.
        parameters: these parameters.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer, self._kind, self.count = weakref.ref(optimizer), type(optimizer).__name__, len(parameters)
        self._idle = [weakref.ref(p) for p in parameters if p.grad is None]

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer, None when the script has let it go."""
        return self._optimizer()

    def named(self, count: int | None = None) -> str:
        """How many they are, or so many of them, and of which optimizer."""
        count = self.count if count is None else count
        return f"{count} parameter{'s' if count != 1 else ''} of {self._kind}"

    def stale(self) -> str:
        """Those without a gradient now as at the first step, as `named` gives them; "" when there is none."""
        idle = sum(p.grad is None for ref in self._idle if (p := ref()) is not None)
        return self.named(idle) if idle else ""


@dataclass(eq=False)
class Discovery:
    """The result of a search.

    Args:
        networks: the networks found.
        loose: the parameters of optimizers that no live module owns.
        losses: the live loss modules.
    """

    networks: list[Found] = field(default_factory=list)
    loose: list[Loose] = field(default_factory=list)
    losses: list[nn.Module] = field(default_factory=list)


def discover_networks(extra: Iterable[Optimizer] = ()) -> Discovery:
    """Find every live optimizer's networks.

    Args:
        extra: optimizers to include even if the garbage collector does not list them.
    """
    extra = list(extra)
    found, doubtful = _search(extra)
    if doubtful:  # deleted copies and optimizers in reference cycles do not count
        del found
        gc.collect()
        found, _ = _search(extra)
    return found


def _search(extra: Iterable[Optimizer]) -> tuple[Discovery, bool]:
    """What is found among all objects, and whether garbage that is not yet collected could have changed it."""
    modules, optimizers = _live(extra)
    family = _Family(modules)
    result = Discovery(losses=[m for m in modules if isinstance(m, LOSS_MODULE)])
    by_model: dict[int, Found] = {}
    for optimizer in optimizers:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        if unowned := [p for p in held if id(p) not in family.owners]:
            result.loose.append(Loose(optimizer, unowned))
        replaced = any(p.grad is None for p in unowned)
        for root in family.roots({id(p) for p in held if id(p) in family.owners}, replaced):
            model, compiled = unwrap(root)
            found = by_model.setdefault(id(model), Found(family.label(root), model, [], compiled))
            found.optimizers.append(optimizer)
    result.networks = list(by_model.values())
    _make_unique(result.networks)
    return result, family.doubtful or any(len(one.optimizers) > 1 for one in result.networks)


def _live(extra: Iterable[Optimizer]) -> tuple[list[nn.Module], list[Optimizer]]:
    optimizers = {id(o): o for o in extra}
    found = live(nn.Module, Optimizer)
    optimizers |= {id(o): o for o in found if isinstance(o, Optimizer) and id(o) not in optimizers}
    return [m for m in found if not isinstance(m, Optimizer)], list(optimizers.values())


class _Family:
    """The parents of the live modules and the owners of their parameters.

    Attributes:
        doubtful: whether a network was chosen among several that fit.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.doubtful = False
        self.parents: dict[int, list[tuple[str, nn.Module]]] = {}
        self.owners: dict[int, list[nn.Module]] = {}
        for module in modules:
            for name, child in children_of(module).items():
                if child is not None:
                    self.parents.setdefault(id(child), []).append((name, module))
            for parameter in own_parameters(module).values():
                if parameter is not None:
                    self.owners.setdefault(id(parameter), []).append(module)

    def roots(self, owned: set[int], replaced: bool) -> list[nn.Module]:
        """The networks of an optimizer that holds these parameters.

        Args:
            owned: ids of the parameters that have an owner.
            replaced: it also holds some without owner and gradient: layers were replaced after it was built, and the
                network is the smallest module with parameters that it does not hold.
        """
        above: dict[int, nn.Module] = {}
        for parameter in owned:
            for owner in self.owners[parameter]:
                self._climb(owner, above)
        trainable = {key: _trainable(module) for key, module in above.items()}
        whole = [m for key, m in above.items() if owned <= {id(p) for p in parameters_in(m)}]
        pure = [m for m in whole if trainable[id(m)] <= owned]
        mixed = [m for m in whole if not trainable[id(m)] <= owned]
        if len(whole) > 1 or mixed:
            self.doubtful = True
        if pure and not (replaced and mixed):
            return [max(pure, key=_size)]
        if mixed:
            return [min(mixed, key=_size)]
        return self._cover(owned, above, trainable)

    def _climb(self, module: nn.Module, above: dict[int, nn.Module]) -> None:
        if id(module) in above:
            return
        above[id(module)] = module
        for _, parent in self.parents.get(id(module), ()):
            self._climb(parent, above)

    def _cover(self, owned: set[int], above: dict[int, nn.Module], trainable: dict[int, set[int]]) -> list[nn.Module]:
        """If no module holds all parameters: the largest modules that hold only parameters of this optimizer."""
        chosen: list[nn.Module] = []
        left = set(owned)
        candidates = [m for key, m in above.items() if trainable[key] and trainable[key] <= owned]
        self.doubtful |= len({frozenset(trainable[id(m)]) for m in candidates}) < len(candidates)
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
            if type(here).__name__ not in WRAPPED:
                path.append(name)
        if path:
            return ".".join(reversed(path))
        inner, _ = unwrap(module)
        main = getattr(sys.modules.get("__main__"), "__dict__", {})
        names = [n for n, v in list(main.items()) if (v is module or v is inner) and not n.startswith("_")]
        return names[0] if names else type(inner).__name__.lower()


def _size(module: nn.Module) -> int:
    return sum(1 for _ in modules_in(module))


def _trainable(module: nn.Module) -> set[int]:
    return {id(p) for p in parameters_in(module) if p.requires_grad}


def _make_unique(networks: list[Found]) -> None:
    counts: dict[str, int] = {}
    for network in networks:
        counts[network.label] = counts.get(network.label, 0) + 1
        if counts[network.label] > 1:
            network.label = f"{network.label}-{counts[network.label]}"
