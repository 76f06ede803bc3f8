"""Twin runs: an exact clone stays exact, a perturbed one is as far as asked, and both are read beside the run."""

import copy
import math
import pickle

import pytest
import torch
from grids import part_of
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat import CheckpointOptions, MeasureOptions
from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.shell.run.twin import perturbation
from homeostat.vitals import distance

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1),
}


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
        )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(20, 6, generator=generator), torch.randint(3, (20,), generator=generator)


def learn(model, optimizer, step):
    inputs, targets = batch(step)

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(model(inputs), targets)
        value.backward()
        return value

    optimizer.step(loss)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("kind", part_of(OPTIMIZERS))
@pytest.mark.parametrize("at", [0, 7])
def test_an_exact_clone_stays_bit_for_bit(kind, at):
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    for step in range(at):
        learn(model, optimizer, step)
    clone, its = homeostat.twin(model, optimizer)
    assert type(its) is type(optimizer) and same(model, clone)
    for step in range(at, at + 25):
        learn(clone, its, step)
        learn(model, optimizer, step)
        assert same(model, clone)
    assert scheduler.optimizer is optimizer
    learn(clone, its, 99)
    assert not same(model, clone), "they share nothing"


def test_half_a_round_of_accumulation_is_cloned_too():
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    model(batch(0)[0]).square().mean().backward()
    clone, its = homeostat.twin(model, optimizer)
    for each, of in ((model, optimizer), (clone, its)):
        each(batch(1)[0]).square().mean().backward()
        of.step()
    assert same(model, clone)


def test_several_optimizers_come_back_as_a_list():
    model = net()
    several = [OPTIMIZERS["sgd"](model[0].parameters()), OPTIMIZERS["adam"](model[3].parameters())]
    clone, its = homeostat.twin(model, several)
    assert [type(o) for o in its] == [type(o) for o in several]
    assert its[1].param_groups[0]["params"][0] is clone[3].weight


@pytest.mark.parametrize("sigma", [1e-5, 1e-2, 3.0])
def test_a_twin_is_as_far_as_asked(sigma):
    """Against s0 from torch's formula of the initialisation, U(-b, b) with b = 1/sqrt(inputs), the authors' way."""
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100)).double()
    clone, _ = homeostat.twin(model, OPTIMIZERS["sgd"](model.parameters()), sigma=sigma)
    expected = math.sqrt(sum(p.numel() / (3 * inputs) for inputs in (300, 200) for p in sized(model, inputs)))
    assert float(distance(weights(model), weights(clone))) == pytest.approx(sigma * expected, rel=0.01)


def sized(model, inputs):
    return model[0 if inputs == 300 else 2].parameters()


def test_every_parameter_moves_in_proportion_to_its_spread_and_constants_stay():
    """Run aside on five draws with the same standard deviations, the authors' `get_gaussian_noise` and `scale_noise`
    gave the same total length to 1e-15, and each parameter the same share of its square to 0.02 (both are drawn).
    """
    model = nn.Sequential(nn.Linear(100, 80), nn.LayerNorm(80), nn.Linear(80, 40))
    initial = weights(model)
    step = perturbation(initial, None, "gaussian", homeostat.core.random.Draw(0))
    norm = math.sqrt(sum(p.numel() * float(p.double().var(unbiased=False)) for p in initial.values()))
    assert math.sqrt(sum(float(part.square().sum()) for part in step.values())) == pytest.approx(norm, rel=1e-9)
    assert not step["1.weight"].any() and not step["1.bias"].any()
    for name in ("0.weight", "2.weight"):
        ratio = float(step[name].std() / initial[name].double().std())
        assert ratio == pytest.approx(1, rel=0.05)


def test_later_twins_are_measured_by_the_beginning():
    model = net()
    optimizer, initial = OPTIMIZERS["sgd"](model.parameters()), weights(net())
    for step in range(30):
        learn(model, optimizer, step)
    clone, _ = homeostat.twin(model, optimizer, sigma=0.1, initial=initial)
    norm = math.sqrt(sum(p.numel() * float(p.double().var(unbiased=False)) for p in initial.values()))
    assert float(distance(weights(model), weights(clone))) == pytest.approx(0.1 * norm, rel=1e-5)


def test_a_direction_of_ones_own():
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    model(batch(0)[0]).square().mean().backward()
    slope = {n: p.grad for n, p in model.named_parameters()}
    clone, _ = homeostat.twin(model, optimizer, sigma=1.0, direction=slope)
    moved = {n: p - weights(model)[n] for n, p in weights(clone).items()}
    flat = lambda named: torch.cat([named[n].flatten() for n in slope])  # noqa: E731
    assert float(F.cosine_similarity(flat(moved), flat(slope), 0)) == pytest.approx(1, abs=1e-5)
    one = torch.zeros(16, 16)
    one[3, 4] = -2.0
    clone, _ = homeostat.twin(model, optimizer, sigma=0.1, direction={"3.weight": one})
    changed = (clone[3].weight != model[3].weight).nonzero().tolist()
    assert changed == [[3, 4]] and torch.equal(clone[0].weight, model[0].weight)


def test_the_seed_decides_and_nothing_else_is_touched():
    model = net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    learn(model, optimizer, 0)
    before, random, saved = copy.deepcopy(model), torch.get_rng_state(), pickle.dumps(optimizer.state_dict())
    twins = [homeostat.twin(model, optimizer, sigma=1e-3, seed=seed)[0] for seed in (1, 1, 2)]
    assert same(twins[0], twins[1]) and not same(twins[0], twins[2])
    assert same(before, model) and torch.equal(random, torch.get_rng_state())
    assert saved == pickle.dumps(optimizer.state_dict())


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"sigma": -1.0}, BadSetting, "at least 0"),
        ({"sigma": float("nan")}, BadSetting, "finite"),
        ({"sigma": 1e-12}, BadInput, "lost in rounding"),
        ({"sigma": 0.1, "direction": "random"}, BadSetting, "'gaussian' or a tensor"),
        ({"sigma": 0.1, "direction": {"0.weigth": torch.ones(16, 6)}}, UnknownName, "'0.weight'"),
        ({"sigma": 0.1, "direction": {"0.weight": torch.ones(6, 16)}}, BadInput, r"\[6, 16\], not \[16, 6\]"),
        ({"sigma": 0.1, "direction": {"0.weight": torch.zeros(16, 6)}}, BadInput, "length 0"),
        ({"sigma": 0.1, "initial": {}}, BadInput, "initial has no value of 0.weight"),
    ],
)
def test_what_cannot_be_perturbed_is_said(options, error, says):
    model = net()
    with pytest.raises(error, match=says):
        homeostat.twin(model, OPTIMIZERS["sgd"](model.parameters()), **options)


# ---- a run and its twin


def attached(model, optimizer, twin, **options):
    probe = (batch(1000), F.cross_entropy)
    return homeostat.attach(
        model, optimizer, probe=probe, every=1, strict=True, measure=MeasureOptions(twin=twin), **options
    )


def values(run, vital):
    return [value for _, value in run.vitals().get(vital, {}).get("network", [])]


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_distance_and_barrier_are_in_the_record(sigma):
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    clone, its = homeostat.twin(model, optimizer, sigma=sigma)
    start = weights(model)
    with attached(model, optimizer, clone) as run:
        for step in range(6):
            learn(clone, its, step)
            learn(model, optimizer, step)
        far, high = values(run, "twin-distance"), values(run, "twin-barrier")
    assert len(far) == len(high) == 6
    if not sigma:
        assert set(far) == set(high) == {0.0}, "the exact-zero control"
        return
    assert far[-1] == pytest.approx(float(distance(weights(model), weights(clone), start)), rel=1e-6)
    assert all(value > 0 for value in far) and all(value >= 0 for value in high)


def test_barrier_ends_are_the_two_networks_themselves():
    """Batch norm has statistics of its own on either side."""
    model = net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    clone, its = homeostat.twin(model, optimizer, sigma=0.5)
    with attached(model, optimizer, clone) as run:
        for step in range(5):
            learn(clone, its, step + 50)
            learn(model, optimizer, step)
        observer = run._network.observer
        along = observer.twin_reader(observer._make_probe()).along
    inputs, targets = batch(1000)
    for share, each in ((1.0, model), (0.0, clone)):
        each.eval()
        assert float(along(torch.tensor(share))) == pytest.approx(
            float(F.cross_entropy(each(inputs).detach(), targets)), rel=1e-6
        )


def test_a_twin_that_steps_later_is_not_compared_and_it_is_said_how_to_help():
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    clone, its = homeostat.twin(model, optimizer)
    with attached(model, optimizer, clone) as run:
        for step in range(4):
            learn(model, optimizer, step)
            learn(clone, its, step)
    assert values(run, "twin-distance") == []
    assert "let it take its step before the network" in run.not_measured()["twin-distance"]
    assert "let it take its step before the network" in run.not_measured()["twin-barrier"]


def test_without_a_twin_it_is_not_measured_by_default_and_refused_with_a_reason_when_asked_for():
    for asked in ("default", ["twin-distance"]):
        model = net()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        with homeostat.attach(model, optimizer, vitals=asked, every=1) as run:
            learn(model, optimizer, 0)
        told = run.not_measured().get("twin-distance", "")
        assert told == (
            ""
            if asked == "default"
            else "needs a second network: attach(..., measure=MeasureOptions(twin=other_model))"
        )


@pytest.mark.parametrize(
    "other, says",
    [
        (lambda model: nn.Linear(6, 3), "has no '0.weight'"),
        (lambda model: model, "is the network's own"),
        (lambda model: net().double(), "torch.float64 on cpu, not torch.float32"),
        (lambda model: nn.Sequential(*net(), nn.Linear(3, 3)), "parameters and buffers, not"),
        (lambda model: "twin", "expected a torch.nn.Module, got str"),
    ],
)
def test_another_architecture_is_an_error(other, says):
    model = net()
    with pytest.raises(BadInput, match=f"twin: .*{says}"):
        homeostat.attach(model, OPTIMIZERS["sgd"](model.parameters()), measure=MeasureOptions(twin=other(model)))


def test_a_network_that_is_rebuilt_has_no_twin_any_more():
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    clone, its = homeostat.twin(model, optimizer)
    with attached(model, optimizer, clone, vitals=["twin-distance"]) as run:
        for step in range(4):
            if step == 2:
                model[3], model[5] = nn.Linear(16, 12), nn.Linear(12, 3)
            learn(clone, its, step)
            learn(model, optimizer, step)
    assert values(run, "twin-distance") == [0.0, 0.0]
    assert "no copy of the network any more: its '3.weight' has shape" in run.not_measured()["twin-distance"]


def test_a_resumed_run_goes_on_with_its_twin(tmp_path):
    model = net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    clone, its = homeostat.twin(model, optimizer, sigma=0.1)
    extra = {"twin": clone, "its optimizer": its}
    with attached(model, optimizer, clone, checkpoint=CheckpointOptions(extra=extra)) as run:
        for step in range(6):
            if step == 3:
                run.save(tmp_path / "state")
            learn(clone, its, step)
            learn(model, optimizer, step)
    again = net(5)
    optimizer = OPTIMIZERS["momentum"](again.parameters())
    clone, its = homeostat.twin(again, optimizer)
    extra = {"twin": clone, "its optimizer": its}
    with attached(
        again, optimizer, clone, checkpoint=CheckpointOptions(extra=extra, resume=tmp_path / "state")
    ) as resumed:
        for step in range(3, 6):
            learn(clone, its, step)
            learn(again, optimizer, step)
    for vital in ("twin-distance", "twin-barrier"):
        assert values(resumed, vital)[-3:] == values(run, vital)[-3:]


def test_the_clone_of_a_measured_network_is_not_measured_and_can_be_attached_itself():
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    with homeostat.attach(model, optimizer, every=1) as run:
        learn(model, optimizer, 0)
        clone, its = homeostat.twin(model, optimizer)
        with homeostat.attach(clone, its, every=1) as beside:
            learn(clone, its, 1)
            learn(model, optimizer, 1)
    assert same(model, clone)
    assert run.vitals()["loss"]["network"][-1][1] == pytest.approx(beside.vitals()["loss"]["network"][-1][1])
