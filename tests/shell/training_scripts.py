"""Training scripts that are saved and resumed, and what a run is compared by."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

import homeostat
from homeostat import CheckpointOptions

SAVED, LAST = 11, 24


class Net(nn.Module):
    """Convolution, batch norm, dropout, tied weights and a head: buffers, randomness and sharing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.one, self.two, self.out = nn.Linear(16, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.out(torch.tanh(self.two(self.drop(torch.relu(self.one(x))))))


class Script:
    """A user's training script. Whatever it draws comes from the global random streams."""

    batch = 16

    def __init__(self, seed: int = 0, resume=None, checkpoint=None, checkpoint_every=None, **options) -> None:
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)  # noqa: NPY002
        self.model = Net()
        self.optimizer = self.optimizers()
        first = self.optimizer[0] if isinstance(self.optimizer, list) else self.optimizer
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(first, [5, 9, 15], 0.5)
        self.extra = {"scheduler": self.scheduler}
        self.prepare()
        kept = CheckpointOptions(resume=resume, save=checkpoint, every=checkpoint_every, extra=self.extra)
        self.run = homeostat.attach(self.model, self.optimizer, checkpoint=kept, **{"every": 2, **options})

    def optimizers(self):
        return torch.optim.Adam(self.model.parameters(), 1e-2)

    def prepare(self) -> None:
        pass

    def loss(self):
        inputs = torch.randn(self.batch, 1, 4, 4) * random.uniform(0.5, 1.5)
        targets = torch.from_numpy(np.random.randint(0, 3, self.batch))  # noqa: NPY002
        return nn.functional.cross_entropy(self.model(inputs), targets)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        self.scheduler.step()

    def go(self, until: int) -> None:
        for number in range(self.run.steps + 1, until + 1):
            self.step()
            if number % 6 == 0:
                self.run.boundary(f"task {number}")

    def everything(self):
        several = self.optimizer if isinstance(self.optimizer, list) else [self.optimizer]
        state = self.run.state_dict()
        timed = ("spent", "wall_seconds", "credit")
        return {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in several],
            "extra": {name: thing.state_dict() for name, thing in self.extra.items()},
            "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()],  # noqa: NPY002
            "homeostat": {key: value for key, value in state.items() if key not in timed},
            "vitals": self.run.vitals(),
            "findings": self.run.findings(),
        }


class Scaled(Script):
    def prepare(self) -> None:
        self.extra["scaler"] = self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()


class Several(Script):
    """Two optimizers, one with momentum and slower; saved while it is its turn."""

    def optimizers(self):
        trunk = [*self.model.conv.parameters(), *self.model.norm.parameters(), *self.model.one.parameters()]
        rest = [*self.model.two.parameters(), *self.model.out.parameters()]
        return [torch.optim.SGD(trunk, 0.05, momentum=0.9), torch.optim.AdamW(rest, 1e-2, amsgrad=True)]

    def step(self) -> None:
        for optimizer in self.optimizer:
            optimizer.zero_grad()
        self.loss().backward()
        for optimizer in self.optimizer:
            optimizer.step()
        self.scheduler.step()


class Small(Script):
    """Batches so small that vitals gather several steps."""

    batch = 3


class Generated(Script):
    """Draws its data from generators of its own, and keeps an average."""

    def prepare(self) -> None:
        self.torch, self.numpy = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.extra |= {"torch": self.torch, "numpy": self.numpy, "average": self.average}

    def loss(self):
        inputs = torch.randn(self.batch, 1, 4, 4, generator=self.torch)
        targets = torch.from_numpy(self.numpy.integers(0, 3, self.batch))
        return nn.functional.cross_entropy(self.model(inputs), targets)

    def step(self) -> None:
        super().step()
        self.average.update_parameters(self.model)

    def everything(self):
        generators = {"torch": self.torch.get_state(), "numpy": self.numpy.bit_generator.state}
        self.extra = {k: v for k, v in self.extra.items() if k not in generators}
        return super().everything() | generators


def assert_same(a, b, where="") -> None:
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where
