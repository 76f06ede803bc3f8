"""What the study of GraNet measures is what it says."""

import pytest

from homeostat.studies.lab.cell import run_cells
from homeostat.studies.papers.plasticity.granet import _ARMS, GraNetStudy


def test_pruning_ends_at_half_of_the_training_and_the_exchange_with_the_arm():
    assert _ARMS["dense"].treatments(1000) == ()
    (whole,), (early,) = _ARMS["GraNet"].treatments(1000), _ARMS["GraNet, early"].treatments(1000)
    assert (whole.every, whole.end, whole.horizon, whole.sparsity) == (100, 500, 1000, 0.98)
    assert (early.every, early.end, early.horizon) == (100, 500, 500)
    (pruned,) = _ARMS["no regrowth"].treatments(1000)
    assert pruned.regrow == 0.0 and pruned.every == 16


def test_seeds_trained_together_are_those_trained_alone():
    study = GraNetStudy()
    both = [one.measures for one in run_cells(study, "GraNet", [3, 4], "smoke")]
    alone = [run_cells(study, "GraNet", [seed], "smoke")[0].measures for seed in (3, 4)]
    for one, other in zip(both, alone, strict=True):
        assert one["final"] == pytest.approx(other["final"], abs=0.02)
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.02)
    assert both[0] != both[1]
