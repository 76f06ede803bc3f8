"""Batched environments step as Gymnasium's do, and each replica is the environment of its seed alone."""

from __future__ import annotations

import pytest
import torch
from studies.grid_games import SlowBreakout, SlowInvaders

from homeostat.studies.lab import environments as ours

STEPS = 400
PAIRS = {
    "CartPole-v1": ours.CartPole,
    "Acrobot-v1": ours.Acrobot,
    "MountainCar-v0": ours.MountainCar,
    "Pendulum-v1": ours.Pendulum,
}


def _actions(rules, count: int, g: torch.Generator) -> torch.Tensor:
    if rules.actions:
        return torch.randint(rules.actions, (count,), generator=g)
    return 2 * torch.rand(count, rules.action_size, generator=g, dtype=torch.float64) - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_steps_as_gymnasium_does(name):
    gymnasium = pytest.importorskip("gymnasium")
    rules, g = PAIRS[name](), torch.Generator().manual_seed(0)
    environments = ours.Environments(rules, (0, 1, 2))
    theirs = [gymnasium.make(name).unwrapped for _ in range(3)]

    def begin(r: int) -> None:
        theirs[r].reset()
        theirs[r].state = environments.state[r].numpy().copy()

    for r in range(3):
        begin(r)
    for _ in range(STEPS):
        actions = _actions(rules, 3, g)
        outcome = environments.step(actions)
        for r, each in enumerate(theirs):
            action = int(actions[r]) if rules.actions else 2 * actions[r].numpy()
            observation, reward, terminated, _, _ = each.step(action)
            torch.testing.assert_close(outcome.reached[r], torch.as_tensor(observation), rtol=1e-5, atol=1e-6)
            assert float(outcome.reward[r]) == pytest.approx(float(reward), rel=1e-5)
            assert bool(outcome.terminated[r]) == terminated
            # both go on from the same state, so that rounding does not grow in chaotic dynamics
            begin(r)


def test_a_replica_is_the_environment_of_its_seed_alone():
    rules, g = ours.CartPole(), torch.Generator().manual_seed(1)
    together = ours.Environments(rules, (3, 4, 5))
    alone = ours.Environments(rules, (4,))
    for _ in range(1200):
        actions = _actions(rules, 3, g)
        first, second = together.step(actions), alone.step(actions[1:2])
        assert torch.equal(first.observation[1:2], second.observation)


def test_an_episode_ends_by_its_rules_or_at_its_limit():
    car = ours.Environments(ours.MountainCar(), (0, 1))
    for step in range(1, 401):
        outcome = car.step(torch.tensor([1, 1]))  # coasting never reaches the top
        assert outcome.truncated.tolist() == [step % 200 == 0] * 2
        assert [value == -200.0 for value in outcome.returns.tolist()] == [step % 200 == 0] * 2
    pole = ours.Environments(ours.CartPole(), (0,))
    fallen = [bool(pole.step(torch.tensor([1])).terminated) for _ in range(30)]
    assert 2 <= sum(fallen) <= 4


def _chase(planes, g: torch.Generator) -> torch.Tensor:
    """Mostly follow the ball of Breakout, so that games last and bricks are hit."""
    paddle, ball = planes[:, 0, 9].argmax(-1), planes[:, 1].amax(1).argmax(-1)
    follow = torch.where(ball > paddle, 2, torch.where(ball < paddle, 1, 0))
    return torch.where(
        torch.rand(len(planes), generator=g) < 0.1, torch.randint(3, (len(planes),), generator=g), follow
    )


@pytest.mark.parametrize("name", ["breakout", "invaders"])
def test_games_on_a_grid_step_as_a_game_written_cell_by_cell_does(name):
    rules = ours.Breakout() if name == "breakout" else ours.SpaceInvaders()
    g, count, rewards, ends = torch.Generator().manual_seed(0), 4, 0, 0
    starts = torch.rand(count, 1, generator=g, dtype=torch.float64)
    state = rules.start(starts)
    make = (lambda draw: SlowBreakout(draw < 0.5)) if name == "breakout" else (lambda draw: SlowInvaders())
    games, last = [make(float(draw)) for draw in starts], [0] * count
    for _ in range(600):
        draws = torch.rand(count, 1, generator=g, dtype=torch.float64)
        planes = rules.observe(state)
        action = _chase(planes, g) if name == "breakout" else torch.randint(4, (count,), generator=g)
        state, reward, ended = rules.advance(state, action, draws)
        for r, game in enumerate(games):
            last[r] = last[r] if float(draws[r]) < 0.1 else int(action[r])
            assert game.act(last[r]) == (int(reward[r]), bool(ended[r]))
            assert torch.equal(rules.observe(state)[r], torch.as_tensor(game.planes()))
            rewards, ends = rewards + int(reward[r]), ends + bool(ended[r])
            if bool(ended[r]):
                state[r], games[r], last[r] = rules.start(starts)[r], make(float(starts[r])), 0
    assert rewards > 30 and ends > 3


def test_the_walker_of_four_rooms_stops_at_walls_and_ends_at_its_goal():
    rules = ours.FourRooms()
    state = torch.tensor([[0.0, 0, 0, 2], [1, 4, 5, 1], [4, 1, 5, 1], [2, 4, 9, 9]])
    state, reward, ended = rules.advance(state.double(), torch.tensor([2, 3, 1, 3]), None)
    assert state[:, :2].tolist() == [[0, 0], [1, 4], [5, 1], [2, 5]]  # edge, wall, door to the goal, door
    assert reward.tolist() == [0, 0, 1, 0] and ended.tolist() == [False, False, True, False]
    planes = rules.observe(state)
    assert planes[:, 1].sum((1, 2)).tolist() == planes[:, 2].sum((1, 2)).tolist() == [1.0] * 4
    assert not bool((planes[:, 0] * (planes[:, 1] + planes[:, 2])).any())  # nobody stands in a wall
    starts = rules.start(torch.rand(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert not bool((starts[:, :2] == starts[:, 2:]).all(-1).any())
