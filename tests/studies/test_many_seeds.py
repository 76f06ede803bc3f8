"""Seeds that are trained together are those that are trained alone, and the harness groups them."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from study_for_tests import Toy

from homeostat.fleet import Fleet
from homeostat.streams import PermutedLabels
from homeostat.streams.data import resolve
from homeostat.studies.lab.elastic import Anchors, FleetAnchors
from homeostat.studies.lab.harness import run_study
from homeostat.studies.lab.many_seeds import accuracies_of, fleet_of, stacked, train_fleet
from homeostat.studies.lab.online import OnlineTasks, Rehearsal, Reservoirs, learn_online
from homeostat.studies.lab.training import ArmSetup, train
from homeostat.treatments import L2Init


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyOfMany(Toy, abstract=True):
    """The toy whose seeds are run three at a time."""

    seeds_at_once: ClassVar[int] = 3

    def run_many(self, arm, seeds, budget):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{arm} {list(seeds)}\n")
        return [{"score": float(seed) + (arm == "b")} for seed in seeds]


def test_unfinished_seeds_of_an_arm_are_run_together(tmp_path):
    log = tmp_path / "log"
    study = ToyOfMany(log=str(log))
    run_study(study, seeds=1, folder=tmp_path, progress=False)
    verdict = run_study(study, seeds=5, folder=tmp_path, progress=False)
    assert log.read_text().splitlines() == ["a [0]", "b [0]", "a [1, 2, 3]", "a [4]", "b [1, 2, 3]", "b [4]"]
    assert verdict.expectations[0].per_seed == (1.0,) * 5 and list(verdict.per_seed) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    "setup", [ArmSetup("plain"), ArmSetup("pulled", (L2Init(strength=1e-2),))], ids=lambda s: s.says
)
def test_a_fleet_learns_a_stream_as_each_seed_alone(setup):
    seeds = (5, 6)
    streams = [PermutedLabels(tasks=2, items=160, batch_size=32, seed=seed) for seed in seeds]
    together = train_fleet(fleet_of(setup, 64, (12,), 10, 1e-2, seeds), streams)
    for seed, stream, found in zip(seeds, streams, together, strict=True):
        torch.manual_seed(seed)
        model = setup.network(64, (12,), 10)
        alone = train(model, setup.optimizer(model.parameters(), lr=1e-2), stream, setup.treatments, seed)
        assert found.online == pytest.approx(alone.online, abs=0.02) and found.end == pytest.approx(alone.end, abs=0.02)


def test_every_replica_has_its_own_anchors():
    fleet = Fleet(
        lambda: torch.nn.Linear(4, 3), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), seeds=(0, 1), vitals=()
    )
    items, both = torch.randn(2, 20, 4), FleetAnchors(fleet, 3.0)
    both.drop(items, [torch.Generator().manual_seed(r) for r in range(2)])
    for r in range(2):
        alone = Anchors(fleet.replica(r), 3.0)
        alone.drop(items[r], torch.Generator().manual_seed(r))
        assert torch.equal(both.weight[r], alone.weight) and torch.equal(both.centre[r], alone.centre)
    fleet.step(torch.randn(2, 8, 4), torch.randint(3, (2, 8)))
    for r in range(2):
        model = fleet.replica(r)
        one = Anchors(model, 3.0)
        one.weight, one.centre = both.weight[r], both.centre[r]
        held, expected = both.penalty()[r].item(), one.penalty().item()
        assert held == pytest.approx(expected, rel=1e-5) and held > 0
    assert not torch.equal(both.weight[0], both.weight[1])


def test_every_item_seen_is_as_likely_to_be_held():
    seeds = range(400)
    memory = Reservoirs(8, seeds)
    for start in range(0, 40, 5):
        memory.add(torch.arange(start, start + 5).expand(len(seeds), -1))
    assert all(len(row.unique()) == 8 for row in memory.held)
    counts = torch.bincount(memory.held.flatten(), minlength=40).double()
    expected = 400 * 8 / 40
    assert float(((counts - expected) ** 2 / expected).sum()) < 73  # chi-squared, 39 degrees of freedom: 1 in 1,000
    recalled = memory.recall(5)
    assert all(
        len(row.unique()) == 5 and set(row.tolist()) <= set(held.tolist())
        for row, held in zip(recalled, memory.held, strict=True)
    )


def test_er_ace_leaves_old_classes_alone_where_nothing_is_rehearsed():
    sizes = {"steps": 10, "batch_size": 10, "judged": 20, "widths": (16,), "every": 10}
    tasks = OnlineTasks(resolve("digits"), (0, 1), sizes)
    learned = {}
    for name, way in (("er", Rehearsal(memory=0)), ("er-ace", Rehearsal(memory=0, asymmetric=True))):
        diaries, fleet = learn_online(ArmSetup("", optimizer=torch.optim.SGD), way, tasks, 0.3)
        assert all(len(found) == task + 1 for d in diaries for task, found in enumerate(d.ends()))
        learned[name] = accuracies_of(fleet, *tasks.exams[0])
    assert min(learned["er-ace"]) > max(learned["er"]) + 0.1
    assert stacked([(torch.zeros(2, 3), torch.zeros(2))] * 4)[0].shape == (4, 2, 3)
