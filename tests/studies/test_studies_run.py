"""Every study runs at smoke budget, and is written so that it can fail."""

import math

import pytest
import torch
from grids import part_of

from homeostat.core.component import components
from homeostat.studies.lab.cell import run_cell
from homeostat.studies.lab.harness import run_study
from homeostat.studies.lab.training import ArmSetup, accuracy, condition, hidden, l2, train
from homeostat.studies.papers.plasticity.plasticity_probe import dead, gradient_rank, rank_correlation

STUDIES = components("study")


@pytest.mark.parametrize("name", part_of(STUDIES))
def test_smoke(name, tmp_path):
    verdict = run_study(name, seeds=1, folder=tmp_path, progress=False)
    study = STUDIES[name]()
    assert set(verdict.per_seed["0"]) == set(study.arms)
    assert verdict.verdict == "inconclusive", "one seed can decide nothing"
    assert {m for arm in verdict.arms.values() for m in arm["measures"]}
    treated = list(study.arms)[-1]
    again = run_cell(study, (treated, 0), "smoke")
    assert repr(again.measures) == repr(dict(verdict.per_seed["0"][treated])), "the same seed gave other figures"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_claims_and_names_its_paper(name):
    study = STUDIES[name]
    assert study.claim and study.cite and study.entries and study.arms and study.expectations
    assert set(study.budgets) == {"smoke", "paper"} and study.most_seeds >= 10


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.preconditions])
def test_a_precondition_needs_only_the_arms_that_it_names(name):
    study = STUDIES[name]()
    for precondition in study.preconditions:
        rows = {arm: run_cell(study, (arm, 0), "smoke").measures for arm in precondition.arms}
        assert isinstance(float(precondition.effect(rows)), float)


def test_the_network_is_what_the_setup_says():
    plain = ArmSetup("").network(4, (5, 6), 3)
    assert [type(m).__name__ for m in plain] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    normed = ArmSetup("", layer_norm=True, nonlinearity=torch.nn.Tanh).network(4, (5,), 3)
    assert [type(m).__name__ for m in normed] == ["Linear", "LayerNorm", "Tanh", "Linear"]
    assert normed(torch.rand(2, 4)).shape == (2, 3)


def test_l2_adds_the_gradient_of_strength_times_square():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    weight.grad = torch.zeros(1)
    optimizer = l2("", 0.1).optimizer([weight], lr=0.01)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].item() == pytest.approx(0.1 * (2 * 0.1 * 3.0))


def test_hidden_and_condition_see_dormant_units():
    model = ArmSetup("").network(3, (4,), 2)
    with torch.no_grad():
        model[0].bias[:3] = -1e6
    layers = hidden(model, torch.rand(8, 3))
    assert [tuple(layer.shape) for layer in layers] == [(8, 4)]
    with torch.no_grad():
        model[0].bias[3] = 1.0
    assert condition(model, torch.rand(8, 3))["dormant"] == 0.75
    assert dead(hidden(model, torch.rand(8, 3))[0]).item() == 0.75


def test_training_learns_and_scores_before_it_learns():
    from homeostat.streams import PermutedLabels

    stream = PermutedLabels(tasks=2, epochs=4, items=200)
    torch.manual_seed(0)
    model = ArmSetup("").network(64, (32,), 10)
    scores = train(model, torch.optim.Adam(model.parameters(), lr=3e-3), stream)
    assert len(scores.online) == len(scores.end) == 2 and not scores.diverged
    assert scores.end[1] == accuracy(model, *stream.whole(1)) > scores.online[1]
    assert scores.early("end", 1) == scores.end[0] and scores.late("end", 1) == scores.end[1]


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, math.nan], [1, 8, 27, 0]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert math.isnan(rank_correlation([1, math.nan, math.nan], [1, 2, 3]))


def test_gradient_rank_counts_directions():
    from homeostat.core.random import Draw
    from homeostat.core.snapshot import Probe

    inputs = torch.eye(6)[[0, 0, 1, 1, 2, 2]]
    probe = Probe(
        parameters={"w": torch.zeros(6, 2)},
        inputs=inputs,
        targets=torch.zeros(6, dtype=torch.long),
        outputs=lambda p: inputs @ p["w"],
        loss=lambda p: (inputs @ p["w"]).sum(),
        draw=Draw(0),
    )
    assert gradient_rank(probe).item() == pytest.approx(3, rel=1e-4)
