"""Reinforcement learning on small environments of tensors: DQN, actor-critic, SAC, group-relative policies."""

from __future__ import annotations

from random import Random

from homeostat.clinic import parts
from homeostat.clinic.draft import Draft
from homeostat.clinic.supervised import Wish, begin

_CORRIDOR = """def walk(place, action):
    there = (place + 2 * action - 1).clamp(0, LENGTH - 1)
    done = there == LENGTH - 1
    return there, done.float(), done
"""


def dqn(draw: Random, wish: Wish) -> Draft:
    """DQN on a corridor with a replay memory. Half of the programs evaluate several walks at once."""
    draft = begin("dqn", draw, wish, (500, 700))
    length, copies = draw.choice((6, 8)), draw.choice((4, 8))
    draft.facts |= {"optimizer": "Adam", "norm": ""}
    draft.constants |= {"BATCH": 64, "LR": draw.choice((1e-3, 2e-3))}
    draft.imports.append("import copy")
    draft.defs = f"LENGTH = {length}\n\n\n{_CORRIDOR}"
    draft.data = (
        f"eye = torch.eye({length})\nplace = torch.randint(0, {length} - 1, ({copies},))\n"
        "memory = torch.zeros(4000, 5)\nsize = 0"
    )
    act = {"relu": "ReLU", "tanh": "Tanh", "gelu": "GELU", "silu": "SiLU"}.get(draft.facts["act"], "ReLU")
    draft.build = (
        f"q = nn.Sequential(nn.Linear({length}, 64), nn.{act}(), nn.Linear(64, 64), nn.{act}(), nn.Linear(64, 2))\n"
        "target = copy.deepcopy(q)"
    )
    if draw.random() < 0.5:
        draft.build += "\ntarget.requires_grad_(False)"
    draft.optimizer = "optimizer = torch.optim.Adam(q.parameters(), lr=LR)"
    draft.batch = f"""with torch.no_grad():
    greedy = q(eye[place]).argmax(1)
action = torch.where(torch.rand({copies}) < max(0.2, 1 - step / 200), torch.randint(0, 2, ({copies},)), greedy)
there, gain, done = walk(place, action)
rows = torch.arange(size, size + {copies}) % len(memory)
memory[rows] = torch.stack([place, action, gain, there, done.float()], 1).float()
size = size + {copies}
place = torch.where(done, torch.randint(0, {length} - 1, ({copies},)), there)
i = torch.randint(0, min(size, len(memory)), (BATCH,))
s, a, r, t, e = memory[i].T"""
    draft.forward = (
        "with torch.no_grad():\n    goal = r + 0.9 * (1 - e) * target(eye[t.long()]).max(1).values\n"
        "out = q(eye[s.long()]).gather(1, a.long().unsqueeze(1)).squeeze(1)"
    )
    draft.loss = f"loss = F.{draw.choice(('smooth_l1_loss', 'mse_loss'))}(out, goal)"
    draft.facts["sync"] = draw.choice(
        (
            "if step % 25 == 0:\n    target.load_state_dict(q.state_dict())",
            "with torch.no_grad():\n    for old, new in zip(target.parameters(), q.parameters()):\n"
            "        old.lerp_(new, 0.05)",
        )
    )
    draft.after = draft.facts["sync"]
    draft.end = (
        "values = q(eye).max(1).values.detach()\n"
        f"value, best = float(values[0]), 0.9 ** ({length} - 2)\nright = int((q(eye)[:-1].argmax(1) == 1).sum())"
    )
    draft.printed += ["'value': value", "'best': best", f"'goes_right': right / ({length} - 1)"]
    parts.logging(draft)
    return draft


_BANDIT = """def reward(state, action):
    return (action == state.argmax(1) % ACTIONS).float()
"""


def actor_critic(draw: Random, wish: Wish) -> Draft:
    """PPO with a clipped ratio on one-step episodes. Some programs have noisy rewards."""
    draft = begin("actor-critic", draw, wish, (240, 320))
    actions = draw.choice((3, 4))
    shared = wish.get("shared", draw.random() < 0.5)
    draft.facts |= {"optimizer": "Adam", "norm": "", "shared": shared}
    draft.constants |= {"BATCH": 128, "LR": draw.choice((1e-3, 3e-3)), "ENTROPY": 0.01}
    draft.defs = f"""ACTIONS = {actions}


{_BANDIT}

class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor_body = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.critic_body = self.actor_body if {shared} else nn.Sequential(nn.Linear(8, 64), nn.Tanh())
        self.actor = nn.Linear(64, ACTIONS)
        self.critic = nn.Linear(64, 1)

    def forward(self, x):
        return torch.distributions.Categorical(logits=self.actor(self.actor_body(x))), self.value(x)

    def value(self, x):
        return self.critic(self.critic_body(x)).squeeze(1)
"""
    draft.build = "model = Agent()"
    draft.optimizer = parts.optimizer(draft)
    noise = draw.choice((0.0, 0.3))
    draft.batch = f"""if step % 4 == 0:
    state = torch.randn(BATCH, 8)
    with torch.no_grad():
        policy, value = model(state)
        action = policy.sample()
        old = policy.log_prob(action)
        gain = reward(state, action) + {noise} * torch.randn(BATCH)
    advantage = gain - value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    returns.append(float(gain.mean()))"""
    draft.truth = "returns = []\nstate = action = old = gain = advantage = policy = value = None"
    draft.forward = "policy, value = model(state)\nratio = (policy.log_prob(action) - old).exp()"
    draft.loss = (
        "surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()\n"
        "loss = -surrogate + 0.5 * F.mse_loss(value, gain) - ENTROPY * policy.entropy().mean()"
    )
    if draw.random() < 0.5:
        draft.clip = "nn.utils.clip_grad_norm_(model.parameters(), 0.5)"
    draft.end = (
        "with torch.no_grad():\n    entropy = float(model(torch.randn(500, 8))[0].entropy().mean())\n"
        "reached = sum(returns[-10:]) / 10"
    )
    draft.printed += ["'return': reached", "'entropy': entropy"]
    parts.logging(draft)
    return draft


def soft_actor_critic(draw: Random, wish: Wish) -> Draft:
    """A squashed Gaussian policy and two critics with averaged targets, on a continuous one-step problem."""
    draft = begin("sac", draw, wish, (300, 400))
    draft.facts |= {"optimizer": "Adam", "norm": ""}
    draft.constants |= {"BATCH": 128, "LR": draw.choice((1e-3, 2e-3))}
    draft.imports.append("import copy")
    draft.defs = """def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def sample(policy, state):
    mean, log_std = policy(state).chunk(2, 1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 1).exp())
    raw = normal.rsample()
    chance = normal.log_prob(raw) - torch.log(1 - torch.tanh(raw) ** 2 + 1e-6)
    return torch.tanh(raw), chance.sum(1)
"""
    draft.data = "state = torch.randn(1, 4)"
    draft.build = (
        "policy, critic = net(4, 2), nn.ModuleList([net(5, 1), net(5, 1)])\n"
        "target = copy.deepcopy(critic).requires_grad_(False)"
    )
    draft.optimizer = (
        "optimizer = torch.optim.Adam(critic.parameters(), lr=LR)\n"
        "optimizer_p = torch.optim.Adam(policy.parameters(), lr=LR)"
    )
    draft.batch = (
        "state = torch.randn(BATCH, 4)\nwith torch.no_grad():\n    action, _ = sample(policy, state)\n"
        "    gain = 1 - (action[:, 0] - torch.tanh(state[:, 0])) ** 2\n    there = 0.9 * state + 0.1 * action\n"
        "    chosen, chance = sample(policy, there)\n    pair = torch.cat([there, chosen], 1)\n"
        "    goal = gain + 0.8 * (torch.min(target[0](pair), target[1](pair)).squeeze(1) - 0.05 * chance)"
    )
    draft.forward = "pair = torch.cat([state, action], 1)"
    draft.loss = "loss = F.mse_loss(critic[0](pair).squeeze(1), goal) + F.mse_loss(critic[1](pair).squeeze(1), goal)"
    draft.facts["sync"] = (
        "with torch.no_grad():\n    for old, new in zip(target.parameters(), critic.parameters()):\n"
        "        old.lerp_(new, 0.02)"
    )
    draft.after = (
        "chosen, chance = sample(policy, state)\npair = torch.cat([state, chosen], 1)\n"
        "loss_p = (0.05 * chance - torch.min(critic[0](pair), critic[1](pair)).squeeze(1)).mean()\n"
        "optimizer_p.zero_grad()\nloss_p.backward()\noptimizer_p.step()\n" + draft.facts["sync"]
    )
    draft.end = (
        "state = torch.randn(1000, 4)\nmean = torch.tanh(policy(state).chunk(2, 1)[0]).detach()\n"
        "reached = float((1 - (mean[:, 0] - torch.tanh(state[:, 0])) ** 2).mean())"
    )
    draft.printed.append("'return': reached")
    parts.logging(draft)
    return draft


def group_relative(draw: Random, wish: Wish) -> Draft:
    """A group-relative policy gradient on toy completions with partial credit."""
    draft = begin("grpo", draw, wish, (240, 320))
    draft.facts |= {"optimizer": draw.choice(("Adam", "AdamW")), "norm": ""}
    draft.constants |= {"BATCH": 16, "LR": draw.choice((2e-3, 4e-3))}
    length, words = draw.choice((3, 4)), draw.choice((6, 10))
    draft.data = f"answers = torch.randint(0, {words}, (16, {length}))"
    draft.build = (
        f"model = nn.Sequential(nn.Embedding(16, 64), nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, {length} * {words}))"
    )
    draft.optimizer = parts.optimizer(draft)
    draft.truth = "returns = []"
    draft.batch = "prompt = torch.randint(0, 16, (BATCH,))"
    draft.forward = (
        f"logits = model(prompt).view(BATCH, {length}, {words})\n"
        "policy = torch.distributions.Categorical(logits=logits.unsqueeze(1).expand(-1, 8, -1, -1))\n"
        "action = policy.sample()\nright = (action == answers[prompt].unsqueeze(1)).float()\ngain = right.mean(-1)"
    )
    draft.facts["credit"] = "gain = right.mean(-1)"
    draft.loss = (
        "advantage = (gain - gain.mean(1, keepdim=True)) / (gain.std(1, keepdim=True) + 1e-4)\n"
        "loss = -(advantage.unsqueeze(-1) * policy.log_prob(action)).mean()"
    )
    draft.measure = "returns.append(float(gain.mean()))"
    draft.end = "reached = sum(returns[-20:]) / 20"
    draft.printed += ["'return': reached", "'began': sum(returns[:20]) / 20"]
    parts.logging(draft)
    return draft
