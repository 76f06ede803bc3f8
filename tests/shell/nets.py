"""Small nasty networks: every function gives (model, positional example inputs), seeded, batch of 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Net = tuple[nn.Module, tuple[Any, ...]]


class Net2(nn.Module):
    """A module from named children and a forward given as a function of (self, inputs)."""

    def __init__(self, run: Callable[..., Any], **children: Any) -> None:
        super().__init__()
        self.run = run
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def made(run: Callable[..., Any], *inputs: Any, **children: Any) -> Net:
    return Net2(run, **children), inputs or (torch.randn(6, 4),)


def mlp() -> Net:
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)), (torch.randn(6, 4),)


def functional_mlp() -> Net:
    return made(
        lambda m, x: m.out(F.gelu(m.two(F.relu(m.one(x))))),
        one=nn.Linear(4, 7),
        two=nn.Linear(7, 5),
        out=nn.Linear(5, 3),
    )


def late_first() -> Net:
    """Registered in the opposite order of use."""
    return made(lambda m, x: m.a(F.relu(m.b(F.relu(m.c(x))))), a=nn.Linear(5, 3), b=nn.Linear(7, 5), c=nn.Linear(4, 7))


def norm_before() -> Net:
    return nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3)), (torch.randn(6, 4),)


def norm_after() -> Net:
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.LayerNorm(7), nn.Linear(7, 3)), (torch.randn(6, 4),)


def conv_net() -> Net:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, bias=False), nn.GroupNorm(1, 5), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    return model, (torch.randn(6, 1, 8, 8),)


def functional_conv_net() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(m.one(x)), 2)
        x = F.adaptive_avg_pool2d(F.leaky_relu(m.two(x), 0.1), 2)
        return m.out(F.dropout(x.view(len(x), -1), training=m.training))

    return made(run, torch.randn(6, 1, 8, 8), one=nn.Conv2d(1, 4, 3), two=nn.Conv2d(4, 5, 2), out=nn.Linear(20, 3))


def residual_mlp() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.down(m.act(m.up(m.norm(x))))
        return m.head(x)

    return made(
        run, stem=nn.Linear(4, 5), norm=nn.LayerNorm(5), up=nn.Linear(5, 9), act=nn.GELU(), down=nn.Linear(9, 5),
        head=nn.Linear(5, 3),
    )  # fmt: skip


def zero_residual() -> Net:
    """The last layer of the branch and its gate start at zero, so an untouched copy shows no residual."""
    model, inputs = residual_mlp()
    model.gate = nn.Parameter(torch.zeros(()))
    nn.init.zeros_(model.down.weight)

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(x + m.gate * m.down(m.act(m.up(x))))

    model.run = run
    del model.norm
    return model, inputs


def input_residual() -> Net:
    return made(lambda m, x: m.out(x + F.relu(m.one(x))), one=nn.Linear(4, 4), out=nn.Linear(4, 3))


class BasicBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width + 2, 3, padding=1, bias=False), nn.BatchNorm2d(width + 2)
        self.conv2, self.bn2 = nn.Conv2d(width + 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def resnet() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.head(m.block(F.relu(m.bn(m.stem(x)))).mean((2, 3)))

    return made(
        run, torch.randn(6, 1, 6, 6), stem=nn.Conv2d(1, 4, 3), bn=nn.BatchNorm2d(4), block=BasicBlock(4),
        head=nn.Linear(4, 3),
    )  # fmt: skip


def encoder_layer() -> Net:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return made(lambda m, x: m.head(m.layer(m.emb(x)).mean(1)), torch.randint(0, 10, (6, 5)),
                emb=nn.Embedding(10, 8), layer=layer, head=nn.Linear(8, 3))  # fmt: skip


class Block(nn.Module):
    """A GPT block with separate q, k, v, o and functional layer steps."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.fc, self.proj = nn.Linear(width, 12), nn.Linear(12, width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        q, k, v = (part(h).view(*h.shape[:2], 2, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(h.shape))
        return x + self.drop(self.proj(F.gelu(self.fc(self.ln2(x)), approximate="tanh")))


def gpt() -> Net:
    """Head tied to the embedding, position embedding as a bare parameter."""

    def run(m: Any, x: Tensor) -> Tensor:
        return m.head(m.block(m.emb(x) + m.position))

    model, inputs = made(run, torch.randint(0, 10, (6, 5)), emb=nn.Embedding(10, 8), block=Block(),
                         head=nn.Linear(8, 10, bias=False), position=nn.Parameter(torch.zeros(5, 8)))  # fmt: skip
    model.head.weight = model.emb.weight
    return model, inputs


def gated_mlp() -> Net:
    return made(lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)), gate=nn.Linear(4, 7), up=nn.Linear(4, 7),
                down=nn.Linear(7, 3))  # fmt: skip


def recurrent() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        hidden, _ = m.gru(F.relu(m.inp(x)))
        _, (last, _) = m.lstm(hidden)
        return m.out(torch.relu(m.mid(last[-1])))

    return made(run, torch.randn(6, 5, 4), inp=nn.Linear(4, 6), gru=nn.GRU(6, 5, batch_first=True),
                lstm=nn.LSTM(5, 7, batch_first=True), mid=nn.Linear(7, 5), out=nn.Linear(5, 3))  # fmt: skip


def embedding_mlp() -> Net:
    return made(lambda m, x: m.out(torch.tanh(m.one(m.emb(x).flatten(1)))), torch.randint(0, 10, (6, 3)),
                emb=nn.Embedding(10, 4), one=nn.Linear(12, 7), out=nn.Linear(7, 10))  # fmt: skip


def tied_functional_head() -> Net:
    """The embedding table is used again without calling the module."""
    return made(lambda m, x: F.linear(m.two(F.relu(m.one(m.emb(x)))), m.emb.weight), torch.randint(0, 10, (6, 3)),
                emb=nn.Embedding(10, 4), one=nn.Linear(4, 7), two=nn.Linear(7, 4))  # fmt: skip


def called_twice() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(F.relu(m.same(F.relu(m.same(F.relu(m.one(x)))))))

    return made(run, one=nn.Linear(4, 5), same=nn.Linear(5, 5), out=nn.Linear(5, 3))


def siamese() -> Net:
    """One consumer over two different producers."""
    return made(lambda m, x: m.same(F.relu(m.one(x))) - m.same(F.relu(m.two(x))), one=nn.Linear(4, 5),
                two=nn.Linear(4, 5), same=nn.Linear(5, 3))  # fmt: skip


def two_heads() -> Net:
    def run(m: Any, x: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(m.trunk(x))
        return {"policy": m.policy(h), "value": m.value(h).squeeze(-1)}

    return made(run, trunk=nn.Linear(4, 7), policy=nn.Linear(7, 3), value=nn.Linear(7, 1))


def distribution_head() -> Net:
    """Returns a distribution object and also the hidden layer."""

    def run(m: Any, x: Tensor) -> Any:
        return torch.distributions.Normal(m.mean(torch.tanh(m.trunk(x))), m.log_std.exp(), validate_args=False)

    return made(run, trunk=nn.Linear(4, 7), mean=nn.Linear(7, 3), log_std=nn.Parameter(torch.zeros(3)))


def exposed() -> Net:
    """The hidden layer is returned as well."""

    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(m.one(x))
        return m.out(h), h

    return made(run, one=nn.Linear(4, 7), out=nn.Linear(7, 3))


def branches() -> Net:
    """Two branches side by side, one of them sliced and permuted on the way."""

    def run(m: Any, x: Tensor) -> Tensor:
        a, b = F.relu(m.left(x)), torch.sigmoid(m.right(x))
        return m.out(torch.cat([a.flip(-1), m.norm(b)], -1))

    return made(run, left=nn.Linear(4, 3), right=nn.Linear(4, 5), norm=nn.LayerNorm(5), out=nn.Linear(8, 3))


def unused_units() -> Net:
    return made(lambda m, x: m.out(F.relu(m.one(x))[:, :5]), one=nn.Linear(4, 7), out=nn.Linear(5, 3))


def weight_norm() -> Net:
    wn = nn.utils.parametrizations.weight_norm
    return made(lambda m, x: m.out(F.relu(m.two(F.relu(m.one(x))))), one=nn.Linear(4, 7), two=wn(nn.Linear(7, 5)),
                out=nn.Linear(5, 3))  # fmt: skip


def depthwise() -> Net:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    return model, (torch.randn(6, 1, 6, 6),)


def dropout() -> Net:
    return nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 5), nn.Dropout(0.5), nn.ELU(), nn.Linear(5, 3)
    ), (torch.randn(6, 4),)


def dict_input() -> Net:
    def run(m: Any, batch: dict[str, Any], scale: float = 1.0) -> Tensor:
        h = F.relu(m.one(batch["x"]) * scale) * batch["mask"][:, None]
        return m.out(h)

    return made(
        run, {"x": torch.randn(6, 4), "mask": torch.ones(6), "id": "a"}, one=nn.Linear(4, 7), out=nn.Linear(7, 3)
    )


def permuted() -> Net:
    """Channels last between a 1d convolution and a linear layer, then heads folded into the batch."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = F.silu(m.conv(x)).permute(0, 2, 1)
        h = F.softplus(m.mid(h)).reshape(len(x), 6, 2, 3).transpose(1, 2).reshape(len(x) * 2, 18)
        return m.out(h)

    return made(run, torch.randn(6, 4, 8), conv=nn.Conv1d(4, 5, 3), mid=nn.Linear(5, 6), out=nn.Linear(18, 3))


def training_head() -> Net:
    """An auxiliary head that only training uses."""

    def run(m: Any, x: Tensor) -> Any:
        h = F.relu(m.norm(m.one(x)))
        return (m.out(h), m.aux(h)) if m.training else m.out(h)

    return made(run, one=nn.Linear(4, 7), norm=nn.BatchNorm1d(7), out=nn.Linear(7, 3), aux=nn.Linear(7, 2))


def frozen() -> Net:
    model, inputs = mlp()
    model[2].requires_grad_(False)
    return model, inputs


def hidden_switch() -> Net:
    """A unit acts on its neighbours, but only when it is negative."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = m.one(x)
        return m.out(F.relu(h + F.relu(-h[:, :1])))

    return made(run, one=nn.Linear(4, 7), out=nn.Linear(7, 3))


def bare_weights() -> Net:
    """The consumer is a bare matrix used by the root, zero at the start."""
    return made(lambda m, x: F.relu(m.one(x)) @ m.w, one=nn.Linear(4, 7), w=nn.Parameter(torch.zeros(7, 3)))


def raises() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        raise RuntimeError("no forward today")

    return made(run, one=nn.Linear(4, 7))


def noisy() -> Net:
    """Draws noise, and keeps its own count: the same seed gives other passes."""

    def run(m: Any, x: Tensor) -> Tensor:
        m.count += 1
        return m.out(F.relu(m.one(x + m.count * torch.randn_like(x))))

    return made(run, one=nn.Linear(4, 7), out=nn.Linear(7, 3), count=0)


NETS: dict[str, Callable[[], Net]] = {
    fn.__name__: fn
    for fn in (
        mlp, functional_mlp, late_first, norm_before, norm_after, conv_net, functional_conv_net, residual_mlp,
        zero_residual, input_residual, resnet, encoder_layer, gpt, gated_mlp, recurrent, embedding_mlp,
        tied_functional_head, called_twice, siamese, two_heads, distribution_head, exposed, branches, unused_units,
        weight_norm, depthwise, dropout, dict_input, permuted, training_head, frozen, hidden_switch,
        bare_weights, raises, noisy,
    )
}  # fmt: skip


def build(name: str, seed: int = 0) -> Net:
    """A fresh network of that name; the global random stream is left as it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return NETS[name]()
