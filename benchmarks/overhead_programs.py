"""Overhead of `homeostat run` on twenty programs, whole processes: `python SCRIPT` and `homeostat run SCRIPT` in turn.

Reported for each program: processor seconds of the bare process, what `homeostat run` adds (the median over the
rounds), and what it may add, 2% of the bare process and 1 second. Processor time counts start-up, measuring, the
record and the end, and other load on the machine hardly affects it.

    python benchmarks/overhead_programs.py [NAME ...] [--rounds 3] [--seconds 6] [--json FILE]
    python benchmarks/overhead_programs.py --train NAME --seconds 6     one bare program
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Step = Callable[[], None]


def programs() -> dict[str, Callable[[], Step]]:
    """Name -> a function that builds the networks and gives the training step."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def supervised(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, batch: int, optimizer=None) -> Step:
        optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-3)
        criterion = F.cross_entropy if targets.dtype == torch.long else F.mse_loss

        def step() -> None:
            index = torch.randint(0, len(inputs), (batch,))
            optimizer.zero_grad()
            out = model(inputs[index])
            criterion(
                out.flatten(0, -2) if out.ndim > 2 else out,
                targets[index].flatten() if targets.dtype == torch.long else targets[index],
            ).backward()
            optimizer.step()

        return step

    def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), act()]
        return nn.Sequential(*layers[:-1])

    def digits(classes: int = 10, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(512, *shape), torch.randint(0, classes, (512,))

    def mlp_batch_1() -> Step:
        model = mlp(784, 100, 100, 10)
        return supervised(model, *digits(10, 784), 1, torch.optim.SGD(model.parameters(), 0.01))

    def mlp_small() -> Step:
        return supervised(mlp(20, 64, 64, 10), *digits(10, 20), 32)

    def mlp_wide() -> Step:
        return supervised(mlp(784, 512, 512, 512, 10), *digits(10, 784), 64)

    def mlp_deep_tanh() -> Step:
        return supervised(mlp(64, *[64] * 12, 10, act=nn.Tanh), *digits(10, 64), 64)

    def regression() -> Step:
        return supervised(mlp(8, 32, 1), torch.randn(512, 8), torch.randn(512, 1), 64)

    def cnn_batch_norm() -> Step:
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
        return supervised(model, *digits(10, 1, 28, 28), 32)

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x + self.two(F.relu(self.one(x))))

    def resnet() -> Step:
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *[Residual(16) for _ in range(3)],
                              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))  # fmt: skip
        return supervised(model, *digits(10, 3, 16, 16), 16)

    class Tokens(nn.Module):
        def __init__(self, causal: bool) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
            self.embed, self.body = nn.Embedding(64, 64), nn.TransformerEncoder(layer, 2)
            self.head, self.causal = nn.Linear(64, 64 if causal else 4), causal

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
            out = self.body(self.embed(x), mask=mask, is_causal=self.causal)
            return self.head(out if self.causal else out.mean(1))

    def transformer() -> Step:
        return supervised(Tokens(False), torch.randint(0, 64, (512, 16)), torch.randint(0, 4, (512,)), 16)

    def causal_lm() -> Step:
        text = torch.randint(0, 64, (512, 33))
        return supervised(Tokens(True), text[:, :-1], text[:, 1:], 8)

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 64, 4, stride=4)
            self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2)
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    def vit() -> Step:
        return supervised(Patches(), *digits(10, 3, 16, 16), 16)

    class Recurrent(nn.Module):
        def __init__(self, kind: type[nn.RNNBase]) -> None:
            super().__init__()
            self.body, self.head = kind(16, 64, batch_first=True), nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x)[0][:, -1])

    def gru() -> Step:
        return supervised(Recurrent(nn.GRU), torch.randn(512, 20, 16), torch.randint(0, 4, (512,)), 32)

    def lstm() -> Step:
        return supervised(Recurrent(nn.LSTM), torch.randn(512, 20, 16), torch.randint(0, 4, (512,)), 32)

    def autoencoder() -> Step:
        inputs = torch.rand(512, 784)
        return supervised(mlp(784, 128, 16, 128, 784), inputs, inputs, 64)

    def vae() -> Step:
        encoder, decoder = mlp(784, 128, 32), mlp(16, 128, 784)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
        inputs = torch.rand(512, 784)

        def step() -> None:
            x = inputs[torch.randint(0, 512, (64,))]
            mean, log_var = encoder(x).chunk(2, 1)
            out = decoder(mean + torch.randn_like(mean) * (log_var / 2).exp())
            kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()
            optimizer.zero_grad()
            (F.binary_cross_entropy_with_logits(out, x, reduction="sum") / 64 + kl).backward()
            optimizer.step()

        return step

    def gan() -> Step:
        maker, judge = mlp(16, 64, 64, 2), mlp(2, 64, 64, 1)
        makes, judges = torch.optim.Adam(maker.parameters(), 1e-3), torch.optim.Adam(judge.parameters(), 1e-3)

        def step() -> None:
            real, fake = torch.randn(64, 2), maker(torch.randn(64, 16))
            judges.zero_grad()
            (F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()).backward()
            judges.step()
            makes.zero_grad()
            F.softplus(-judge(fake)).mean().backward()
            makes.step()

        return step

    def siamese() -> Step:
        model = mlp(64, 128, 32)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

        def step() -> None:
            x = torch.randn(64, 64)
            a, b = (F.normalize(model(x + 0.1 * torch.randn_like(x)), dim=1) for _ in range(2))
            optimizer.zero_grad()
            F.cross_entropy(a @ b.T / 0.1, torch.arange(64)).backward()
            optimizer.step()

        return step

    def dqn() -> Step:
        online, target = mlp(4, 64, 64, 2), mlp(4, 64, 64, 2)
        optimizer, count = torch.optim.Adam(online.parameters(), 1e-3), [0]

        def step() -> None:
            count[0] += 1
            if count[0] % 100 == 1:
                target.load_state_dict(online.state_dict())
            state, action = torch.randn(64, 4), torch.randint(0, 2, (64, 1))
            with torch.no_grad():
                wanted = state[:, 0] + 0.9 * target(torch.randn(64, 4)).max(1).values
            optimizer.zero_grad()
            F.smooth_l1_loss(online(state).gather(1, action).squeeze(1), wanted).backward()
            optimizer.step()

        return step

    def ppo() -> Step:
        actor, critic = mlp(8, 64, 64, 4, act=nn.Tanh), mlp(8, 64, 64, 1, act=nn.Tanh)
        optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], 3e-4)

        def step() -> None:
            state = torch.randn(64, 8)
            policy = torch.distributions.Categorical(logits=actor(state))
            action = policy.sample()
            ratio = (policy.log_prob(action) - policy.log_prob(action).detach()).exp()
            gain = (ratio * torch.randn(64)).mean() + 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            (F.mse_loss(critic(state).squeeze(1), state[:, 0]) - gain).backward()
            nn.utils.clip_grad_norm_(actor.parameters(), 0.5)
            optimizer.step()

        return step

    def actor_critic() -> Step:
        actor, critics = mlp(8, 64, 64, 4), [mlp(10, 64, 64, 1) for _ in range(2)]
        acts = torch.optim.Adam(actor.parameters(), 3e-4)
        judges = torch.optim.Adam([p for c in critics for p in c.parameters()], 3e-4)

        def step() -> None:
            state = torch.randn(64, 8)
            given = torch.cat([state, torch.randn(64, 2)], 1)
            judges.zero_grad()
            sum(F.mse_loss(c(given).squeeze(1), state[:, 0]) for c in critics).backward()
            judges.step()
            mean, log_std = actor(state).chunk(2, 1)
            action = torch.tanh(mean + log_std.clamp(-5, 2).exp() * torch.randn_like(mean))
            acts.zero_grad()
            (-torch.min(*(c(torch.cat([state, action], 1)) for c in critics)).mean()).backward()
            acts.step()

        return step

    def embeddings() -> Step:
        model = nn.Sequential(nn.EmbeddingBag(1000, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        return supervised(model, torch.randint(0, 1000, (512, 20)), torch.randint(0, 4, (512,)), 32)

    images = [mlp_batch_1, mlp_small, mlp_wide, mlp_deep_tanh, cnn_batch_norm, resnet, vit, autoencoder, vae]
    others = [regression, transformer, causal_lm, gru, lstm, gan, siamese, dqn, ppo, actor_critic, embeddings]
    found = [*images, *others]
    return {program.__name__: program for program in found}


def train(name: str, seconds: float) -> None:
    """Train for a number of steps that takes about so long here; the same number where STEPS is set."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = programs()[name]()
    steps = int(os.environ.get("STEPS", 0))
    began, done = time.process_time(), 0
    while done < steps or (not steps and time.process_time() - began < seconds):
        step()
        done += 1
    print(done)


def measure(name: str, seconds: float, rounds: int) -> dict[str, float | str]:
    """Processor seconds of both processes, in turn."""
    me = [str(Path(__file__).resolve()), "--train", name, "--seconds", str(seconds)]
    steps = subprocess.run([sys.executable, *me], check=True, capture_output=True, text=True).stdout.strip()
    bare, added = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            homeostat = [str(Path(sys.executable).with_name("homeostat")), "run", "--quiet", "--record", folder]
            alone, measured = (_processor_seconds(c, steps) for c in ([sys.executable, *me], [*homeostat, *me]))
        bare.append(alone)
        added.append(measured - alone)
    whole = statistics.median(bare)
    return {
        "program": name,
        "steps": int(steps),
        "step_ms": 1e3 * seconds / int(steps),
        "bare_seconds": whole,
        "added_seconds": statistics.median(added),
        "allowed_seconds": 1 + 0.02 * whole,
    }


def _processor_seconds(command: list[str], steps: str) -> float:
    done = subprocess.Popen(command, env={**os.environ, "STEPS": steps}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--train", metavar="NAME", help="run this program")
    parser.add_argument("--seconds", type=float, default=6.0, help="of training in a bare program (default: 6)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.train:
        return train(args.train, args.seconds)
    rows = []
    print("program            steps  step ms  bare s  added s  allowed s")
    for name in args.names or programs():
        row = measure(name, args.seconds, args.rounds)
        rows.append(row)
        mark = "" if row["added_seconds"] <= row["allowed_seconds"] else "  over"
        print(
            f"{name:16s} {row['steps']:7d}  {row['step_ms']:7.2f}  {row['bare_seconds']:6.2f}  "
            f"{row['added_seconds']:7.2f}  {row['allowed_seconds']:9.2f}{mark}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
