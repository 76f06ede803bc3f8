"""Continual backprop against a slow, obvious restatement: plain loops, index lists, float64 scalars.

Compared with the authors' code (shibhansh/loss-of-plasticity) while writing this:
- lop/algos/gnt.py, which their MNIST experiments use: ages first, then utilities; Adam-style correction by
  1 - decay^age of utility and mean activation; mature is age > threshold; the utility of replaced units starts at 0;
  bias 0. Same here. The line that folds the mean activation into the next bias adds nothing there, because the mean of
  a replaced unit has been set to 0 before; `fold=False`, the default, is the same.
- Differences: they clear a per-element step count of their own Adam, torch's Adam has one per tensor, which stays; they
  go layer by layer, so that a weight between two replaced units ends up fresh - here it ends up zero; they draw with
  the Kaiming bound, here with the layer's own initial distribution; per-position utilities after a flatten are replaced
  by one utility per channel; the count is accumulated (their option `accumulate`), never drawn.
- lop/algos/cbp_linear.py and cbp_conv.py (transformers, ResNets): utility of the last batch only
  (`decay_rate=0`), norm scale 1 and shift 0, running mean 0 and variance 1. Same here.
- The default utility in all of them, and in Algorithm 1 of the Nature paper, is |h| * |w_out|, not |h - mean|.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from homeostat.core.component import Knob
from homeostat.core.random import Draw
from homeostat.testing.grid import Case, group
from homeostat.testing.mini_run import Bench
from homeostat.treatments import ContinualBackprop

WIDE = Case(
    "oracle mlp",
    lambda: nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)),
    (group("0", 12, "2"), group("2", 9, "4")),
    {"0": "1", "2": "3"},
    dtype=torch.float64,
)
CONV = Case(
    "oracle conv",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 3)),
    (group("0", 4, "3", positions=9), group("3", 6, "5")),
    {"0": "1", "3": "4"},
    inputs=(1, 5, 5),
    dtype=torch.float64,
)


class Plain:
    """The oracle: the same network and optimizer, and continual backprop written as loops over indices."""

    def __init__(self, case: Case, adam: bool, settings: dict) -> None:
        self.case, self.cbp, self.settings = case, [], settings
        self.model = case.build(0)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(parameters, 1e-2) if adam else torch.optim.SGD(parameters, 0.05, momentum=0.9)
        self.units = {g.layer: [{"u": 0.0, "f": 0.0, "a": 0} for _ in range(g.width)] for g in case.groups}
        self.due = {g.layer: 0.0 for g in case.groups}
        self.replaced = 0

    def step(self, step: int) -> None:
        inputs, targets = self.case.data(step)
        self.optimizer.zero_grad()
        activations, x = {}, inputs
        taps = {tap: layer for layer, tap in self.case.taps.items()}
        for name, module in self.model.named_children():
            x = module(x)
            if name in taps:
                activations[taps[name]] = x.detach()
        F.cross_entropy(x, targets).backward()
        self.optimizer.step()
        with torch.no_grad():
            chosen = {g.layer: self.choose(g.layer, self.consumer(g), activations[g.layer]) for g in self.case.groups}
            self.replace(chosen, step)

    def consumer(self, g) -> str:
        return g.columns[0].name.removesuffix(".weight")

    def columns(self, layer: str, consumer: str, i: int) -> list[int]:
        per = self.model.get_parameter(f"{consumer}.weight").shape[1] // len(self.units[layer])
        return list(range(i * per, (i + 1) * per))

    def choose(self, layer: str, consumer: str, acts: torch.Tensor) -> list[tuple[int, float]]:
        eta, threshold = self.settings["decay_rate"], self.settings["maturity_threshold"]
        w_in = self.model.get_parameter(f"{layer}.weight").flatten(1).tolist()
        w_out = self.model.get_parameter(f"{consumer}.weight").tolist()
        score, mature = {}, []
        for i, unit in enumerate(self.units[layer]):
            h = acts[:, i].flatten().tolist()
            unit["a"] += 1
            right = 1 - eta ** unit["a"]
            unit["f"] = eta * unit["f"] + (1 - eta) * sum(h) / len(h)
            centre = 0.0 if self.settings["utility"] == "contribution" else unit["f"] / right
            out = sum(abs(row[c]) for row in w_out for c in self.columns(layer, consumer, i))
            y = sum(abs(v - centre) for v in h) / len(h) * out
            if self.settings["utility"] == "adaptable":
                y /= sum(abs(w) for w in w_in[i])
            unit["u"] = eta * unit["u"] + (1 - eta) * y
            score[i] = unit["u"] / right
            if unit["a"] > threshold:
                mature.append(i)
        self.due[layer] += self.settings["replacement_rate"] * len(mature)
        count = math.floor(self.due[layer])
        self.due[layer] -= count
        lowest = sorted(mature, key=lambda i: (score[i], i))[:count]
        means = [(i, self.units[layer][i]["f"] / (1 - eta ** self.units[layer][i]["a"])) for i in lowest]
        for i in lowest:
            self.units[layer][i] = {"u": 0.0, "f": 0.0, "a": 0}
        self.replaced += len(lowest)
        return means

    def replace(self, chosen: dict[str, list[tuple[int, float]]], step: int) -> None:
        consumers = {g.layer: self.consumer(g) for g in self.case.groups}
        parameter = self.model.get_parameter
        if self.settings["fold"]:
            added = {}
            for layer, units in chosen.items():
                out = parameter(f"{consumers[layer]}.weight")
                for i, mean in units:
                    for k in range(len(out)):
                        total = mean * sum(float(out[k, c]) for c in self.columns(layer, consumers[layer], i))
                        added[consumers[layer], k] = added.get((consumers[layer], k), 0.0) + total
            for (consumer, k), value in added.items():
                parameter(f"{consumer}.bias")[k] += value
        draw = Draw(0, ("continual-backprop", step))
        for layer, units in ((layer, units) for layer, units in chosen.items() if units):
            weight, bias = parameter(f"{layer}.weight"), parameter(f"{layer}.bias")
            bound = 1 / math.sqrt(weight[0].numel())
            fresh = (2 * draw.uniform(f"{layer}.weight", weight) - 1) * bound
            for i, _ in units:
                weight[i], bias[i] = fresh[i], 0.0
                self.forget(weight, (i,))
                self.forget(bias, (i,))
        for layer, units in chosen.items():
            out = parameter(f"{consumers[layer]}.weight")
            for i, _ in units:
                for c in self.columns(layer, consumers[layer], i):
                    out[:, c] = 0.0
                    self.forget(out, (slice(None), c))

    def forget(self, parameter: torch.Tensor, where: tuple) -> None:
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if key in self.optimizer.state[parameter]:
                self.optimizer.state[parameter][key][where] = 0.0


@pytest.mark.oracle("continual-backprop")
@pytest.mark.parametrize("adam", [True, False], ids=["adam", "sgd"])
@pytest.mark.parametrize(
    ("case", "utility", "fold", "steps"),
    [(WIDE, "contribution", False, 300), (WIDE, "adaptable", False, 120), (CONV, "mean-corrected", True, 120)],
    ids=["mlp", "mlp adaptable", "conv, flatten, linear"],
)
def test_equals_the_loops_step_by_step(case: Case, utility: str, fold: bool, steps: int, adam: bool):
    settings = {
        "replacement_rate": 0.013, "decay_rate": 0.9, "maturity_threshold": 12, "utility": utility, "fold": fold,
    }  # fmt: skip
    bench, plain = Bench(case, ContinualBackprop(**settings), adam), Plain(case, adam, settings)
    for step in range(1, steps + 1):
        bench.train(1)
        plain.step(step)
        if step % 20 == 0 or step == steps:
            for name, value in plain.model.named_parameters():
                torch.testing.assert_close(
                    bench.model.get_parameter(name), value, rtol=1e-9, atol=1e-11, msg=f"{name} {step}"
                )
            for layer, units in plain.units.items():
                ages = torch.tensor([unit["a"] for unit in units], dtype=torch.float64)
                assert torch.equal(bench.state[f"{layer}/age"], ages)
    assert plain.replaced >= steps / 12


def test_the_rate_is_kept_over_many_steps():
    """About rate * mature units per step, over a long run; the part below one unit is never lost."""
    bench = Bench(WIDE, ContinualBackprop(replacement_rate=0.01, maturity_threshold=0, decay_rate=0.5))
    resets = sum(
        int(e.units.sum()) for event in bench.train(250) for e in event.edits if getattr(e, "units", None) is not None
    )
    left = sum(float(bench.state[f"{layer}/due"]) for layer in ("0", "2"))
    assert resets + left == pytest.approx(0.01 * 250 * (12 + 9), rel=1e-6)


def test_a_layer_that_did_not_run_keeps_its_statistics():
    bench = Bench(WIDE, ContinualBackprop(replacement_rate=0.5, maturity_threshold=0))
    bench.train(3)
    view = bench.view()
    partly = type(view)(**{**vars(view), "activations": {"2": view.activations["2"]}})
    assert bench.treatment is not None
    _, state = bench.treatment.plan(partly, bench.state, bench.knobs)
    assert torch.equal(state["0/age"], bench.state["0/age"])
    assert not torch.equal(state["2/utility"], bench.state["2/utility"])


def test_default_settings_are_the_papers():
    specs = ContinualBackprop.knob_specs()
    assert isinstance(specs["replacement_rate"], Knob)
    assert specs["replacement_rate"].neutral == 0.0
    settings = ContinualBackprop().settings()
    assert (settings["replacement_rate"], settings["decay_rate"], settings["maturity_threshold"]) == (1e-4, 0.99, 100)
    assert settings["fold"] is False


def test_random_replacement_chooses_uniformly_among_mature_units():
    """The rank of a replaced unit's age among the mature ages is uniform: young units are not preferred."""
    width, steps, threshold = 40, 600, 20
    case = Case(
        "oracle random",
        lambda: nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)),
        (group("0", width, "2"),),
        {"0": "1"},
        inputs=(3,),
    )
    bench = Bench(case, ContinualBackprop(replacement_rate=0.02, maturity_threshold=threshold, utility="random"))
    ranks = []
    for _ in range(steps):
        ages = bench.state["0/age"] + 1
        bench.train(1)
        mature = ages[ages > threshold]
        for age in ages[bench.state["0/age"] == 0]:
            below, equal = (mature < age).sum(), (mature == age).sum()
            ranks.append(float((below + equal / 2) / len(mature)))
    assert len(ranks) > 300
    error = math.sqrt(1 / 12 / len(ranks))
    assert sum(ranks) / len(ranks) == pytest.approx(0.5, abs=4 * error)
