"""Every registered treatment keeps the laws, but for what it declares."""

import io

import pytest
import torch
from safetensors.torch import load, save

from homeostat.core.component import components
from homeostat.testing.bench import Bench, same, trial_of
from homeostat.testing.check import check_component
from homeostat.testing.grid import MLP, suited
from homeostat.testing.two_processes import continued_elsewhere

TREATMENTS = {n: c for n, c in components("treatment").items() if c.__module__.startswith("homeostat.")}


@pytest.mark.parametrize("name", TREATMENTS)
def test_laws(name: str):
    report = check_component(TREATMENTS[name])
    assert report.ok, str(report)
    assert set(report.declared) == set(TREATMENTS[name].declared)


def test_every_treatment_resumes_in_another_process():
    treatments = [trial_of(cls()) for cls in TREATMENTS.values()]
    outcome = dict(zip(TREATMENTS, continued_elsewhere(treatments), strict=True))
    assert {name: wrong for name, wrong in outcome.items() if wrong} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TREATMENTS)
def test_laws_thoroughly(name: str):
    report = check_component(TREATMENTS[name], thorough=True)
    assert report.ok, str(report)


@pytest.mark.parametrize("name", TREATMENTS)
def test_state_survives_safetensors(name: str):
    treatment = trial_of(TREATMENTS[name]())
    bench = Bench(suited(MLP, treatment), treatment)
    bench.train(9)
    assert not same(load(save(bench.state)), bench.state)
    torch.save(bench.state, io.BytesIO())
