"""GraNet and the masks it is made of, against an obvious restatement in float64.

Compared with the authors' code (github.com/Shiweiliuiiiiiii/GraNet, CIFAR/sparselearning/core.py, on the CPU) while
writing this: a 20-40-30-5 tanh network in float64, SGD with Nesterov momentum and decay, 600 steps, a pruning every 20.
Active weights at the end, theirs and here: 214 and 215 (dense to 90%), 42 and 43 (dense to 98%), 106 and 108 (50% to
95%): theirs drops one weight more at every pruning (`>` the threshold), truncates the count, and prunes last one
interval before the end. With these three changed in their code, masks and weights of all three runs are equal bit for
bit.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat import TreatOptions
from homeostat.core.edits import ClearMoments, SetValues
from homeostat.core.errors import BadSetting, Refused
from homeostat.core.random import Draw
from homeostat.core.treatment import View
from homeostat.testing.grid import CONV, DOUBLE, EMBEDDED, PARAMETRIZED, TIED
from homeostat.testing.mini_run import Bench
from homeostat.treatments.resets.continual_backprop import ContinualBackprop
from homeostat.treatments.sparsity.granet import GraNet
from homeostat.treatments.sparsity.masks import cosine, cubic, erdos_renyi_kernel, highest, prune, regenerate, scattered
from homeostat.vitals.activations.sparsity import sparsity

SHORT = GraNet(sparsity=0.8, every=4, end=40, horizon=60)


def restated(weights, gradients, masks, step, t):
    """One pruning of `GraNet`, element by element on lists; gives the masks and what is set to zero."""
    start, progress = min(t.initial, t.sparsity), min(1.0, (step - t.begin) / (t.end - t.begin))
    target = t.sparsity + (start - t.sparsity) * (1 - progress) ** 3
    places = [(n, i) for n in weights for i in range(len(weights[n])) if masks[n][i]]
    places.sort(key=lambda place: -abs(weights[place[0]][place[1]]))
    kept = set(places[: round(sum(map(len, weights.values())) * (1 - target))])
    low = min(0.005, t.regrow)
    fraction = low + (t.regrow - low) * (1 + math.cos(math.pi * step / t.horizon)) / 2
    after = set()
    for name in weights:
        mine = sorted((i for n, i in kept if n == name), key=lambda i: abs(weights[name][i]))
        gone = math.ceil(fraction * len(mine)) if step <= t.horizon else 0
        stay = set(mine[gone:])
        off = sorted((i for i in range(len(weights[name])) if i not in stay), key=lambda i: -abs(gradients[name][i]))
        after |= {(name, i) for i in stay | set(off[:gone])}
    on = {n: [(n, i) in after for i in range(len(weights[n]))] for n in weights}
    zero = {n: [(n, i) not in after & kept for i in range(len(weights[n]))] for n in weights}
    return on, zero


def flat(tensors):
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}


@pytest.mark.oracle("granet")
@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_every_pruning_is_the_restated_one(initial):
    bench, seen = Bench(DOUBLE, replace(SHORT, initial=initial)), 0
    for step in range(1, 61):
        before = {name.removesuffix("/mask"): mask for name, mask in bench.state.items()}
        for event in bench.train(1):
            weights = {name: event.before.parameters[name] for name in before}
            if step % 4:
                on = flat(before)
                zero = {name: [not active for active in mask] for name, mask in on.items()}
            else:
                gradients = {name: event.before.gradients[name] for name in before}
                on, zero = restated(flat(weights), flat(gradients), flat(before), step, bench.treatment)
                seen += 1
            assert flat({name: bench.state[f"{name}/mask"] for name in before}) == on
            for name, now in flat({name: event.after.parameters[name] for name in before}).items():
                expected = [0.0 if z else w for z, w in zip(zero[name], flat(weights)[name], strict=True)]
                assert now == expected
    assert seen == 15


def test_sparsity_is_exact_at_every_step_under_adam_with_decay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.LayerNorm(20), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    total = 6 * 20 + 20 * 10 + 10 * 3
    with homeostat.attach(model, optimizer, treatments=[replace(SHORT, sparsity=0.9)], vitals=(), strict=True) as run:
        for step in range(1, 61):
            x, y = torch.randn(16, 6), torch.randint(3, (16,))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            (saved,) = [network["treatments"]["applied"]["granet"] for network in run.state_dict()["networks"].values()]
            masks = {name.removesuffix("/mask"): mask for name, mask in saved["state"].items()}
            progress = min(step // 4 * 4 / 40, 1)
            assert sum(int(m.sum()) for m in masks.values()) == round(total * (1 - 0.9 * (1 - (1 - progress) ** 3)))
            assert not any(bool(model.get_parameter(name)[~mask].any()) for name, mask in masks.items())
    assert all(bool(p.all()) for name, p in model.named_parameters() if "1." in name), "a norm was pruned"
    assert sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 2) >= round(0.9 * total)


def test_a_weight_switched_on_is_at_zero_and_new_to_the_optimizer():
    bench, seen = Bench(CONV, GraNet(sparsity=0.5, every=3, end=9, horizon=60)), 0
    for _ in range(30):
        for event in bench.train(1):
            for edit in event.edits:
                if isinstance(edit, ClearMoments) and edit.mask is not None:
                    at = edit.mask
                    moments = bench.optimizer.state[bench.trained[edit.target]]
                    assert not event.after.parameters[edit.target][at].any()
                    assert not moments["exp_avg"][at].any() and not moments["exp_avg_sq"][at].any()
                    assert bool(bench.state[f"{edit.target}/mask"][at].all())
                    seen += int(at.sum())
    assert seen > 10


def test_with_counts_per_element_a_weight_switched_on_makes_adams_first_step():
    torch.manual_seed(0)
    model = nn.Linear(12, 9).double()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with homeostat.attach(
        model, optimizer, treatments=[SHORT], vitals=(), strict=True, treat=TreatOptions(element_steps=True)
    ) as run:
        for step in range(1, 34):
            if step == 32:
                before = _mask(run).clone()
            optimizer.zero_grad()
            model(torch.randn(8, 12, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
            if step == 32:
                new = _mask(run) & ~before
                assert int(new.sum()) > 2 and not model.weight[new].any()
    assert torch.allclose(model.weight[new].abs(), torch.tensor(1e-2, dtype=torch.float64), rtol=1e-4)


def _mask(run: homeostat.AttachedRun) -> torch.Tensor:
    (saved,) = [network["treatments"]["applied"]["granet"] for network in run.state_dict()["networks"].values()]
    return saved["state"]["weight/mask"]


def test_without_regrowth_what_is_off_stays_off():
    bench = Bench(CONV, replace(SHORT, regrow=0.0))
    bench.train(20)
    early = dict(bench.state)
    bench.train(40)
    assert all(not bool((bench.state[name] & ~early[name]).any()) for name in early)
    assert not any(isinstance(e, ClearMoments) and e.mask.any() for event in bench.train(4) for e in event.edits)


def test_random_growth_switches_on_others_than_the_gradient():
    by_gradient, by_chance = Bench(DOUBLE, SHORT), Bench(DOUBLE, replace(SHORT, growth="random"))
    by_gradient.train(12)
    by_chance.train(12)
    counts = [sum(int(mask.sum()) for mask in bench.state.values()) for bench in (by_gradient, by_chance)]
    assert counts[0] == counts[1]
    assert any(not torch.equal(by_gradient.state[name], by_chance.state[name]) for name in by_gradient.state)


def test_sparse_to_sparse_begins_with_random_masks_of_the_layers_densities():
    bench = Bench(DOUBLE, GraNet(initial=0.5, every=10))
    counts = [int(mask.sum()) for mask in bench.state.values()]
    # 5-12-9-3: 98 of 195 weights, layers in proportion to in + out: 17, 21 and 12 of 50 parts
    assert counts == [33, 41, 24]
    bench.train(1)
    for name, mask in bench.state.items():
        assert torch.equal(bench.parameters()[name.removesuffix("/mask")] != 0, mask)
    other = Bench(DOUBLE, GraNet(initial=0.5, every=10), seed=1)
    assert any(not torch.equal(other.state[name], bench.state[name]) for name in bench.state)


def test_averaged_copies_are_pruned_and_detaching_lets_go():
    torch.manual_seed(0)
    model = nn.Linear(10, 10)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step():
        optimizer.zero_grad()
        model(torch.randn(8, 10)).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)

    with homeostat.attach(
        model, optimizer, treatments=[SHORT], vitals=(), strict=True, treat=TreatOptions(averaged=average)
    ):
        for _ in range(43):
            step()
        assert float(sparsity({"0.weight": average.module.weight})["0"]) == 0.8
    step()
    assert float(sparsity({"0.weight": model.weight})["0"]) < 0.1


def test_beside_resets_what_is_off_stays_off():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    resets = ContinualBackprop(replacement_rate=0.05, maturity_threshold=3)
    with homeostat.attach(model, optimizer, treatments=[SHORT, resets], vitals=(), strict=True):
        for _ in range(44):
            x = torch.randn(16, 6)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
            optimizer.step()
        assert sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 2) >= round(0.8 * 180)


def test_a_knob_that_is_turned_moves_the_next_pruning():
    bench = Bench(DOUBLE, GraNet(sparsity=0.2, every=2, end=4, horizon=40))
    bench.train(4)
    assert sum(int(mask.sum()) for mask in bench.state.values()) == round(0.8 * 195)
    for value, active in ((0.6, round(0.4 * 195)), (0.1, round(0.4 * 195))):
        bench.knobs["sparsity"].fill_(value)
        bench.train(2)
        assert sum(int(mask.sum()) for mask in bench.state.values()) == active


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(Refused, match=r"fc2\.parametrizations.*parametrization"):
        Bench(PARAMETRIZED, SHORT)
    old = {"w_g": torch.ones(3, 1), "w_v": torch.ones(3, 2)}
    with pytest.raises(Refused, match="w_g"):
        SHORT.init(View(step=0, parameters=old), SHORT.knobs())
    with pytest.raises(Refused, match="no trainable weight"):
        SHORT.init(View(step=0, parameters={"b": torch.ones(3)}), SHORT.knobs())
    weight = torch.ones(3, 2)
    seen = View(step=4, parameters={"w": weight}, gradients={"w": weight.to_sparse()})
    with pytest.raises(Refused, match="sparse"):
        SHORT.plan(seen, SHORT.init(seen, SHORT.knobs()), SHORT.knobs())
    assert Bench(TIED, SHORT).state.keys() == {"emb.weight/mask", "fc1.weight/mask", "fc2.weight/mask"}
    assert "emb.weight/mask" in Bench(EMBEDDED, SHORT).state


def test_settings_are_checked():
    for wrong in ({"initial": 1.0}, {"begin": -1}, {"begin": 30_000}, {"horizon": 10}, {"every": 0}, {"regrow": 2.0}):
        with pytest.raises(BadSetting):
            GraNet(**wrong)


def test_it_begins_with_its_first_pruning():
    late = GraNet(sparsity=0.5, begin=5, every=3, end=11, horizon=20)
    assert [step for step in range(1, 9) if late.due(step)] == [5, 6, 7, 8]
    bench, counts = Bench(DOUBLE, late), []
    for _ in range(12):
        bench.train(1)
        counts.append(sum(int(mask.sum()) for mask in bench.state.values()))
    halfway = round(195 * (1 - 0.5 * (1 - 0.5**3)))
    assert counts == [195] * 7 + [halfway] * 3 + [98] * 2
    assert replace(late, initial=0.5).due(1)


scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), min_size=1, max_size=12)


@given(score=scores, marks=st.integers(0, 4095), count=st.integers(0, 14))
@settings(max_examples=150, deadline=None)
def test_highest_is_exact_whatever_the_ties(score, marks, count):
    among = [bool(marks >> i & 1) for i in range(len(score))]
    value = [0.0 if math.isnan(s) else s for s in score]
    order = sorted((i for i in range(len(score)) if among[i]), key=lambda i: -value[i])
    got = highest(torch.tensor(score), torch.tensor(among), torch.tensor(count))
    assert got.nonzero().flatten().tolist() == sorted(order[:count])


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=4), min_size=1, max_size=5), share=st.floats(0, 1)
)
@settings(max_examples=150, deadline=None)
def test_erdos_renyi_counts_add_up_and_follow_the_shapes(shapes, share):
    sizes = [math.prod(shape) for shape in shapes]
    kept = round(share * sum(sizes))
    counts = erdos_renyi_kernel(shapes, kept)
    assert sum(counts) == kept and all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    open_layers = [(c, sum(s)) for c, s, size in zip(counts, shapes, sizes, strict=True) if c < size - 1]
    for count, width in open_layers:  # the others' share, give or take the rounding
        assert all(abs(count - width * (c / w)) <= 1 + width / w for c, w in open_layers)


@given(seed=st.integers(0, 999), fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_regeneration_keeps_the_count_of_every_layer_and_replica(seed, fraction, share):
    draw = Draw(seed, ("test",))
    weight, mask = draw.normal("w", torch.empty(2, 5, 4)).round(), draw.uniform("m", torch.empty(2, 5, 4)) < share
    score = draw.uniform("s", weight).round(decimals=1)
    fraction = torch.tensor(fraction, dtype=torch.float64)
    after = regenerate(weight, mask, score, fraction, lead=1)
    assert torch.equal(after.flatten(1).sum(1), mask.flatten(1).sum(1))
    alone = [regenerate(w, m, s, fraction) for w, m, s in zip(weight, mask, score, strict=True)]
    assert torch.equal(after, torch.stack(alone))


def test_pruning_keeps_the_largest_of_all_layers_together():
    weights = {"a": torch.tensor([[1.0, -4.0], [3.0, 0.5]]), "b": torch.tensor([[-2.0, 5.0]])}
    masks = {"a": torch.tensor([[True, True], [False, True]]), "b": torch.tensor([[True, True]])}
    got = prune(weights, masks, torch.tensor(3))
    assert got["a"].tolist() == [[False, True], [False, False]] and got["b"].tolist() == [[True, True]]


def test_schedules_and_scattered_masks():
    end = torch.tensor(0.9, dtype=torch.float64)
    assert float(cubic(0.5, torch.tensor(0.0), end)) == pytest.approx(0.9 - 0.9 / 8)
    assert float(cubic(2.0, torch.tensor(0.0), end)) == pytest.approx(0.9)
    half = torch.tensor(0.5, dtype=torch.float64)
    assert [round(float(cosine(p, half, 0.005)), 6) for p in (0, 0.5, 1, 2)] == [0.5, 0.2525, 0.005, 0.005]
    assert float(cosine(0.3, torch.tensor(0.0), 0.005)) == 0.0
    got = scattered({"a": torch.zeros(2, 30, 10)}, [120], Draw([0, 1], ("x",)), lead=1)["a"]
    assert got.flatten(1).sum(1).tolist() == [120, 120] and not torch.equal(got[0], got[1])
    assert torch.equal(got[1], scattered({"a": torch.zeros(30, 10)}, [120], Draw(1, ("x",)))["a"])


def test_the_edits_that_hold_are_masks_and_zeros():
    bench = Bench(DOUBLE, SHORT)
    bench.train(5)
    held = bench.train(1)[0].edits
    assert all(isinstance(e, SetValues) and e.value.ndim == 0 and not e.value.any() for e in held) and len(held) == 3
