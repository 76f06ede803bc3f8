"""What the study of CLASSP measures is what it says."""

import torch

from homeostat.studies.lab.training import ArmSetup
from homeostat.studies.papers.continual.classp import WAYS, ClasspArm, ClasspStudy, classp, learn

SIZES = ClasspStudy().sizes("smoke")


def measured(way: ClasspArm, tasks: int = 2) -> dict:
    torch.manual_seed(100)
    return learn(way, "digits", 100, SIZES, tasks)


def test_where_nothing_fires_nothing_moves():
    found = measured(classp("", threshold=1e6))
    assert found["moved"] == found["moved last"] == 0.0
    assert found["old"] == found["first learned"]


def test_two_tasks_are_old_and_new():
    found = measured(WAYS["classp"])
    assert found["average"] == (found["old"] + found["new"]) / 2 == found["final"]
    assert found["new"] == found["last learned"] and 0.0 < found["moved"] <= 1.0


def test_the_anchors_of_elastic_weight_consolidation_hold_from_the_second_task_on():
    free, held = (measured(ClasspArm(WAYS["ewc"].setup, 1e-2, strength), 3) for strength in (0.0, 1e4))
    assert free["first learned"] == held["first learned"]
    assert held["average so far"] != free["average so far"]


def test_a_network_that_diverges_is_judged_as_it_is():
    found = measured(ClasspArm(ArmSetup("", optimizer=WAYS["sgd"].setup.optimizer), 1e20, 1.0))
    assert found["final"] < 0.3
