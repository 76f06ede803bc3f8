"""The reasoning laboratory: tasks, verifier, cached sampling, staleness, pass@k, preferences; deterministic by seed."""

import itertools
import math

import pytest
import torch

from homeostat.controllers import PI
from homeostat.objectives import ClippedPolicyGradient, DPOShift, Entropic
from homeostat.studies.lab.reasoning import improve as improving
from homeostat.studies.lab.reasoning.base import Base, generator
from homeostat.studies.lab.reasoning.improve import Rounds, Steered, improve
from homeostat.studies.lab.reasoning.model import Shape, Transformer
from homeostat.studies.lab.reasoning.preferences import gold, pairs, prefer
from homeostat.studies.lab.reasoning.sampling import pass_at_k, sample, score
from homeostat.studies.lab.reasoning.tasks import Chain

TASK = Chain(5, 3, "+-*")
SMALL = Base(TASK, width=16, layers=1, steps=20, batch=16)


def by_hand(task, prompt):
    """The intermediate results of one prompt, in plain Python."""
    value, found = prompt[0], []
    for sign, number in zip(prompt[1::2], prompt[2::2], strict=False):
        value = {"+": value + number, "-": value - number, "*": value * number}[task.operations[sign - task.modulus]]
        value %= task.modulus
        found.append(value)
    return found


def test_prompts_and_steps_are_what_they_say():
    prompts = TASK.prompts(50, generator(0, "x"))
    assert prompts.shape == (50, 6) and bool((prompts[:, -1] == TASK.equals).all())
    assert TASK.steps(prompts).tolist() == [by_hand(TASK, row) for row in prompts.tolist()]


def test_the_verifier_looks_at_the_number_before_the_first_end():
    prompts = TASK.prompts(1, generator(1, "x")).repeat(5, 1)
    right, end = by_hand(TASK, prompts[0].tolist())[-1], TASK.end
    wrong = (right + 1) % 5
    answers = [[wrong, right, end, wrong], [right, end, wrong, end], [right, wrong, end, end], [end, right, right, end]]
    answers.append([right] * 4)
    assert TASK.verify(prompts, torch.tensor(answers)).tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("slip", [0.0, 0.4])
def test_demonstrations_slip_as_often_as_they_say(slip):
    source = generator(2, "x")
    prompts = TASK.prompts(4000, source)
    shown = TASK.demonstrations(prompts, slip, source)
    assert bool((shown[:, -1] == TASK.end).all())
    first = (shown[:, 0] == TASK.steps(prompts)[:, 0]).double().mean().item()
    assert first == pytest.approx(1 - slip * 0.8, abs=0.03)
    assert gold(TASK, prompts, shown).double().mean().item() == pytest.approx(1 - slip * 0.8, abs=0.03)


def test_gold_reward_by_hand():
    prompt = torch.tensor([[1, 5, 2, 5, 1, 8]])  # 1 + 2 + 1 modulo 5: 3, 4
    for answer, worth in [([3, 4, 9, 9], 1.0), ([2, 3, 9, 9], 0.5), ([2, 2, 9, 9], 0.0), ([3, 4, 1, 9], 0.5)]:
        assert gold(TASK, prompt, torch.tensor([answer])).item() == worth


def test_the_cache_changes_nothing():
    torch.manual_seed(0)
    model = Transformer(Shape(10, 9, 16, 2)).double()
    tokens = torch.randint(10, (3, 9))
    logits, cache = model.step(tokens[:, :4], None)
    steps = [logits]
    for t in range(4, 9):
        logits, cache = model.step(tokens[:, t : t + 1], cache)
        steps.append(logits)
    assert torch.allclose(torch.cat(steps, 1), model(tokens), atol=1e-12)


def test_samples_come_from_the_policy():
    """Log-probabilities are those of a full forward pass, and tokens come as often as they are probable."""
    model = SMALL.policy(3)
    prompts = TASK.prompts(2, generator(3, "x"))
    found = sample(model, TASK, prompts, 1000, generator(3, "y"))
    logp, entropy = score(model, found.prompts, found.answers)
    assert torch.allclose(logp[found.mask], found.logp[found.mask], atol=1e-5)
    often = torch.bincount(found.answers[:1000, 0], minlength=TASK.vocabulary) / 1000
    expected = torch.softmax(model(prompts[:1])[0, -1], -1)
    assert (often - expected).abs().max() < 5 * math.sqrt(0.25 / 1000)
    assert torch.equal(found.mask, (found.answers == TASK.end).cumsum(-1) - (found.answers == TASK.end).long() == 0)
    assert bool((entropy >= 0).all()) and bool((entropy <= math.log(TASK.vocabulary) + 1e-5).all())


def test_pass_at_k_is_the_mean_over_all_subsets():
    correct = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    for k in range(1, 6):
        subsets = [any(correct[i] for i in chosen) for chosen in itertools.combinations(range(5), k)]
        assert pass_at_k(correct, k).item() == pytest.approx(sum(subsets) / len(subsets))
    with pytest.raises(ValueError, match="1 <= k <= 5"):
        pass_at_k(correct, 6)


def test_the_base_policy_depends_on_its_seed_alone_and_is_handed_out_as_a_copy():
    state = torch.get_rng_state()
    first = SMALL.policy(4)
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        first.head.bias += 1
    torch.manual_seed(99)
    for other in (5, 6):
        SMALL.policy(other)
    again, another = SMALL.policy(4), SMALL.policy(5)
    assert torch.allclose(again.head.bias + 1, first.head.bias)
    assert not torch.equal(again.head.weight, another.head.weight)


def test_staleness_is_the_number_of_updates_on_one_set_of_rollouts():
    """The first update after sampling is on-policy, the last is not; an on-policy course never leaves ratio 1."""
    for updates in (1, 3):
        model, kl = SMALL.policy(7), []

        class Spy(ClippedPolicyGradient, abstract=True):
            def losses(self, batch, stats, knobs, kl=kl):
                found = super().losses(batch, stats, knobs)
                kl.append(float((batch["logp"] - batch["old_logp"]).detach()[batch["mask"]].abs().max()))
                return found

        improve(model, TASK, (Spy(),), Rounds(rounds=2, updates=updates, prompts=4, group=4, rate=1e-2), 7)
        assert [k > 1e-4 for k in kl] == [False, *[True] * (updates - 1)] * 2


def test_a_run_repeats_and_learns():
    rounds, seen = Rounds(rounds=3, updates=2, prompts=4, group=4, rate=1e-3), []
    for _ in range(2):
        model = SMALL.policy(8)
        log = improve(model, TASK, (ClippedPolicyGradient(),), rounds, 8, probe=True)
        seen.append((log.series, model.state_dict(), improving.tested(model, TASK, 8, 8, 4)))
    assert seen[0][0] == seen[1][0] and seen[0][2] == seen[1][2]
    assert all(torch.equal(a, b) for a, b in zip(seen[0][1].values(), seen[1][1].values(), strict=True))
    assert {len(series) for series in seen[0][0].values()} == {6}


def test_the_controller_turns_the_knob():
    steered = Steered(PI(set_point=0.5, kp=1.0, ki=0.01, low=-1.0, high=1.0))
    log = improve(SMALL.policy(9), TASK, (Entropic(),), Rounds(3, prompts=4, group=4), 9, steered=steered)
    first = log.series["entropy"][0] - 0.5
    assert log.series["alpha"][0] == pytest.approx(max(-1.0, min(1.0, first + 0.01 * first)), rel=1e-4)


def test_preferences_are_preferred_and_learned():
    model = SMALL.policy(10)
    data = pairs(model, TASK, 64, 4, 10, "train")
    assert len(data.prompts) > 8
    better, worse = gold(TASK, data.prompts, data.chosen), gold(TASK, data.prompts, data.rejected)
    assert bool((better > worse).all())
    with torch.no_grad():
        given = data.batch(model)
    assert torch.allclose(given["chosen_logp"][data.chosen_mask], data.chosen_reference[data.chosen_mask], atol=1e-5)
    objective = DPOShift(beta=0.1)
    before = objective(given).values.sum().item()
    prefer(model, data, objective, 10, steps=20, batch=16, rate=1e-2)
    with torch.no_grad():
        assert objective(data.batch(model)).values.sum().item() < before
