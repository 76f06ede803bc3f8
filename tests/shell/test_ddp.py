"""Two processes that train one network with DistributedDataParallel agree, bit for bit, whatever is done to it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import homeostat
from homeostat.core.component import build
from homeostat.core.errors import Refused
from homeostat.core.finding import JournalEntry
from homeostat.diagnosis.closed_loop import Action, ClosedLoop
from homeostat.shell.ddp import process_group as ranks
from homeostat.shell.run import sync as together
from homeostat.testing.grid import DOUBLE
from homeostat.testing.mini_run import BOUNDARY_EVERY, same, trial_of

STEPS = 12
TREATMENTS = ("continual-backprop", "redo", "spectral-regularization", "l2-init", "shrink-and-perturb-at-boundaries")
CONTROLLED = {
    "treatments": ["l2-init:strength=1e-3"],
    "controllers": ["pi:vital=effective-rank,knob=l2-init.strength,set_point=4,every=2"],
}


def halves(tensor: torch.Tensor, uneven: bool) -> tuple[torch.Tensor, ...]:
    return tensor.split((5, 3) if uneven else (4, 4))


def train(rank: int | None, treatments=(), uneven=False, micro=1, wrap=None, joined=False, each=None, **options):
    """Train on this rank's share of every batch (None: all of it); the weights and the run."""
    model = DOUBLE.build(0)
    ddp = model if rank is None else DistributedDataParallel(model)
    call = wrap(ddp) if wrap else ddp
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    run = homeostat.attach(
        call, optimizer, treatments=list(treatments), **{"vitals": ["loss"], "strict": True, **options}
    )
    with run, ddp.join() if joined else contextlib.nullcontext():  # type: ignore[operator]
        for step in range(1, STEPS + 1):
            inputs, targets = DOUBLE.data(step)
            share = 1 if rank is None else 2
            if rank is not None:
                inputs, targets = halves(inputs, uneven)[rank], halves(targets, uneven)[rank]
            optimizer.zero_grad()
            for i, (x, y) in enumerate(zip(inputs.chunk(micro), targets.chunk(micro), strict=True)):
                quiet = rank is not None and i < micro - 1
                with ddp.no_sync() if quiet else contextlib.nullcontext():  # type: ignore[operator]
                    (F.cross_entropy(call(x), y, reduction="sum") * share / 8).backward()
            optimizer.step()
            if each is not None:
                each(step, model)
            if step % BOUNDARY_EVERY == 0:
                run.boundary()
    return dict(model.state_dict()), run


def treated(rank: int | None, name: str, **options: Any) -> dict[str, torch.Tensor]:
    return train(rank, [trial_of(build("treatment", name))], **options)[0]


def controlled(rank: int | None) -> dict[str, Any]:
    weights, run = train(rank, vitals=["loss", "effective-rank"], **CONTROLLED)
    return {**weights, "knob": [v for _, v in run.vitals()["knob"]["l2-init.strength"]]}


def looped(rank: int) -> dict[str, Any]:
    """The closed loop: what the first rank decides is done on both, and the other one is not even asked."""

    def decide(self, step, findings, history, unavailable=None):
        assert rank == 0
        kind = {4: "start", 8: "strengthen", 10: "stop"}.get(step, "")
        text = "l2-init:strength=0.5" if step == 8 else "l2-init:strength=0.1"
        entry = JournalEntry(step, "closed loop", kind, "0", "decided")
        return [Action(kind, text, "dormant-units", entry)] if kind else []  # type: ignore[arg-type]

    original, ClosedLoop.step = ClosedLoop.step, decide  # type: ignore[method-assign]
    try:
        weights, run = train(rank, treatments=["auto"], vitals="default", every=2)
    finally:
        ClosedLoop.step = original  # type: ignore[method-assign]
    return {**weights, "did": [(e.step, e.component, e.action) for e in run.journal()]}


def refused(rank: int, **options: Any) -> str:
    try:
        train(rank, **options)
    except Refused as refusal:
        return str(refusal)
    return ""


def alone(rank: int) -> Any:
    """Only the first rank attaches: measuring is its own business, treating is not."""
    ranks.MEETING_SECONDS = 1.0
    model = DOUBLE.build(0)
    ddp, told = DistributedDataParallel(model), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for treatments in ([], ["redo:every=1"]):
        run = homeostat.attach(ddp, optimizer, treatments=treatments, every=1) if rank == 0 else None
        with pytest.warns(RuntimeWarning, match="redo") if run and treatments else contextlib.nullcontext():
            for step in range(1, 4):
                ddp(DOUBLE.data(step)[0]).sum().backward()
                optimizer.step()
        if run is not None:
            run.detach()
            told.append((len(run.vitals()["dead-units"]["0"]), [e.why for e in run.journal() if e.action == "refuse"]))
    ranks.MEETING_SECONDS = 60.0
    return told


def failing(rank: int) -> Any:
    """A treatment fails on one rank only: within a hundred steps it ends on the other too."""
    together.CHECK_EVERY = 4
    kind = type(build("treatment", "redo"))
    original = kind.plan

    def plan(self, view, state, knobs):
        if rank == 1 and view.step == 6:
            raise RuntimeError("out of memory")
        return original(self, view, state, knobs)

    kind.plan = plan  # type: ignore[method-assign]
    try:
        with pytest.warns(RuntimeWarning):
            run = train(rank, ["redo:every=1,threshold=-1", "l2-init"], strict=False)[1]
    finally:
        kind.plan, together.CHECK_EVERY = original, 100  # type: ignore[method-assign]
    return [(e.step, e.component, e.action) for e in run.journal() if e.action in ("refuse", "error")]


def compiled(rank: int | None) -> dict[str, torch.Tensor]:
    return treated(rank, "continual-backprop", wrap=lambda ddp: torch.compile(ddp, backend="eager"))


def recorded(rank: int, folder: Path) -> str:
    run = train(rank, record=folder / "records")[1]
    return str(run.path)


def scenarios(rank: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: treated(rank, name) for name in TREATMENTS}
    found["uneven"] = treated(rank, "continual-backprop", uneven=True)
    found["no_sync"] = treated(rank, "continual-backprop", micro=2)
    found["controlled"], found["looped"], found["compiled"] = controlled(rank), looped(rank), compiled(rank)
    found["modules"] = refused(rank, treatments=["layer-norm-insertion"])
    found["join"] = refused(rank, treatments=["redo:every=1"], joined=True)
    found["settings"] = refused(rank, treatments=[f"l2-init:strength={1e-3 * (rank + 1)}"])
    found["alone"], found["failing"], found["record"] = alone(rank), failing(rank), recorded(rank, folder)
    return found


def work(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(scenarios(rank, Path(folder)), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)  # type: ignore[attr-defined]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def near(first: dict[str, Any], second: dict[str, Any]) -> bool:
    tensors = {k: v for k, v in first.items() if isinstance(v, torch.Tensor)}
    return all(torch.allclose(v, second[k], rtol=0, atol=1e-9) for k, v in tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TREATMENTS, "uneven", "no_sync", "compiled"])
def test_ranks_agree_and_are_one_process_on_the_whole_batch(outcomes, name):
    first, second = (outcome[name] for outcome in outcomes)
    treatment = name if name in TREATMENTS else "continual-backprop"
    assert not same(first, second)
    assert near(first, treated(None, treatment))
    assert not near(first, train(None)[0])


@pytest.mark.slow
def test_knobs_turn_alike_on_every_rank_and_as_in_one_process(outcomes):
    first, second = (outcome["controlled"] for outcome in outcomes)
    expected = controlled(None)
    assert first["knob"] == second["knob"] == pytest.approx(expected["knob"]) and len(set(first["knob"])) > 1
    assert all(torch.equal(v, second[k]) for k, v in first.items() if k != "knob") and near(first, expected)


@pytest.mark.slow
def test_the_closed_loop_does_on_every_rank_what_the_first_decides(outcomes):
    first, second = (outcome["looped"] for outcome in outcomes)
    assert first["did"] == second["did"] and (4, "l2-init", "attach") in first["did"]
    assert all(torch.equal(v, second[k]) for k, v in first.items() if k != "did")
    assert not near(first, train(None)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"), [("modules", "DistributedDataParallel"), ("join", "join()"), ("settings", "different")]
)
def test_what_ranks_cannot_do_together_is_refused_on_every_one(outcomes, name, words):
    assert all(words in outcome[name] for outcome in outcomes)


@pytest.mark.slow
def test_one_rank_may_measure_alone_but_not_treat(outcomes):
    measured, treatment = outcomes[0]["alone"]
    assert measured[0] == 3 and treatment[0] == 3 and "ranks" in treatment[1][0]


@pytest.mark.slow
def test_a_treatment_that_fails_on_one_rank_ends_on_all(outcomes):
    first, second = (outcome["failing"] for outcome in outcomes)
    assert second[0][:2] == (6, "redo")
    assert {(s, c) for s, c, _ in first} == {(8, "redo"), (8, "l2-init"), (8, "homeostat")}


@pytest.mark.slow
def test_every_rank_writes_its_own_record(outcomes):
    paths = [Path(outcome["record"]) for outcome in outcomes]
    assert paths[1].parent.name == "rank1" and paths[1].parent.parent == paths[0].parent


# ---- one process is enough for these


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_is_gathered_is_what_was_given(group):
    together_with_nobody = ranks.ProcessGroup(DistributedDataParallel(nn.Linear(2, 2)))
    given = {"a": torch.randn(3, 4), "b": torch.randn(2, 5).bfloat16(), "c": torch.randn(4, 3, dtype=torch.float64).T}
    found = together_with_nobody.gather(given, {"a", "b", "c", "absent"}, torch.device("cpu"))
    assert found.keys() == given.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in given.items()
    )
    assert together_with_nobody.gather({}, {"a"}, torch.device("cpu")) == {}
    assert together_with_nobody.from_first(None, torch.device("cpu")) is None
    assert together_with_nobody.from_first(0.25, torch.device("cpu")) == 0.25
    assert together_with_nobody.share([1, "x"]) == [1, "x"]
    assert together_with_nobody.exchange({"a": 1}) == [{"a": 1}]
    assert together_with_nobody.equal(3, [torch.tensor([float("nan")])], torch.device("cpu"))
    assert ranks.find_ranks(nn.Linear(2, 2)) is None


@pytest.mark.filterwarnings("ignore:DTensor random operators")  # torch 2.6, on the CPU
def test_sharded_parameters_are_refused_by_name_and_not_measured(group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_module, distribute_tensor

    def shard(name, module, mesh):
        for key, value in list(module.named_parameters(recurse=False)):
            module.register_parameter(key, nn.Parameter(distribute_tensor(value.data, mesh, [Replicate()])))

    mesh = init_device_mesh("cpu", (1,))
    model = distribute_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), mesh, shard)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(Refused, match=r"0\.bias|0\.weight"):
        homeostat.attach(model, optimizer, treatments=["l2-init"], strict=True)
    with homeostat.attach(model, optimizer, vitals=["weight-norm", "loss"]) as run:
        assert "sharded" in run.not_measured()["weight-norm"]


def test_treatments_that_read_activations_need_ddp_where_there_are_several_processes(monkeypatch):
    monkeypatch.setattr("homeostat.shell.run.compatibility.processes", lambda: 2)
    model = DOUBLE.build(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with (
        homeostat.attach(model, optimizer, treatments=["redo"], strict=True),
        pytest.raises(Refused, match="2 processes"),
    ):
        model(DOUBLE.data(1)[0])
    with homeostat.attach(model, optimizer, treatments=["l2-init"], strict=True):
        model(DOUBLE.data(1)[0]).sum().backward()
        optimizer.step()
