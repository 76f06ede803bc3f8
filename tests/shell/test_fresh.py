"""Fresh distributions: torch's defaults where they hold, the values found where they do not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from homeostat.core.random import Draw
from homeostat.core.treatment import Fresh
from homeostat.shell.unit_graph.init_distributions import fresh_distributions, norm_parameters


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("make", "scales"),
    [
        (lambda: nn.Linear(20, 30), {"weight": 20**-0.5, "bias": 20**-0.5}),
        (lambda: nn.Linear(3, 1), {"weight": 3**-0.5, "bias": 3**-0.5}),
        (lambda: nn.Conv2d(6, 8, 3, groups=2), {"weight": 27**-0.5, "bias": 27**-0.5}),
        (lambda: nn.ConvTranspose1d(6, 8, 3), {"weight": 24**-0.5, "bias": 24**-0.5}),
        (lambda: nn.GRU(5, 9), dict.fromkeys(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), 1 / 3)),
    ],
)
def test_torch_defaults_are_recognised(make, scales: dict[str, float], seed: int) -> None:
    torch.manual_seed(seed)
    found = fresh_distributions(make())
    assert found.keys() == scales.keys()
    for name, scale in scales.items():
        assert found[name].kind == "uniform" and found[name].mean == 0
        assert found[name].scale == pytest.approx(scale)


def test_embeddings_and_norms() -> None:
    torch.manual_seed(0)
    found = fresh_distributions(nn.Sequential(nn.Embedding(20, 8), nn.LayerNorm(8), nn.BatchNorm1d(8)))
    assert found["0.weight"] == Fresh("normal", 1.0)
    assert found["1.weight"] == found["2.weight"] == Fresh("constant", mean=1.0)
    assert found["1.bias"] == found["2.bias"] == Fresh("constant", mean=0.0)


CUSTOM = {
    "kaiming normal": (lambda w: nn.init.kaiming_normal_(w), "normal", math.sqrt(2 / 40)),
    "kaiming uniform": (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"), "uniform", math.sqrt(6 / 40)),
    "xavier": (lambda w: nn.init.xavier_uniform_(w), "uniform", math.sqrt(6 / 100)),
    "orthogonal": (lambda w: nn.init.orthogonal_(w), "normal", 1 / math.sqrt(60)),
    "small": (lambda w: nn.init.trunc_normal_(w, std=0.02), "normal", 0.02),
    "shifted": (lambda w: nn.init.uniform_(w, 1.0, 2.0), "uniform", 0.5),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_own_initialisation_is_read_off_the_values(name: str) -> None:
    torch.manual_seed(0)
    init, kind, scale = CUSTOM[name]
    layer = nn.Linear(40, 60)
    init(layer.weight)
    nn.init.zeros_(layer.bias)
    found = fresh_distributions(layer)
    assert found["weight"].kind == kind
    assert found["weight"].scale == pytest.approx(scale, rel=0.06)
    assert found["weight"].mean == pytest.approx(1.5 if name == "shifted" else 0.0, abs=0.03)
    assert found["bias"] == Fresh("constant", mean=0.0)
    again = found["weight"].sample(Draw(1), "w", torch.empty(400, 50))
    assert float(again.std()) == pytest.approx(float(layer.weight.detach().std()), rel=0.06)


def test_unknown_modules_odd_values_and_names() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.full((4,), 1e-6))
            self.norm, self.lin = LlamaRMSNorm(), nn.Linear(4, 4)

    model = Scaled()
    model.lin.weight.data[0, 0] = float("nan")
    found = fresh_distributions(model)
    assert found["gamma"].kind == "constant" and found["gamma"].mean == pytest.approx(1e-6)
    assert found["norm.weight"] == Fresh("constant", mean=1.0)
    assert found["lin.weight"] == Fresh("uniform", 0.5)
    assert norm_parameters(model) == {"norm.weight"}
    assert norm_parameters(nn.BatchNorm2d(3)) == {"weight", "bias"}


def test_a_tied_parameter_is_listed_once_under_its_first_name() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    assert list(fresh_distributions(model)) == [n for n, _ in model.named_parameters()]
