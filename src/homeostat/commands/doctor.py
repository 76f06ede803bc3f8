"""`homeostat doctor`: checks versions, torch's hooks, optional extras, and a small training run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from homeostat import __version__
from homeostat.record import RunReader, RunRecord
from homeostat.shell.hooks.step_hooks import STEP_HOOKS
from homeostat.shell.launch.auto_attach import AutoAttach
from homeostat.shell.launch.runner import ACTIVE, DISABLE
from homeostat.shell.run.settings import Settings

STEPS = 12
EXTRAS = {
    "jinja2": "the report page (extra: report)",
    "scipy": "studies and their intervals (extra: studies)",
    "scikit-learn": "the digits of the demo and the studies, and `homeostat find` (extras: studies, find)",
    "tensorboard": "--log tensorboard",
    "apprise": "messages with --notify (extra: notify)",
    "pyarrow": "Parquet files of `homeostat export` (extra: parquet)",
    "transformers": "the callback for its Trainer (extra: hf)",
    "stable-baselines3": "the reinforcement learning examples (extra: rl)",
}
BLIND_SPOTS = {
    "steps of anything but a torch.optim.Optimizer": "torch's optimizer-step hook counts steps; subclass Optimizer",
    "activations inside torch.compile": "hooks do not fire reliably; weights, gradients and the loss are measured",
    "processes the script starts": "workers and child processes are not measured; with torchrun, use "
    "torchrun -m homeostat run train.py",
}


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Args:
        what: e.g. "torch", "self-test: layers".
        state: "ok", "missing" (optional, not installed), "blind" (cannot be hooked, by design) or "broken".
        says: the version, the reason, or the observation.
    """

    what: str
    state: Literal["ok", "missing", "blind", "broken"]
    says: str


@dataclass(frozen=True)
class Examination:
    """Results of all checks."""

    checks: tuple[Check, ...]

    @property
    def well(self) -> bool:
        """Whether no required check is broken."""
        return all(check.state != "broken" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"well": self.well, "checks": [asdict(check) for check in self.checks]}


def examine() -> Examination:
    """Run all checks. Trains a tiny network for a few steps; leaves no file and no hook, and restores the seed."""
    return Examination((*_versions(), *_surroundings(), *_hooks(), *_self_test(), *_extras(), *_blind_spots()))


def _versions() -> Iterator[Check]:
    yield Check("homeostat", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ", CPU only"
    yield Check("torch", "ok", f"{torch.__version__}{cuda}, {torch.get_num_threads()} threads")


def _surroundings() -> Iterator[Check]:
    if os.environ.get(DISABLE, "") not in ("", "0"):
        yield Check(DISABLE, "broken", "is set: `homeostat run` runs scripts without Homeostat; unset it")
    if os.environ.get(ACTIVE):
        yield Check(
            ACTIVE, "broken", f"is set: this is a child of process {os.environ[ACTIVE]}, which is already measured"
        )
    terminal = sys.stderr.isatty()
    yield Check("status line", "ok" if terminal else "missing", "stderr is a terminal" if terminal else "no terminal")
    can = os.access(".", os.W_OK)
    yield Check(
        "records", "ok" if can else "missing", "homeostat-runs" if can else "this folder is read-only: --record DIR"
    )


def _hooks() -> Iterator[Check]:
    """Test each hook by letting it fire."""
    for name, attempt in (
        ("optimizer step", _step_hook_fires),
        ("module", _module_hook_fires),
        ("gradient", _gradient_hook_fires),
        ("functional call (probes)", _functional_call_works),
    ):
        try:
            seen = attempt()
            yield Check(f"hook: {name}", "ok" if seen else "broken", "fires" if seen else "did not fire")
        except Exception as error:
            yield Check(f"hook: {name}", "broken", f"{type(error).__name__}: {error}")


def _step_hook_fires() -> bool:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    seen: list[object] = []
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    handle = register_optimizer_step_post_hook(lambda *args: seen.append(args))
    try:
        optimizer.step()
    finally:
        handle.remove()
    return len(seen) == 1


def _module_hook_fires() -> bool:
    seen: list[object] = []
    module = nn.Identity()
    module.register_forward_hook(lambda *args: seen.append(args))
    module(torch.zeros(1))
    return len(seen) == 1


def _gradient_hook_fires() -> bool:
    seen: list[Tensor] = []
    weight = nn.Parameter(torch.ones(1))
    weight.register_post_accumulate_grad_hook(seen.append)
    weight.sum().backward()
    return len(seen) == 1


def _functional_call_works() -> bool:
    module = nn.Linear(2, 1)
    grads = torch.func.grad(lambda p: torch.func.functional_call(module, p, (torch.ones(1, 2),)).sum())
    return set(grads({n: p.detach() for n, p in module.named_parameters()})) == {"weight", "bias"}


def _self_test() -> Iterator[Check]:
    """Follow the path of `homeostat run`: find a small network in training and measure it."""
    settings, record = Settings(every=1, quiet=True), RunRecord.create(None, script="doctor", seed=0)
    auto_attach = AutoAttach(settings, record)
    try:
        with torch.random.fork_rng(devices=[]):
            auto_attach.start()
            try:
                _train(STEPS)
            finally:
                auto_attach.stop()
    except Exception as error:
        yield Check("self-test", "broken", f"{type(error).__name__}: {error}")
        return
    yield from (_judged(name, look, record) for name, look in _LOOKS.items())
    left = STEP_HOOKS.installed
    yield Check("self-test: hooks removed", "broken" if left else "ok", f"{left} left" if left else "all of them")
    yield from (Check(f"self-test: {missing.what}", "blind", missing.why) for missing in record.not_measured())


def _train(steps: int) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        inputs = torch.randn(32, 8)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _judged(name: str, look: Callable[[RunReader], tuple[bool, str]], record: RunReader) -> Check:
    seen, says = look(record)
    return Check(f"self-test: {name}", "ok" if seen else "broken", says)


def _steps_seen(record: RunReader) -> tuple[bool, str]:
    steps = record.meta.steps
    return steps == STEPS, f"{steps} of {STEPS}"


def _layers_seen(record: RunReader) -> tuple[bool, str]:
    layers = record.vitals().get("dormant-units", {})
    return bool(layers), f"dormant units of layer {', '.join(layers)}" if layers else "no layer's units were measured"


def _losses_seen(record: RunReader) -> tuple[bool, str]:
    values = [v for line in record.vitals().get("loss", {}).values() for _, v in line if v is not None]
    return bool(values), f"{len(values)} values" if values else "no loss was measured"


_LOOKS = {"steps": _steps_seen, "layers": _layers_seen, "losses": _losses_seen}


def _extras() -> Iterator[Check]:
    for package, use in EXTRAS.items():
        try:
            yield Check(package, "ok", f"{importlib.metadata.version(package)}, for {use}")
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, "missing", f"not installed; only for {use}")


def _blind_spots() -> Iterator[Check]:
    for what, why in BLIND_SPOTS.items():
        yield Check(what, "blind", why)
