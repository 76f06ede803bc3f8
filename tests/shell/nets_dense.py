"""Gated, low-rank, shared, parametrized and otherwise odd networks of matrices, with what is expected of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from nets import Net, made
from nets_expected import expect
from torch import Tensor, nn

from homeostat.treatments.normalization.layer_norm import with_norm

OUT = {"out": "output"}


@expect({"gate": (7, "down.weight")}, {"down": "output"})
def swiglu() -> Net:
    return made(lambda m, x: m.down(m.act(m.gate(x)) * m.up(x)), gate=nn.Linear(4, 7), up=nn.Linear(4, 7),
                act=nn.SiLU(), down=nn.Linear(7, 3))  # fmt: skip


@expect({"one": (7, "down.weight")}, {"down": "output"})
def fused_gate() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        gate, up = m.one(x).chunk(2, -1)
        return m.down(F.gelu(gate) * up)

    return made(run, one=nn.Linear(4, 14), down=nn.Linear(7, 3))


@expect({"one": (7, "down.weight")}, {"down": "output"})
def interleaved_gate() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        both = m.one(x)
        return m.down(F.silu(both[:, ::2]) * both[:, 1::2])

    return made(run, one=nn.Linear(4, 14, bias=False), down=nn.Linear(7, 3))


@expect({"0": (6, "2.weight"), "2": (5, "4.weight")}, {"4": "output"})
def glu_modules() -> Net:
    model = nn.Sequential(nn.Linear(4, 12), nn.GLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, (torch.randn(6, 4),)


@expect({"value": (5, "out.weight")}, OUT)
def film() -> Net:
    """A unit scaled and shifted by two other layers: one unit of three rows."""
    return made(lambda m, x: m.out(F.relu(m.value(x) * m.scale(x) + m.shift(x))), value=nn.Linear(4, 5),
                scale=nn.Linear(4, 5), shift=nn.Linear(4, 5), out=nn.Linear(5, 3))  # fmt: skip


@expect({"query": (5, "score.weight")}, {"score": "output"})
def additive_attention() -> Net:
    return made(lambda m, x: m.score(torch.tanh(m.query(x) + m.key(x))), query=nn.Linear(4, 5), key=nn.Linear(4, 5),
                score=nn.Linear(5, 1))  # fmt: skip


@expect({}, {"one": "combined with", "switch": "combined with", "inp": "combined with", **OUT})
def highway() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.inp(x)
        t = torch.sigmoid(m.switch(x))
        return m.out(t * F.relu(m.one(x)) + (1 - t) * x)

    return made(run, inp=nn.Linear(4, 5), one=nn.Linear(5, 5), switch=nn.Linear(5, 5), out=nn.Linear(5, 3))


@expect({"one": (5, "out.weight")}, OUT)
def maxout() -> Net:
    return made(lambda m, x: m.out(m.one(x).view(-1, 5, 2).amax(-1)), one=nn.Linear(4, 10), out=nn.Linear(5, 3))


@expect({}, {"one": "mixed with each other", **OUT})
def wide_maxout() -> Net:
    return made(lambda m, x: m.out(m.one(x).view(-1, 2, 5).amax(-1)), one=nn.Linear(4, 10), out=nn.Linear(2, 3))


class Lora(nn.Module):
    """A frozen (or trained) layer beside a product of two small ones."""

    def __init__(self, inputs: int, outputs: int, rank: int = 3, frozen: bool = True) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(not frozen)
        self.a, self.b = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.b(self.a(x))


@expect(
    {"up.a": (3, "up.b.weight"), "down.a": (3, "down.b.weight")},
    {"up.base": "frozen", "up.b": "combined with up.base", "down.base": "output", "down.b": "output"},
)
def lora() -> Net:
    return made(_chain, up=Lora(4, 7), down=Lora(7, 3))


def _chain(m: Any, x: Tensor) -> Tensor:
    return m.down(F.relu(m.up(x)))


@expect(
    {"up.a": (3, "up.b.weight"), "up.base": (7, "down.base.weight down.a.weight"), "down.a": (3, "down.b.weight")},
    {"down.base": "output", "down.b": "output"},
)
def trained_lora() -> Net:
    return made(_chain, up=Lora(4, 7, frozen=False), down=Lora(7, 3, frozen=False))


class BareLora(nn.Linear):
    """Adapters as bare parameters of a subclass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(2, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.linear(x, self.weight, self.bias) + x @ self.lora_a.T @ self.lora_b.T


@expect(
    {},
    {
        "up": "frozen", "up.lora_a": "no module at which", "up.lora_b": "combined with up",
        "down": "output", "down.lora_a": "no module at which", "down.lora_b": "output",
    },
    unread={"up.lora_a": (2, "up.lora_b"), "down.lora_a": (2, "down.lora_b")},
)  # fmt: skip
def bare_lora() -> Net:
    return made(_chain, up=BareLora(4, 7), down=BareLora(7, 3))


class Transposed(nn.Module):
    """A layer whose weight is stored as [in, out] and used in `addmm`, as in some GPT-2 code."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


@expect({"fc": (7, "proj.weight")}, {"proj": "output"})
def transposed_weights() -> Net:
    return made(lambda m, x: m.proj(F.gelu(m.fc(x))), torch.randn(6, 2, 4), fc=Transposed(4, 7), proj=Transposed(7, 3))


@expect({"w1": (7, "two.weight"), "two": (5, "out.weight")}, OUT)
def bare_matrix() -> Net:
    """A matrix of the root itself."""
    return made(lambda m, x: m.out(m.act(m.two((x @ m.w1).relu()))), w1=nn.Parameter(torch.randn(4, 7)),
                two=nn.Linear(7, 5), act=nn.Tanh(), out=nn.Linear(5, 3))  # fmt: skip


@expect({}, {"one": "mixed with each other", **OUT})
def einsum_between() -> Net:
    """A parameter that is used in a way that is not followed."""
    return made(lambda m, x: m.out(torch.einsum("bi,io->bo", m.one(x).relu(), m.w)), one=nn.Linear(4, 7),
                w=nn.Parameter(torch.randn(7, 5)), out=nn.Linear(5, 3))  # fmt: skip


@expect({}, {"one": "enter pair (Bilinear)", "pair": "Bilinear cannot be looked into", **OUT})
def bilinear() -> Net:
    return made(lambda m, x: m.out(m.pair(m.one(x).relu(), x)), one=nn.Linear(4, 7), pair=nn.Bilinear(7, 4, 5),
                out=nn.Linear(5, 3))  # fmt: skip


@expect({}, {"one": "weight is computed", "two": "weight is computed", **OUT})
def spectral() -> Net:
    norm = nn.utils.parametrizations.spectral_norm
    return made(lambda m, x: m.out(m.two(m.one(x).relu()).relu()), one=norm(nn.Linear(4, 7)), two=norm(nn.Linear(7, 5)),
                out=nn.Linear(5, 3))  # fmt: skip


class Noisy(nn.Module):
    """Weights are sampled: mean plus scale times noise that is drawn once."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.rand(outputs, inputs))
        self.register_buffer("noise", torch.randn(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mean + self.scale * self.noise)


@expect({}, {"one": "enter two (Noisy)", "two": "cannot be looked into", **OUT})
def noisy_layers() -> Net:
    return made(lambda m, x: m.out(m.two(m.one(x).relu()).relu()), one=nn.Linear(4, 7), two=Noisy(7, 5),
                out=nn.Linear(5, 3))  # fmt: skip


@expect({}, {"enc": "called 2 times", **OUT})
def siamese_encoder() -> Net:
    return made(lambda m, x: m.out(F.relu(m.enc(x[:, :4])) * F.relu(m.enc(x[:, 4:]))), torch.randn(6, 8),
                enc=nn.Linear(4, 7), out=nn.Linear(7, 3))  # fmt: skip


@expect({"one": (7, "same.weight")}, {"same": "called 2 times"})
def same_units_twice() -> Net:
    """A consumer called twice with the same units may be cut."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = m.act(m.one(x))
        return m.same(h) + m.same(h * 0.5)

    return made(run, one=nn.Linear(4, 7), act=nn.Tanh(), same=nn.Linear(7, 3))


@expect({"0": (7, "2.weight")}, {"2": "output"})
def prelu() -> Net:
    return nn.Sequential(nn.Linear(4, 7), nn.PReLU(7), nn.Linear(7, 3)), (torch.randn(6, 4),)


@expect({"one": (7, "out.weight")}, OUT, mixed={"one": "rms_norm 0"})
def functional_norm() -> Net:
    return made(lambda m, x: m.out(F.rms_norm(m.one(x).relu(), (7,))), one=nn.Linear(4, 7), out=nn.Linear(7, 3))


class Standardised(nn.Module):
    """A norm by another name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


@expect({"one": (7, "out.weight")}, OUT, mixed={"one": "norm"})
def norm_by_another_name() -> Net:
    return made(lambda m, x: m.out(F.relu(m.norm(m.one(x)))), one=nn.Linear(4, 7), norm=Standardised(7),
                out=nn.Linear(7, 3))  # fmt: skip


@expect({}, {"one": "mixed with each other", **OUT})
def norm_by_hand() -> Net:
    return made(lambda m, x: m.out(F.normalize(m.one(x).relu(), dim=-1)), one=nn.Linear(4, 7), out=nn.Linear(7, 3))


@expect({"0": (7, "2.weight"), "2": (5, "4.weight")}, {"4": "output"}, mixed={"0": "0.norm", "2": "2.norm"})
def inserted_norms() -> Net:
    """What LayerNormInsertion leaves behind."""
    layers = [with_norm(nn.Linear(4, 7)), nn.ReLU(), with_norm(nn.Linear(7, 5)), nn.ReLU(), nn.Linear(5, 3)]
    return nn.Sequential(*layers), (torch.randn(6, 4),)


@expect(
    {"experts.0.0": (5, "experts.0.2.weight"), "experts.1.0": (5, "experts.1.2.weight")},
    {"router": "output", "experts.0.2": "output", "experts.1.2": "output"},
)
def experts() -> Net:
    """A dense mixture of experts."""

    def run(m: Any, x: Tensor) -> Tensor:
        weights = m.router(x).softmax(-1)
        return sum(weights[:, i, None] * expert(x) for i, expert in enumerate(m.experts))  # type: ignore[return-value]

    both = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)) for _ in range(2))
    return made(run, router=nn.Linear(4, 2), experts=both)


@expect(
    {"trunk": (6, "value.weight gain.weight"), "value": (5, "v.weight"), "gain": (5, "a.weight")},
    {"v": "output", "a": "output"},
)
def dueling() -> Net:
    def run(m: Any, x: Tensor) -> dict[str, Tensor]:
        h = F.relu(m.trunk(x))
        v, a = m.v(F.relu(m.value(h))), m.a(F.relu(m.gain(h)))
        return {"q": v + a - a.mean(-1, keepdim=True), "v": v}

    return made(run, trunk=nn.Linear(4, 6), value=nn.Linear(6, 5), gain=nn.Linear(6, 5), v=nn.Linear(5, 1),
                a=nn.Linear(5, 3))  # fmt: skip


@expect({"time.0": (5, "time.2.weight"), "space.0": (6, "space.2.weight")},
        {"inp": "mixed with each other", "time.2": "combined", "space.2": "combined", "out": "output"})  # fmt: skip
def mixer() -> Net:
    """Layers along time and along features in turn, with residuals."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.inp(x)
        x = x + m.time(x.transpose(1, 2)).transpose(1, 2)
        return m.out((x + m.space(x)).mean(1))

    def block(width: int, inner: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    return made(run, torch.randn(6, 4, 3), inp=nn.Linear(3, 5), time=block(4, 5), space=block(5, 6),
                out=nn.Linear(5, 2))  # fmt: skip
