"""Classifiers and regressors: multi-layer perceptrons, convolutions, attention, recurrence."""

from __future__ import annotations

from random import Random
from typing import Any

from homeostat.clinic import parts
from homeostat.clinic.draft import Draft

Wish = dict[str, Any]
"""Requirements of a fault on an architecture: act, depth, width, norm, dropout, optimizer, rate, data."""


def begin(arch: str, draw: Random, wish: Wish, steps: tuple[int, ...] = (300, 400, 600)) -> Draft:
    """A draft with its seed, its length and the required settings."""
    draft = Draft(draw, arch, steps=wish.get("steps") or draw.choice(steps))
    draft.constants["SEED"] = draw.randrange(1000)
    draft.facts |= {k: wish[k] for k in ("optimizer", "rate", "no_loader") if k in wish}
    draft.facts["act"] = wish.get("act") or draw.choice(("relu", "relu", "gelu", "silu", "tanh"))
    return draft


def finish(draft: Draft, among: tuple[str, ...] = ()) -> Draft:
    """The optimizer, a schedule and the log."""
    draft.optimizer = parts.optimizer(draft, among=among)
    parts.schedule(draft)
    parts.logging(draft)
    return draft


def mlp(draw: Random, wish: Wish) -> Draft:
    """A multi-layer perceptron on tables, as a module or a Sequential."""
    draft = begin("mlp", draw, wish)
    inputs, outputs = parts.table(draft, wish.get("data") or ("digits", "cancer", "wine", "blobs", "rings"))
    parts.batches(draft, wish.get("sizes") or (32, 64, 128))
    depth, width = wish.get("depth") or draw.choice((2, 3, 4)), wish.get("width") or draw.choice((64, 128))
    norm = wish.get("norm", draw.choice(("", "", "nn.BatchNorm1d", "nn.LayerNorm")))
    norm = norm.replace("2d", "1d")
    dropout = wish.get("dropout", draw.choice((0.0, 0.0, 0.1)))
    _perceptron(draft, depth, width, norm, dropout)
    draft.build = f"model = Net({inputs}, {outputs})"
    draft.facts |= {"head": "model.head", "first": "model.layers[0]", "layers": "model.layers", "outputs": outputs}
    return finish(draft)


def _perceptron(draft: Draft, depth: int, width: int, norm: str, dropout: float) -> None:
    act = parts.ACTIVATIONS[draft.facts["act"]]
    norms = f"\n        self.norms = nn.ModuleList([{norm}(WIDTH) for _ in range({depth})])" if norm else ""
    apply = f"{act}(self.norms[k](layer(x)))" if norm else f"{act}(layer(x))"
    drop = f"\n            x = F.dropout(x, {dropout}, self.training)" if dropout else ""
    draft.constants["WIDTH"] = width
    draft.defs = f"""class Net(nn.Module):
    def __init__(self, inputs, outputs, WIDTH={width}):
        super().__init__()
        sizes = [inputs] + [WIDTH] * {depth}
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]){norms}
        self.head = nn.Linear(WIDTH, outputs)

    def features(self, x):
        found = []
        for k, layer in enumerate(self.layers):
            x = {apply}
            found.append(x){drop}
        return found, x

    def forward(self, x):
        return self.head(self.features(x)[1])
"""
    draft.constants.pop("WIDTH")
    draft.hidden = "model.features(probe)[0]"
    draft.facts |= {"norm": norm, "dropout": dropout, "depth": depth}


def regressor(draw: Random, wish: Wish) -> Draft:
    """A multi-layer perceptron on the diabetes table or on a smooth function."""
    draft = begin("regressor", draw, wish)
    if draw.random() < 0.5:
        draft.imports.append("from sklearn.datasets import load_diabetes")
        draft.data = (
            "data = load_diabetes()\nX = torch.tensor(data.data, dtype=torch.float32) * 21\n"
            "Y = torch.tensor(data.target, dtype=torch.float32)\nY = (Y - Y.mean()) / Y.std()"
        )
        inputs, rows = 10, 442
    else:
        draft.data = (
            "X = torch.randn(2000, 6)\nY = torch.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * torch.randn(2000)"
        )
        inputs, rows = 6, 2000
    parts.batches(draft, rows=rows)
    depth, width = wish.get("depth") or draw.choice((2, 3)), wish.get("width") or draw.choice((64, 128))
    norm = wish.get("norm", draw.choice(("", "", "nn.LayerNorm")))
    _perceptron(draft, depth, width, norm, wish.get("dropout", 0.0))
    draft.build = f"model = Net({inputs}, 1)"
    draft.forward = "out = model(x).squeeze(1)"
    draft.loss = f"loss = F.{draw.choice(('mse_loss', 'smooth_l1_loss', 'mse_loss'))}(out, y)"
    draft.facts |= {"head": "model.head", "first": "model.layers[0]", "layers": "model.layers", "outputs": 1}
    return finish(draft)


_STEM = "X = X.view(-1, 1, 8, 8)"


def _images(draft: Draft) -> tuple[int, int]:
    """Digits as images [n, 1, 8, 8]: (channels, classes)."""
    _, classes = parts.table(draft, ("digits",))
    draft.data += f"\n{_STEM}"
    return 1, classes


def cnn(draw: Random, wish: Wish) -> Draft:
    """Two or three convolutions and a linear head."""
    draft = begin("cnn", draw, wish, (200, 300))
    _, classes = _images(draft)
    parts.batches(draft, wish.get("sizes") or (32, 64))
    act = parts.ACTIVATIONS[draft.facts["act"]]
    norm = wish.get("norm", draw.choice(("", "nn.BatchNorm2d")))
    dropout = wish.get("dropout", draw.choice((0.0, 0.2)))
    norms = "\n        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(32)])" if norm else ""
    one = f"{act}(self.norms[k](layer(x)))" if norm else f"{act}(layer(x))"
    drop = f"x = F.dropout(x, {dropout}, self.training)\n        " if dropout else ""
    draft.defs = f"""class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)]){norms}
        self.fc = nn.Linear(32 * 4, 64)
        self.head = nn.Linear(64, outputs)

    def features(self, x):
        found = []
        for k, layer in enumerate(self.layers):
            x = {one}
            found.append(x.flatten(2).permute(0, 2, 1).flatten(0, 1))
            x = F.max_pool2d(x, 2)
        x = {act}(self.fc(x.flatten(1)))
        found.append(x)
        {drop}return found, x

    def forward(self, x):
        return self.head(self.features(x)[1])
"""
    draft.build = f"model = Net({classes})"
    draft.hidden = "model.features(probe)[0]"
    draft.facts |= {"head": "model.head", "first": "model.layers[0]", "layers": "[model.layers[1], model.fc]"}
    draft.facts |= {"norm": norm, "dropout": dropout, "outputs": classes}
    return finish(draft)


def resnet(draw: Random, wish: Wish) -> Draft:
    """A small residual network with batch norm."""
    draft = begin("resnet", draw, wish, (150, 200))
    _, classes = _images(draft)
    parts.batches(draft, wish.get("sizes") or (32, 64))
    draft.facts["act"] = "relu"
    blocks = draw.choice((2, 3))
    draft.defs = f"""class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self, outputs, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*[Block(width) for _ in range({blocks})])
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
"""
    draft.build = f"model = Net({classes})"
    draft.facts |= {"head": "model.head", "first": "model.stem[0]", "norm": "nn.BatchNorm2d", "outputs": classes}
    return finish(draft)
