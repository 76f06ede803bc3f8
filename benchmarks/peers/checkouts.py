"""Methods that are not packaged, run from a user's checkout: `--checkout NAME=FOLDER`.

This repository contains none of their code; without a checkout they are skipped.
"""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .method import EVERY, Method, Treated
from .nets import Net

FOLDERS: dict[str, Path] = {}
COMMITS: dict[str, str] = {}


class Checkout(Method):
    """A method of a repository that is not packaged.

    Attributes:
        name: of the checkout on the command line.
        repository: where it comes from.
        path: what has to be on the import path, inside the checkout.
    """

    name: ClassVar[str]
    repository: ClassVar[str]

    @property
    def origin(self) -> str:
        return f"{self.repository}, from a checkout of commit {commit(self.name)}"

    def load(self, module: str) -> Any:
        """One of its modules."""
        folder = str(FOLDERS[self.name])
        if folder not in sys.path:
            sys.path.insert(0, folder)
        return import_module(module)


def commit(name: str) -> str:
    """Commit of a checkout: as given on the command line, else as git says."""
    if name not in COMMITS:
        asked = ["git", "-C", str(FOLDERS[name]), "rev-parse", "HEAD"]
        COMMITS[name] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return COMMITS[name][:12]


class LossOfPlasticityLayer(Checkout):
    """Continual backprop as a layer: `CBPLinear` and `CBPConv`, put after each activation as its README says."""

    title = "loss-of-plasticity, layer"
    note = (
        "`CBPLinear` and `CBPConv`, placed by hand as the README shows. The README says that these newer classes are "
        "not as thoroughly tested as the ones behind the paper's results."
    )
    name = "loss-of-plasticity"
    repository = "shibhansh/loss-of-plasticity"
    not_for: ClassVar = {
        "output-layer": "layers and their consumers are named by the user",
        "tied": "layers and their consumers are named by the user",
        "attention": "layers and their consumers are named by the user",
        "branches": "takes one consumer (`out_layer`)",
    }
    by_design: ClassVar = {
        ("no-trace", "hooks"): "its README describes it as a layer of the network, like dropout",
    }
    NORMS: ClassVar = {"bn": "bn_layer", "ln": "ln_layer"}

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        layers = {nn.Linear: "cbp_linear.CBPLinear", nn.Conv2d: "cbp_conv.CBPConv"}
        taps = nn.ModuleDict()
        for layer in net.case.hidden:
            weights = net.model.get_submodule(layer.name)
            module, _, name = layers[type(weights)].partition(".")
            options: dict[str, Any] = {"in_layer": weights, "replacement_rate": 0.02, "maturity_threshold": 8}
            consumer, per = layer.consumers[0]
            options |= {"out_layer": net.model.get_submodule(consumer), "init": "default"}
            if layer.norm:
                options[self.NORMS[layer.norm]] = net.model.get_submodule(layer.norm)
            if name == "CBPConv":
                options["num_last_filter_outputs"] = per
            taps[layer.name] = getattr(self.load(f"lop.algos.{module}"), name)(**options)
        net.model.taps = taps
        optimizer = make(list(net.parameters.values()))
        return Treated(net.model, optimizer, optimizer)


class LossOfPlasticityObject(Checkout):
    """Continual backprop as an object: `GnT` with its own Adam, called after every step, as in its `cbp.py`."""

    title = "loss-of-plasticity, GnT"
    note = (
        "`GnT` (the class behind the paper's feed-forward results) with `AdamGnT`, called after every step as in "
        "`lop/algos/cbp.py`; its moment reset is for that optimizer. It is experiment code and does not claim to be a "
        "library."
    )
    name = "loss-of-plasticity"
    repository = "shibhansh/loss-of-plasticity"
    FORM = "this class takes a list of linear layers and activations in turn"
    not_for: ClassVar = {
        "conv": "this class is for linear layers (the repository has another for convolutions)",
        "branches": FORM,
        "tied": FORM,
        "attention": FORM,
        "norms": FORM,
        "accumulation": "the features are handed to `gen_and_test` by the user, who can join those of micro-batches",
    }

    def make(self, kind: str, parameters: Any) -> torch.optim.Optimizer:
        if kind == "adam":
            return self.load("lop.utils.AdamGnT").AdamGnT(parameters, lr=1e-3)
        return super().make(kind, parameters)

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        weights = [net.model.get_submodule(layer.name) for layer in net.case.hidden]
        weights.append(net.model.get_submodule(net.case.hidden[-1].consumers[0][0]))
        stack = nn.Sequential(*[part for weight in weights for part in (weight, nn.ReLU())][:-1])
        optimizer = make(list(net.parameters.values()))
        gnt = self.load("lop.algos.gnt").GnT(
            stack,
            "relu",
            optimizer,
            init="default",
            decay_rate=0.5,
            replacement_rate=0.02,
            maturity_threshold=8,
            accumulate=True,
        )
        features: list[Tensor] = []

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if len(features) == len(weights) - 1:
                features.clear()
            features.append(F.relu(output.detach()))

        # its networks hand out their features themselves; the harness's hand them out through these hooks
        handles = [weight.register_forward_hook(Note(note)) for weight in weights[:-1]]
        return Treated(
            net.model,
            optimizer,
            optimizer,
            lambda step, inputs: gnt.gen_and_test(list(features)),
            detach=lambda: [handle.remove() for handle in handles],
        )


class Note:
    """A hook of the harness: it does nothing in copies and pickles."""

    def __init__(self, note: Callable[..., None] | None = None) -> None:
        self.note = note

    def __call__(self, *seen: Any) -> None:
        if self.note is not None:
            self.note(*seen)

    def __deepcopy__(self, memo: Any) -> Note:
        return Note()

    def __reduce__(self) -> tuple[Any, ...]:
        return Note, ()


class ReDoDqn(Checkout):
    """ReDo: `run_redo` called every so many steps after the optimizer's, as in its training script."""

    title = "redo"
    note = (
        "`run_redo` on networks whose modules are all linear or convolutional, as its `QNetwork`; written for that DQN "
        "agent and Adam, and it asserts so."
    )
    name = "redo"
    takes_sequential = False
    repository = "timoklein/redo"

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        if "src" not in sys.modules:
            # its folder is named `src`, and its own imports are relative to it
            package = types.ModuleType("src")
            package.__path__ = [str(FOLDERS[self.name] / "src")]
            sys.modules["src"] = package
        module = self.load("src.redo")
        optimizer = make(net.model.parameters())

        def after(step: int, inputs: Tensor) -> None:
            if step % EVERY == 0:
                module.run_redo(inputs, net.model, optimizer, tau=0.01, re_initialize=True, use_lecun_init=False)

        return Treated(net.model, optimizer, optimizer, after)


class Plasticine(Checkout):
    """The operations of a Plasticine agent, called after an optimizer step as its training scripts do."""

    name = "plasticine"
    repository = "RLE-Foundation/Plasticine"

    def agent(self) -> Any:
        """Its PPO agent for continuous control, 6 observations and 4 actions, with every option off."""
        space = types.SimpleNamespace
        envs = space(single_observation_space=space(shape=(6,)), single_action_space=space(shape=(4,)))
        return self.load("plasticine.ppo_continual_dmc_base").PlasticineAgent(envs, Off()).double()


class PlasticineReDo(Plasticine):
    """`plasticine_redo` on an agent whose actor is the network at hand."""

    title = "Plasticine, ReDo"
    note = "`plasticine_redo` of the PPO agent for continuous control; it is given no optimizer."
    OWN = "works on the actor of its own agent, a stack of linear layers"
    not_for: ClassVar = dict.fromkeys(("conv", "branches", "tied", "attention", "norms"), OWN)

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        agent, optimizer = self.agent(), make(net.model.parameters())
        weights = [net.model.get_submodule(layer.name) for layer in net.case.hidden]
        agent.actor_encoder = nn.Sequential(*[part for weight in weights for part in (weight, nn.ReLU())])
        agent.actor = net.model.get_submodule(net.case.hidden[-1].consumers[0][0])

        def after(step: int, inputs: Tensor) -> None:
            if step % EVERY == 0:
                agent.plasticine_redo(inputs, tau=0.01)

        return Treated(net.model, optimizer, optimizer, after)


class PlasticineModules(Plasticine):
    """An operation that puts new modules into the agent; actor and critic are the network, trained by one optimizer."""

    kind = "modules"
    operation: ClassVar[str]

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        agent = self.agent()
        net.model, net.parameters = Actor(agent), dict(agent.named_parameters())
        optimizer = make(agent.parameters())

        def after(step: int, inputs: Tensor) -> None:
            if step == 3:
                getattr(agent, self.operation)()
                agent.double()

        return Treated(net.model, optimizer, optimizer, after)


class Off:
    """Options of an agent, none of them on."""

    def __getattr__(self, name: str) -> bool:
        if name.startswith("__"):
            raise AttributeError(name)
        return False


class Actor(nn.Module):
    """The actor of an agent as a network from observations to actions, its critic's value added to be trained too."""

    def __init__(self, agent: Any) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, inputs: Tensor) -> Tensor:
        return self.agent.actor(self.agent.actor_encoder(inputs)) + self.agent.critic(inputs)


class PlasticineReset(PlasticineModules):
    """`plasticine_reset_layers`."""

    title = "Plasticine, layer reset"
    note = "The optimizer is made once and stays, as in its training scripts."
    operation = "plasticine_reset_layers"


class PlasticineInjection(PlasticineModules):
    """`plasticine_plasticity_injection`."""

    title = "Plasticine, plasticity injection"
    note = (
        "The optimizer is made once and stays, as in its training scripts. Half of the new parameters are meant to "
        "stay fixed."
    )
    operation = "plasticine_plasticity_injection"


METHODS: tuple[type[Checkout], ...] = (
    LossOfPlasticityLayer,
    LossOfPlasticityObject,
    ReDoDqn,
    PlasticineReDo,
    PlasticineReset,
    PlasticineInjection,
)
