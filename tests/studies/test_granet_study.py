"""What the study of GraNet measures is what it says."""

import torch
from torch import nn
from torch.optim import SGD

from homeostat.streams.data import arrays
from homeostat.studies.papers.plasticity.granet import _GRADUAL, SparseTraining
from homeostat.treatments.sparsity.granet import GraNet

SIZES = {"steps": 20, "batch": 8, "recovery": 12}


def training(seed: int = 100) -> SparseTraining:
    torch.manual_seed(seed)
    inputs = torch.randn(60, 6)
    data = arrays(inputs, inputs[:, :3].argmax(1), "test")
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    return SparseTraining(model, SGD(model.parameters(), 0.1, momentum=0.9, foreach=True), data, data, SIZES, 0.1, seed)


def test_probes_leave_the_dense_training_as_it_was():
    plain, probed = training(), training()
    plain.whole(None)
    found = probed.probed(0.5)
    for one, other in zip(plain.model.parameters(), probed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    match found:
        case {"plasticity": list(plasticity), "recovered": list(recovered), "late": float(late)}:
            assert len(plasticity) == len(recovered) == 5 and abs(late - sum(recovered[-2:]) / 2) < 1e-4
        case _:
            raise AssertionError(f"other measures: {sorted(found)}")


def test_the_learning_rate_falls_along_half_a_cosine():
    it, rates = training(), []
    for _ in it._batches():
        rates.append(it.optimizer.param_groups[0]["lr"])
    assert len(rates) == 20 and rates[0] == 0.1 and abs(rates[10] - 0.05) < 1e-12 and 0 < rates[-1] < 1e-3


def test_a_treated_network_ends_as_sparse_as_asked():
    it = training()
    it.whole(GraNet(sparsity=0.9, every=5, end=10, horizon=20))
    assert sum(int((p == 0).sum()) for p in it.model.parameters() if p.ndim == 2) >= round(0.9 * 108)


def test_arms_act_as_often_as_they_say():
    treatment = _GRADUAL["95%, GraNet from 50%"].treatment(1500)
    assert treatment == GraNet(sparsity=0.95, initial=0.5, every=25, end=750, horizon=1500)
    assert _GRADUAL["dense"].treatment(1500) is None
