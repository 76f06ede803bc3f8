"""Sequence models: encoders, a causal language model, a vision transformer, GRU and LSTM."""

from __future__ import annotations

from random import Random

from homeostat.clinic import parts
from homeostat.clinic.draft import Draft
from homeostat.clinic.supervised import Wish, begin, finish

ADAPTIVE = ("Adam", "AdamW", "RMSprop")


def _series(draft: Draft) -> tuple[int, int]:
    """Noisy waves [n, 16, 4]; their frequency, and to a small part their level, is the class. Returns (features,
    classes)."""
    classes = draft.draw.choice((3, 5))
    draft.data = (
        f"Y = torch.randint(0, {classes}, (1500,))\n"
        "t = torch.arange(16).view(1, 16, 1)\n"
        "phase = 6.28 * torch.rand(1500, 1, 4)\n"
        "X = torch.sin(0.5 * (1 + Y.view(-1, 1, 1)) * t + phase) + 0.3 * torch.randn(1500, 16, 4)\n"
        "X[:, :, 0] += 0.5 * Y.view(-1, 1)"
    )
    draft.classes = classes
    return 4, classes


def _attention(draft: Draft, causal: bool = False, pre: bool = True) -> str:
    """A transformer block with explicit attention."""
    draft.facts["softmax"] = "torch.softmax(scores, dim=-1)"
    mask = "\n        scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), float('-inf'))" if causal else ""
    act = parts.ACTIVATIONS[draft.facts["act"]]
    steps = (
        "x = x + self.attend(self.norm1(x))\n        return x + self.feed(self.norm2(x))"
        if pre
        else "x = self.norm1(x + self.attend(x))\n        return self.norm2(x + self.feed(x))"
    )
    return f"""class Block(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def attend(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5{mask}
        weights = torch.softmax(scores, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, width))

    def feed(self, x):
        return self.down({act}(self.up(x)))

    def forward(self, x):
        {steps}
"""


def encoder(draw: Random, wish: Wish) -> Draft:
    """A transformer encoder that classifies sequences, with explicit attention or torch's own layers."""
    draft = begin("encoder", draw, wish, (200, 300))
    features, classes = _series(draft)
    parts.batches(draft, wish.get("sizes") or (32, 64), rows=1500)
    own = wish["written_out"] if "written_out" in wish else draw.random() < 0.5
    width, depth = 32, wish.get("depth") or draw.choice((1, 2))
    layers = (
        f"nn.ModuleList([Block({width}) for _ in range({depth})])"
        if own
        else f"nn.ModuleList([nn.TransformerEncoderLayer({width}, 2, 64, dropout=0.1, batch_first=True) "
        f"for _ in range({depth})])"
    )
    block = _attention(draft, pre=draw.random() < 0.5) + "\n\n" if own else ""
    draft.defs = f"""{block}class Net(nn.Module):
    def __init__(self, inputs, outputs, width={width}):
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = {layers}
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        x = self.embed(x) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))
"""
    draft.build = f"model = Net({features}, {classes})"
    draft.facts |= {"head": "model.head", "first": "model.embed", "outputs": classes, "written_out": own}
    draft.facts |= {"dropout": 0.0 if own else 0.1, "norm": ""}
    return finish(draft, ADAPTIVE)


def vit(draw: Random, wish: Wish) -> Draft:
    """A vision transformer on patches of digits."""
    draft = begin("vit", draw, wish, (200, 300))
    _, classes = parts.table(draft, ("digits",))
    draft.data += "\nX = X.view(-1, 1, 8, 8)"
    parts.batches(draft, wish.get("sizes") or (32, 64))
    depth = draw.choice((1, 2))
    draft.defs = f"""{_attention(draft)}

class Net(nn.Module):
    def __init__(self, outputs, width=32):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(17, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range({depth})])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])
"""
    draft.build = f"model = Net({classes})"
    draft.facts |= {"head": "model.head", "first": "model.patches", "outputs": classes, "written_out": True}
    draft.facts |= {"dropout": 0.0, "norm": ""}
    return finish(draft, ADAPTIVE)


def causal_lm(draw: Random, wish: Wish) -> Draft:
    """A causal language model on text of a Markov chain."""
    draft = begin("causal-lm", draw, wish, (200, 300))
    vocabulary, depth = draw.choice((16, 24)), draw.choice((1, 2))
    draft.data = (
        f"chance = torch.softmax(3 * torch.randn({vocabulary}, {vocabulary}), 1)\n"
        f"text = [torch.randint(0, {vocabulary}, (400,))]\n"
        "for _ in range(16):\n    text.append(torch.multinomial(chance[text[-1]], 1).squeeze(1))\n"
        "text = torch.stack(text, 1)\nX, Y = text[:, :-1], text[:, 1:]"
    )
    parts.batches(draft, wish.get("sizes") or (16, 32), rows=400)
    draft.defs = f"""{_attention(draft, causal=True)}

class Net(nn.Module):
    def __init__(self, vocabulary, width=32):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(16, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range({depth})])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x):
        x = self.embed(x) + self.place(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
"""
    draft.build = f"model = Net({vocabulary})"
    draft.loss = "loss = F.cross_entropy(out.flatten(0, 1), y.flatten())"
    draft.classes = vocabulary
    draft.facts |= {"head": "model.head", "first": "model.embed", "outputs": vocabulary, "written_out": True}
    draft.facts |= {"dropout": 0.0, "norm": "", "tokens": True}
    return finish(draft, ADAPTIVE)


def _recurrent(cell: str, draw: Random, wish: Wish) -> Draft:
    draft = begin(cell.lower(), draw, wish, (200, 300))
    features, classes = _series(draft)
    parts.batches(draft, wish.get("sizes") or (32, 64), rows=1500)
    width = draw.choice((32, 48))
    dropout = wish.get("dropout", draw.choice((0.0, 0.1)))
    drop = f"F.dropout(h, {dropout}, self.training)" if dropout else "h"
    draft.defs = f"""class Net(nn.Module):
    def __init__(self, inputs, outputs, width={width}):
        super().__init__()
        self.rnn = nn.{cell}(inputs, width, batch_first=True)
        self.fc = nn.Linear(width, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        h, _ = self.rnn(x)
        h = {parts.ACTIVATIONS[draft.facts["act"]]}(self.fc(h[:, -1]))
        return self.head({drop})
"""
    draft.build = f"model = Net({features}, {classes})"
    if draw.random() < 0.5:
        draft.clip = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
    draft.facts |= {"head": "model.head", "first": "model.rnn", "outputs": classes, "norm": "", "dropout": dropout}
    return finish(draft, ADAPTIVE)


def gru(draw: Random, wish: Wish) -> Draft:
    """A GRU that classifies sequences."""
    return _recurrent("GRU", draw, wish)


def lstm(draw: Random, wish: Wish) -> Draft:
    """An LSTM that classifies sequences."""
    return _recurrent("LSTM", draw, wish)
