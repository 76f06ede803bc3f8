"""Objectives against slow, obvious restatements of their papers: loops over answers and tokens, float64, autograd.

Compared with the authors' code while writing this (50 random batches of 40 answers and 9 tokens in one piece, since the
released code takes its means and ranks over a micro-batch; largest difference of loss, of gradient):

- KL-Cov, `compute_policy_loss_kl_cov` (PRIME-RL/Entropy-Mechanism-of-RL): 6e-17, 0.
- Clip-Cov, `compute_policy_loss_clip_cov`, with all candidates dropped: 6e-17, 0; with 5% dropped at random the same
  share of tokens: 7e-18. Both say: the covariance is about the means over tokens; a token that clipping already took is
  no candidate; bounds are strict; never fewer than one token. KL-Cov does not clip the surrogate.
- EntroPIC, `compute_policy_loss_entropic` (yk7333/EntroPIC) at alpha = +-0.6: 2e-16, 0. It says what the paper's text
  leaves open: the threshold is 0.95, on the current policy's probability; the second mean is over the confident tokens
  alone and its ratio is not clipped; dual clipping at 3; the accumulator sums the errors before the present one.
- DPO-Shift, `dpo_loss` (Meaquadddd/DPO-Shift): fixed f 2e-16; linear schedules 6e-10 (theirs is a float32 ramp).
"""

import math
from dataclasses import replace

import pytest
import torch

from homeostat.controllers import PI
from homeostat.core.random import Draw
from homeostat.objectives import (
    ClipCov,
    ClippedPolicyGradient,
    DPOShift,
    Entropic,
    EntropyBonus,
    KLCov,
    covariance,
    group_advantage,
    likelihood_displacement,
    shift_schedule,
    token_entropy,
    token_mean,
)
from homeostat.objectives.policy.covariance import cut
from homeostat.testing.objective_laws import batch_for, gradients

TIGHT = 1e-9


def agrees(objective, oracle, items=17, tokens=5, seeds=5):
    """Loss and gradient of the objective, in micro-batches, equal the oracle's on the whole batch."""
    for seed in range(seeds):
        batch = batch_for(objective.fields, seed, items, tokens)
        parts = [{name: value[i : i + 5] for name, value in batch.items()} for i in range(0, items, 5)]
        losses, grads = gradients(objective, parts)
        live = {n: v.clone().requires_grad_() if n in grads else v for n, v in batch.items()}
        expected = oracle(live, objective)
        total = sum(found.values.sum() for found in losses)
        assert total.item() == pytest.approx(expected.item(), rel=TIGHT, abs=TIGHT)
        for name, truth in zip(grads, torch.autograd.grad(expected, [live[n] for n in grads]), strict=True):
            assert (torch.cat(grads[name]) - truth).abs().max().item() < TIGHT
            assert truth.abs().max().item() > 1e-4, "a gradient of zero would show nothing"


def number(x):
    """A plain number, without gradient."""
    return x.item() if isinstance(x, torch.Tensor) else float(x)


def tokens_of(batch):
    """(log pi, log pi_old, A, item, place) of every token that counts."""
    for i, row in enumerate(batch["mask"]):
        for t, counts in enumerate(row):
            if counts:
                yield batch["logp"][i, t], batch["old_logp"][i, t], batch["advantage"][i, t], i, t


def clip(ratio, low, high):
    return min(max(number(ratio), 1 - low), 1 + high)


def clipped_loss(new, old, advantage, o):
    """max(-r A, -clip(r) A), at most -dual A for bad tokens; which branch is decided on plain numbers."""
    ratio = torch.exp(new - old)
    plain, bounded = -ratio * advantage, -clip(ratio, o.low, o.high) * advantage
    best = plain if number(plain) >= number(bounded) else bounded
    return -advantage * o.dual if number(advantage) < 0 and number(best) > -number(advantage) * o.dual else best


def plain_policy_gradient(batch, o):
    found = [clipped_loss(new, old, a, o) for new, old, a, _, _ in tokens_of(batch)]
    return sum(found) / len(found)


@pytest.mark.oracle("clipped-policy-gradient")
@pytest.mark.parametrize("settings", [{}, {"low": 0.05, "high": 0.3, "dual": 1.2}])
def test_clipped_policy_gradient(settings):
    agrees(ClippedPolicyGradient(**settings), plain_policy_gradient)


@pytest.mark.oracle("clipped-policy-gradient")
def test_on_policy_it_is_the_policy_gradient_theorem():
    """pi = pi_old: the gradient of the loss is -A / tokens at every token."""
    objective = ClippedPolicyGradient()
    batch = batch_for(objective.fields)
    _, grads = gradients(objective, [{**batch, "old_logp": batch["logp"]}])
    expected = torch.where(batch["mask"], -batch["advantage"], 0.0) / batch["mask"].sum()
    assert torch.allclose(grads["logp"][0], expected, atol=1e-15)


@pytest.mark.oracle("entropy-bonus")
def test_entropy_bonus():
    def oracle(batch, o):
        found = [h for row, marks in zip(batch["entropy"], batch["mask"], strict=True) for h in row[marks]]
        return -o.weight * sum(found) / len(found)

    agrees(EntropyBonus(weight=0.3), oracle)


@pytest.mark.oracle("entropic")
@pytest.mark.parametrize("settings", [{"alpha": 0.6}, {"alpha": -1.0, "dual": 1.1}, {"alpha": 0.3, "threshold": 0.9}])
def test_entropic(settings):
    def oracle(batch, o):
        first = plain_policy_gradient(batch, o)
        sure = [-torch.exp(n - b) * abs(a) for n, b, a, _, _ in tokens_of(batch) if math.exp(number(n)) > o.threshold]
        return first + o.alpha * sum(sure) / len(sure)

    agrees(Entropic(**{"threshold": 0.5, **settings}), oracle)


@pytest.mark.oracle("entropic")
def test_entropic_weighs_confident_tokens_by_one_plus_or_minus_alpha():
    """The paper's words: with every token confident and on-policy, good ones weigh 1 + alpha, bad ones 1 - alpha."""
    objective = Entropic(alpha=0.4, threshold=0.0)
    batch = batch_for(objective.fields)
    _, grads = gradients(objective, [{**batch, "old_logp": batch["logp"]}])
    weight = torch.where(batch["advantage"] > 0, 1.4, 0.6) * torch.where(batch["mask"], batch["advantage"], 0.0)
    assert torch.allclose(grads["logp"][0], -weight / batch["mask"].sum(), atol=1e-15)


@pytest.mark.parametrize(
    ("neutral", "plain"),
    [
        (Entropic(alpha=0.0), ClippedPolicyGradient()),
        (KLCov(beta=0.0), ClippedPolicyGradient(low=1.0, high=1e9, dual=1e9)),
        (ClipCov(lower=1e9, upper=2e9, low=0.2), ClippedPolicyGradient(high=1.0, dual=1e9)),
    ],
    ids=lambda o: o.name,
)
def test_neutral_it_is_the_plain_policy_gradient(neutral, plain):
    batch = batch_for(neutral.fields, 1)
    assert torch.allclose(neutral(batch).values, plain(batch).values, atol=1e-15)


def paper_control(errors, kp=1.0, ki=0.01):
    """The released control law: alpha = clip(kp e_t + ki * (sum of the errors before t), -1, 1)."""
    total, out = 0.0, []
    for e in errors:
        out.append(min(max(kp * e + ki * total, -1.0), 1.0))
        total += e
    return out


def house_control(errors):
    controller = PI(set_point=0.1, kp=1.0, ki=0.01, low=-1.0, high=1.0, when_high="raise")
    state = {**controller.init(torch.zeros(())), "error": torch.zeros((), dtype=torch.float64)}
    out = []
    for e in errors:
        alpha, state = controller.step(torch.tensor(0.1 + e, dtype=torch.float64), state)
        out.append(number(alpha))
    return out


@pytest.mark.oracle("entropic")
def test_the_house_pi_is_the_papers_control_law_until_it_saturates():
    """The same but for the present error, which the house's integral holds already: ki * e_t = 0.01 e_t."""
    errors = (0.3 * Draw(0).normal("errors", torch.empty(200, dtype=torch.float64))).clamp(-0.5, 0.5).tolist()
    for error, paper, house in zip(errors, paper_control(errors), house_control(errors), strict=True):
        assert house == pytest.approx(paper + 0.01 * error, abs=1e-9)


def test_the_house_pi_leaves_its_limit_at_once_where_the_released_sum_winds_up():
    errors = [2.0] * 300 + [-0.2] * 30
    assert house_control(errors)[301] < 0.9
    assert paper_control(errors)[-1] == 1.0, "the released sum is still at its limit 30 steps later"


def covariances(batch):
    rows = [(number(new), number(a), i, t) for new, _, a, i, t in tokens_of(batch)]
    means = [sum(row[k] for row in rows) / len(rows) for k in (0, 1)]
    return [((new - means[0]) * (a - means[1]), i, t) for new, a, i, t in rows]


@pytest.mark.oracle("kl-cov")
@pytest.mark.parametrize("settings", [{"fraction": 0.2}, {"fraction": 1e-4, "beta": 2.0}, {"fraction": 1.0}])
def test_kl_cov(settings):
    def oracle(batch, o):
        ranked = sorted(covariances(batch), reverse=True)
        held = {(i, t) for _, i, t in ranked[: max(1, int(len(ranked) * o.fraction))]}
        found = [
            -torch.exp(new - old) * a + (o.beta * abs(new - old) if (i, t) in held else 0.0)
            for new, old, a, i, t in tokens_of(batch)
        ]
        return sum(found) / len(found)

    agrees(KLCov(**settings), oracle)


def penalised(objective, batch):
    """Number of tokens whose loss the penalty changes."""
    without = replace(objective, beta=0.0)(batch).values
    return int((objective(batch).values != without).sum())


@pytest.mark.parametrize("advantage", [0.0, 0.1])
def test_kl_cov_penalises_no_token_of_a_batch_without_covariance(advantage):
    """All answers are right, or all wrong: every covariance is 0 up to rounding."""
    batch = batch_for(KLCov.fields, 1, 30, 7)
    batch = {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}
    assert penalised(KLCov(fraction=0.1), {**batch, "advantage": torch.full_like(batch["advantage"], advantage)}) == 0
    assert penalised(KLCov(fraction=0.1), batch) == int(0.1 * batch["mask"].sum())


def test_kl_cov_and_clip_cov_leave_out_tokens_that_tie_with_the_first_one_not_selected():
    values = torch.tensor([[1.0, 2.0, 2.0, 3.0, 5.0]], dtype=torch.float64)
    assert [int((values < cut(values[0], torch.tensor(n))).sum()) for n in range(6)] == [0, 1, 1, 3, 4, 5]


@pytest.mark.parametrize("objective", [KLCov(fraction=0.0), ClipCov(fraction=0.0, lower=-1e3, upper=1e3)])
def test_fraction_zero_selects_nothing(objective):
    batch = batch_for(objective.fields, 2)
    found = objective(batch)
    assert not found.diagnostics["chosen fraction"].any()
    assert replace(objective, fraction=1e-6)(batch).diagnostics["chosen fraction"].any()


@pytest.mark.oracle("clip-cov")
@pytest.mark.parametrize("settings", [{"fraction": 0.1}, {"fraction": 1e-4}, {"fraction": 1.0, "upper": 0.8}])
def test_clip_cov(settings):
    def oracle(batch, o):
        free = {}
        for new, old, a, i, t in tokens_of(batch):
            ratio = math.exp(number(new - old))
            free[i, t] = -clip(ratio, o.low, o.high) * number(a) <= -ratio * number(a)
        cov = covariances(batch)
        able = sorted((number(batch["noise"][i, t]), i, t) for c, i, t in cov if o.lower < c < o.upper and free[i, t])
        dropped = {(i, t) for _, i, t in able[: max(1, int(len(cov) * o.fraction))]}
        found = [
            clipped_loss(new, old, a, ClippedPolicyGradient(low=o.low, high=o.high, dual=1e9))
            for new, old, a, i, t in tokens_of(batch)
            if (i, t) not in dropped
        ]
        return sum(found) / len(cov)

    agrees(ClipCov(**{"lower": 0.05, "upper": 2.0, "low": 0.2, "high": 0.2, **settings}), oracle)


def test_clip_cov_drops_every_candidate_equally_often():
    objective = ClipCov(fraction=0.05, lower=0.05, upper=5.0)
    batch = batch_for(objective.fields, 3)
    eligible = {(i, t) for c, i, t in covariances(batch) if 0.05 < c < 5.0}
    counts, runs = dict.fromkeys(eligible, 0), 200
    for run in range(runs):
        noise = Draw(run).uniform("noise", batch["noise"])
        values = objective({**batch, "noise": noise, "old_logp": batch["logp"]}).values
        (gone,) = [(i, t) for i, t in eligible if values[i, t] == 0]
        counts[gone] += 1
    expected = runs / len(eligible)
    assert len(eligible) > 4
    assert all(abs(n - expected) < 5 * math.sqrt(expected) for n in counts.values())


@pytest.mark.oracle("dpo-shift")
@pytest.mark.parametrize("settings", [{"shift": 1.0}, {"shift": 0.75}, {"shift": 0.1, "beta": 2.0}])
def test_dpo_shift(settings):
    def oracle(batch, o):
        found = []
        for i in range(len(batch["chosen_mask"])):
            gain, lift = (
                sum(batch[f"{side}_logp"][i, t] - batch[f"{side}_reference"][i, t] for t in range(5) if mask[t])
                for side, mask in ((s, batch[f"{s}_mask"][i]) for s in ("chosen", "rejected"))
            )
            margin = o.beta * gain - o.shift * o.beta * lift
            if batch["chosen_mask"][i].any() or batch["rejected_mask"][i].any():
                found.append(torch.log(1 + torch.exp(-margin)))
        return sum(found) / len(found)

    agrees(DPOShift(**{"beta": 0.5, **settings}), oracle)


@pytest.mark.oracle("dpo-shift")
def test_dpo_shift_with_one_is_dpo_and_less_damps_the_rejected_gradient():
    batch = batch_for(DPOShift.fields, 2)
    alike = {**batch, **{f"{s}_reference": batch[f"{s}_logp"] for s in ("chosen", "rejected")}}
    _, plain = gradients(DPOShift(shift=1.0), [alike])
    _, half = gradients(DPOShift(shift=0.5), [alike])
    assert torch.allclose(half["chosen_logp"][0], plain["chosen_logp"][0])
    assert torch.allclose(half["rejected_logp"][0], 0.5 * plain["rejected_logp"][0])


def test_dpo_shift_diagnostics_by_hand():
    row = lambda *x: torch.tensor([x, x], dtype=torch.float64)  # noqa: E731
    batch = {
        "chosen_mask": torch.tensor([[True, True], [True, True]]),
        "rejected_mask": torch.tensor([[True, False], [True, False]]),
        "chosen_logp": row(-2.0, -1.0),
        "chosen_reference": row(-1.0, -1.0),
        "rejected_logp": row(-5.0, -9.0),
        "rejected_reference": row(-3.0, 0.0),
    }
    told = {name: value.sum().item() for name, value in DPOShift(beta=0.5)(batch).diagnostics.items()}
    expected = {
        "chosen log-probability": -3.0,
        "rejected log-probability": -5.0,
        "margin": 0.5,
        "accuracy": 1.0,
        "displacement": 1.0,
    }
    assert told == pytest.approx(expected)
    assert likelihood_displacement(torch.tensor([-3.0]), torch.tensor([-2.0])).item() == told["displacement"]


def test_shift_schedules():
    points = torch.tensor([0.0, 0.5, 1.0])
    assert shift_schedule(points, 0.5, 1.0).tolist() == [1.0, 1.0, 1.0]
    assert shift_schedule(points, 0.5, 1.0, "increase").tolist() == [0.5, 0.75, 1.0]
    assert shift_schedule(points, 0.5, 1.0, "decrease").tolist() == [1.0, 0.75, 0.5]
    with pytest.raises(ValueError, match="increase"):
        shift_schedule(points, 0.5, 1.0, "cosine")


def test_token_entropy_and_mean_by_loops():
    logits = 3 * Draw(0).normal("logits", torch.empty(2, 3, 5, dtype=torch.float64))
    logits[0, 0, 1] = -torch.inf
    mask = torch.tensor([[True, True, False], [True, False, False]])
    p = torch.softmax(logits, -1)
    slow = [[-sum(number(q) * math.log(q) for q in row if q > 0) for row in rows] for rows in p]
    assert torch.allclose(token_entropy(logits), torch.tensor(slow, dtype=torch.float64))
    assert token_mean(token_entropy(logits), mask).item() == pytest.approx((slow[0][0] + slow[0][1] + slow[1][0]) / 3)
    assert torch.isnan(token_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)))


def test_covariance_is_what_torch_calls_covariance():
    batch = batch_for(KLCov.fields)
    shares = covariance(batch["logp"], batch["advantage"], batch["mask"])
    pairs = torch.stack([batch["logp"][batch["mask"]], batch["advantage"][batch["mask"]]])
    assert token_mean(shares, batch["mask"]).item() == pytest.approx(torch.cov(pairs, correction=0)[0, 1].item())


def test_group_advantage_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    found = group_advantage(rewards)
    assert found[0].tolist() == pytest.approx([2 / 3 / 3**-0.5, -1 / 3 / 3**-0.5, -1 / 3 / 3**-0.5], rel=1e-5)
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="two or more"):
        group_advantage(torch.ones(3, 1))
