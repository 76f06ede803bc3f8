"""What the study of CLASSP measures is what it says."""

import pytest
import torch
from torch.optim import SGD, Adagrad

from homeostat.studies.lab.training import ArmSetup, attached
from homeostat.studies.papers.continual.classp import WAYS, ClasspArm, ClasspStudy, classp, learn

SIZES = ClasspStudy().sizes("smoke")


def measured(way: ClasspArm) -> dict:
    return learn(way, "digits", [100], SIZES)[0]


def test_where_nothing_fires_nothing_moves():
    found = measured(classp("", threshold=1e6))
    assert found["moved"] == 0.0 and found["old"] == found["first learned"]


def test_two_tasks_are_old_and_new():
    found = measured(WAYS["classp"])
    assert found["average"] == (found["old"] + found["new"]) / 2
    assert found["average so far"][-1] == pytest.approx(found["average"], abs=1e-4) and 0.0 < found["moved"] <= 1.0


def test_the_anchors_of_elastic_weight_consolidation_hold_from_the_second_task_on():
    free, held = (measured(ClasspArm(WAYS["ewc"].setup, 1e-2, strength)) for strength in (0.0, 1e4))
    assert free["first learned"] == held["first learned"]
    assert held["average so far"] != free["average so far"]


def test_a_network_that_diverges_is_judged_as_it_is():
    assert measured(ClasspArm(ArmSetup("", optimizer=SGD), 1e20, 1.0))["average"] < 0.3


def test_the_arm_called_adagrad_is_adagrad():
    ends = []
    for treatments, optimizer in (((), Adagrad), (WAYS["adagrad"].setup.treatments, SGD)):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3)
        inputs, targets = torch.randn(64, 5), torch.randint(3, (64,))
        with attached(model, optimizer(model.parameters(), lr=0.02), treatments) as loop:
            for _ in range(20):
                loop.step(inputs, targets)
        ends.append(model.weight.detach())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)
