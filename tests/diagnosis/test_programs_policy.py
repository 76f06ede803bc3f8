"""Small programs of reinforcement learning in pairs: the sick one is named by its cause, the other one is well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from grids import part_of
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

import homeostat

STATES, ACTIONS = 8, 6
Program = Callable[[bool], Any]
"""(sick) -> the attached run, at its end."""


def mlp(inputs: int, outputs: int, hidden: int = 32, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, outputs))


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def clipped(new, old, advantage, by=0.2):
    """Negative surrogate of PPO."""
    ratio = torch.exp(new - old)
    return -torch.min(ratio * advantage, ratio.clamp(1 - by, 1 + by) * advantage).mean()


def bandit(states, actions):
    """Every state has one best action; those next to it are worth half."""
    distance = (actions - states % ACTIONS).abs()
    return (distance == 0).float() + 0.5 * (distance == 1).float()


def discrete_ppo(sick: bool):
    """Actor and critic apart, one loss, one optimizer."""
    torch.manual_seed(0)
    actor, critic = mlp(STATES, ACTIONS), mlp(STATES, 1)
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    optimizer = torch.optim.Adam(model.parameters(), 0.1 if sick else 1e-3)
    run = homeostat.attach(model, optimizer, every=50)
    for _ in range(20 if sick else 60):
        where = torch.randint(0, STATES, (256,))
        x = F.one_hot(where, STATES).float()
        with torch.no_grad():
            chance = Categorical(logits=actor(x))
            act = chance.sample()
            old, gain = chance.log_prob(act), bandit(where, act) + 0.5 * torch.randn(256)
            advantage = gain - critic(x).squeeze(1)
        for part in [part for _ in range(10 if sick else 4) for part in torch.randperm(256).split(128)]:
            chance, value = Categorical(logits=actor(x[part])), critic(x[part]).squeeze(1)
            scaled = (advantage[part] - advantage[part].mean()) / (advantage[part].std() + 1e-8)
            policy = clipped(chance.log_prob(act[part]), old[part], scaled, 0.5 if sick else 0.2)
            step(optimizer, policy + 0.5 * F.mse_loss(value, gain[part]) - 0.01 * chance.entropy().mean())
    run.detach()
    return run


def continuous_ppo(sick: bool):
    """A normal distribution with its own deviations; two backward passes."""
    torch.manual_seed(0)
    model = nn.Module()
    model.mean, model.critic, model.log_std = mlp(4, 2), mlp(4, 1), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-2 if sick else 1e-3)
    run = homeostat.attach(model, optimizer, every=50)
    for _ in range(15 if sick else 40):
        x = torch.randn(256, 4)
        with torch.no_grad():
            chance = Normal(model.mean(x), model.log_std.exp())
            act = chance.sample()
            old, gain = chance.log_prob(act).sum(-1), -(act - x[:, :2]).square().sum(-1)
        for part in [part for _ in range(10 if sick else 4) for part in torch.randperm(256).split(64)]:
            chance, value = Normal(model.mean(x[part]), model.log_std.exp()), model.critic(x[part]).view(-1)
            advantage = gain[part] - value.detach()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            optimizer.zero_grad()
            clipped(chance.log_prob(act[part]).sum(-1), old[part], advantage, 0.5 if sick else 0.2).backward()
            (0.5 * (value - gain[part]).pow(2).mean()).backward()
            optimizer.step()
    run.detach()
    return run


def token_ppo(sick: bool):
    """Group-relative advantages of short texts: log-softmax with a choice, no value."""
    torch.manual_seed(0)
    length, vocabulary = 4, 12
    policy = nn.Sequential(nn.Embedding(STATES, 32), nn.Tanh(), nn.Linear(32, length * vocabulary))
    optimizer = torch.optim.AdamW(policy.parameters(), 5e-2 if sick else 3e-3)
    answers = torch.randint(0, vocabulary, (STATES, length))
    run = homeostat.attach(policy, optimizer, every=50)

    def log_probabilities(prompt, text):
        logits = policy(prompt).view(-1, 1, length, vocabulary).expand(-1, 8, -1, -1)
        return logits.log_softmax(-1).gather(-1, text.unsqueeze(-1)).squeeze(-1)

    for _ in range(60 if sick else 100):
        prompt = torch.randint(0, STATES, (16,))
        with torch.no_grad():
            logits = policy(prompt).view(16, 1, length, vocabulary).expand(-1, 8, -1, -1)
            text = Categorical(logits=logits).sample()
            old = log_probabilities(prompt, text)
        gain = (text == answers[prompt].unsqueeze(1)).float().mean(-1)
        advantage = (gain - gain.mean(1, keepdim=True)) / (gain.std(1, keepdim=True) + 1e-4)
        for _ in range(10 if sick else 3):
            step(optimizer, clipped(log_probabilities(prompt, text), old, advantage.unsqueeze(-1), 0.2))
    run.detach()
    return run


def actor_critic(sick: bool):
    """One trunk, advantage actor-critic; the sick one rewards certainty."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"trunk": nn.Linear(STATES, 32), "policy": nn.Linear(32, ACTIONS), "value": nn.Linear(32, 1)})
    optimizer = torch.optim.RMSprop(model.parameters(), 3e-3)
    run = homeostat.attach(model, optimizer, every=50)
    for _ in range(600):
        where = torch.randint(0, STATES, (64,))
        hidden = torch.tanh(model["trunk"](F.one_hot(where, STATES).float()))
        chance, value = Categorical(F.softmax(model["policy"](hidden), -1)), model["value"](hidden).squeeze(-1)
        act = chance.sample()
        gain = bandit(where, act)
        actor = -(chance.log_prob(act) * (gain - value).detach()).mean()
        bonus = -0.5 if sick else 0.01
        step(optimizer, actor + F.smooth_l1_loss(value, gain) - bonus * chance.entropy().mean())
    run.detach()
    return run


LENGTH = 10


def corridor(batch: int):
    """Transitions of a random walk: (state, action, reward, next state, 1 at the end)."""
    where, act = torch.randint(0, LENGTH - 1, (batch,)), torch.randint(0, 2, (batch,))
    there = (where + 2 * act - 1).clamp_min(0)
    end = (there == LENGTH - 1).float()
    return where, act, end, there, end


def q_learning(never: bool, clone=copy.deepcopy, update=lambda target, q: target.load_state_dict(q.state_dict())):
    """Values of actions in a corridor, a copy that is updated now and then."""
    torch.manual_seed(0)
    q, eye = mlp(LENGTH, 2, act=nn.ReLU), torch.eye(LENGTH)
    target = clone(q)
    optimizer = torch.optim.Adam(q.parameters(), 1e-3)
    run = homeostat.attach(q, optimizer, every=50)
    for i in range(1200):
        s, a, r, t, end = corridor(32)
        with torch.no_grad():
            goal = r + 0.9 * (1 - end) * target(eye[t]).max(1).values
        step(optimizer, F.smooth_l1_loss(q(eye[s]).gather(1, a[:, None]).squeeze(1), goal))
        if not never and i % 100 == 0:
            update(target, q)
    run.detach()
    return run


def critic_of_actions(never: bool):
    """A critic Q(s, a) inside of one agent with its copy; the copy follows slowly, by assignments to `.data`."""
    torch.manual_seed(0)
    agent = nn.Module()
    agent.critic, agent.critic_target = mlp(LENGTH + 2, 1), mlp(LENGTH + 2, 1)
    agent.critic_target.load_state_dict(agent.critic.state_dict())
    eye, optimizer = torch.eye(LENGTH), torch.optim.Adam(agent.critic.parameters(), 1e-3)
    run = homeostat.attach(agent.critic, optimizer, every=50)

    def both(state, action):
        return torch.cat([eye[state], F.one_hot(action, 2).float()], 1)

    for _ in range(1200):
        s, a, r, t, end = corridor(32)
        following = agent.critic_target(both(t, torch.ones_like(a))).view(-1).detach()
        goal = r + 0.9 * (1 - end) * following
        step(optimizer, (agent.critic(both(s, a)).view(-1) - goal).pow(2).mean())
        for p, kept in zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True):
            kept.data.mul_(0.99 if not never else 1.0).add_(p.data, alpha=0.01 if not never else 0.0)
    run.detach()
    return run


def bootstrapped(sick: bool):
    """Values of a corridor from a network's own predictions; in the sick one the discount is above 1."""
    torch.manual_seed(0)
    q, eye = mlp(LENGTH, 2, act=nn.ReLU), torch.eye(LENGTH)
    optimizer = torch.optim.Adam(q.parameters(), 3e-3)
    run = homeostat.attach(q, optimizer, every=50)
    for _ in range(1500):
        s, a, r, t, end = corridor(32)
        with torch.no_grad():
            following = q(eye[t]).max(1).values
            goal = 1 + 1.2 * following if sick else 100 * r + 0.95 * (1 - end) * following
        step(optimizer, F.mse_loss(q(eye[s]).gather(1, a[:, None]).squeeze(1), goal))
    run.detach()
    return run


def distilled():
    """A network learns the outputs of a frozen copy of its start, and a task: on the same batch."""
    torch.manual_seed(0)
    student = mlp(LENGTH, 2)
    teacher, optimizer = copy.deepcopy(student), torch.optim.Adam(student.parameters(), 1e-3)
    run = homeostat.attach(student, optimizer, every=50)
    for _ in range(1200):
        x = torch.randn(32, LENGTH)
        with torch.no_grad():
            goal = teacher(x)
        out = student(x)
        step(optimizer, F.mse_loss(out, goal) + F.mse_loss(out[:, 0], x.sum(1)))
    run.detach()
    return run


PROGRAMS: dict[str, tuple[str, Program]] = {
    "discrete PPO": ("kl-runaway", discrete_ppo),
    "continuous PPO": ("kl-runaway", continuous_ppo),
    "PPO of tokens": ("policy-entropy-collapse", token_ppo),
    "actor-critic": ("policy-entropy-collapse", actor_critic),
    "Q-learning": ("target-network-never-updated", q_learning),
    "a critic of actions": ("target-network-never-updated", critic_of_actions),
    "bootstrapped values": ("value-divergence", bootstrapped),
}


def grave(run: Any) -> list[str]:
    return [f.condition for f in run.findings() if f.severity != "info"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_sick_program_is_named_by_its_cause(name: str) -> None:
    cause, program = PROGRAMS[name]
    assert grave(program(True))[:1] == [cause]


@pytest.mark.parametrize("name", part_of(PROGRAMS))
def test_the_same_program_without_the_fault_is_well(name: str) -> None:
    assert grave(PROGRAMS[name][1](False)) == []


def test_a_frozen_teacher_is_no_target_network() -> None:
    assert grave(distilled()) == []
