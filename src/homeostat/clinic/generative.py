"""Architectures without labels: autoencoders, a GAN, contrastive and siamese networks."""

from __future__ import annotations

from random import Random

from homeostat.clinic import parts
from homeostat.clinic.draft import Draft
from homeostat.clinic.supervised import Wish, begin, finish

_ADAM = ("Adam", "AdamW")
_PIXELS = "data = load_digits()\nX = torch.tensor(data.data, dtype=torch.float32) / 16\nY = torch.tensor(data.target)"


def _pixels(draft: Draft, sizes: tuple[int, ...] = (64, 128)) -> None:
    draft.imports.append("from sklearn.datasets import load_digits")
    draft.data = _PIXELS
    draft.facts["data"] = "digits"
    parts.batches(draft, sizes)


def autoencoder(draw: Random, wish: Wish) -> Draft:
    """An autoencoder of digits with a narrow code."""
    draft = begin("autoencoder", draw, wish, (300, 400))
    _pixels(draft)
    act = parts.ACTIVATIONS[draft.facts["act"]]
    code = draw.choice((8, 16))
    draft.defs = f"""class Net(nn.Module):
    def __init__(self, inputs=64, width=96, code={code}):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(width, width)])
        self.code = nn.Linear(width, code)
        self.up = nn.Linear(code, width)
        self.head = nn.Linear(width, inputs)

    def features(self, x):
        found = []
        for layer in self.layers:
            x = {act}(layer(x))
            found.append(x)
        return found, x

    def forward(self, x):
        return self.head({act}(self.up(self.code(self.features(x)[1]))))
"""
    draft.build = "model = Net()"
    noise = draw.choice((0.0, 0.2))
    draft.forward = f"out = model(x + {noise} * torch.randn_like(x))" if noise else "out = model(x)"
    draft.loss = "loss = F.mse_loss(out, x)"
    draft.hidden = "model.features(probe)[0]"
    draft.facts |= {"head": "model.head", "first": "model.layers[0]", "layers": "model.layers", "norm": ""}
    return finish(draft, ("Adam", "AdamW", "RMSprop"))


def vae(draw: Random, wish: Wish) -> Draft:
    """A variational autoencoder of digits."""
    draft = begin("vae", draw, wish, (300, 400))
    _pixels(draft)
    act = parts.ACTIVATIONS[draft.facts["act"]]
    draft.defs = f"""class Net(nn.Module):
    def __init__(self, inputs=64, width=96, code=6):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, width)])
        self.mean = nn.Linear(width, code)
        self.spread = nn.Linear(width, code)
        self.up = nn.Linear(code, width)
        self.head = nn.Linear(width, inputs)

    def features(self, x):
        h = {act}(self.layers[0](x))
        return [h], h

    def forward(self, x):
        h = self.features(x)[1]
        mean, log_var = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.head({act}(self.up(z))), mean, log_var
"""
    draft.build = "model = Net()"
    draft.forward = "out, mean, log_var = model(x)"
    summed = draw.random() < 0.5
    fit = "F.binary_cross_entropy_with_logits(out, x, reduction='sum')"
    draft.loss = (
        f"loss = {fit} - 0.5 * (1 + log_var - mean ** 2 - log_var.exp()).sum()\n"
        + ("" if summed else "loss = loss / len(x)")
    ).strip()
    draft.hidden = "model.features(probe)[0]"
    draft.facts |= {"head": "model.head", "first": "model.layers[0]", "layers": "model.layers", "norm": ""}
    return finish(draft, _ADAM)


def gan(draw: Random, wish: Wish) -> Draft:
    """A generator and a discriminator on points of a ring."""
    draft = begin("gan", draw, wish | {"no_loader": True}, (300, 400))
    draft.data = (
        "angle = 6.2832 * torch.randint(0, 6, (2000,)) / 6\n"
        "X = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(2000, 2)\nY = torch.zeros(2000)"
    )
    parts.batches(draft, (64, 128))
    draft.defs = """def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2),
                         nn.Linear(64, outputs))
"""
    draft.build = "generator, critic = net(8, 2), net(2, 1)"
    rate = draw.choice((5e-4, 1e-3))
    draft.constants["LR"] = rate
    draft.facts |= {"optimizer": "Adam", "norm": ""}
    draft.optimizer = (
        "optimizer = torch.optim.Adam(critic.parameters(), lr=LR, betas=(0.5, 0.999))\n"
        "optimizer_g = torch.optim.Adam(generator.parameters(), lr=LR, betas=(0.5, 0.999))"
    )
    draft.forward = (
        "fake = generator(torch.randn(len(x), 8))\nreal_score, fake_score = critic(x), critic(fake.detach())"
    )
    draft.loss = "loss = (F.softplus(-real_score) + F.softplus(fake_score)).mean()"
    draft.after = (
        "loss_g = F.softplus(-critic(fake)).mean()\noptimizer_g.zero_grad()\nloss_g.backward()\noptimizer_g.step()"
    )
    draft.end = "made = generator(torch.randn(500, 8))\nradius = float(made.detach().norm(dim=1).mean())"
    draft.printed.append("'radius': radius")
    parts.logging(draft)
    return draft


_VIEWS = """def view(x):
    return x * (torch.rand_like(x) > 0.2) + 0.1 * torch.randn_like(x)
"""


def siamese(draw: Random, wish: Wish) -> Draft:
    """SimSiam: two views, a predictor, the gradient stopped on one side."""
    draft = begin("siamese", draw, wish, (300, 400))
    _pixels(draft, (64, 128))
    draft.defs = _VIEWS
    draft.build = (
        "encoder = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32))\n"
        "predictor = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32))"
    )
    if draw.random() < 0.5:
        draft.build += "\nmodel = nn.ModuleList([encoder, predictor])"
        parameters = "model.parameters()"
    else:
        parameters = "[*encoder.parameters(), *predictor.parameters()]"
    draft.forward = "a, b = encoder(view(x)), encoder(view(x))\np, r = predictor(a), predictor(b)"
    draft.loss = "loss = -(F.cosine_similarity(p, b.detach()).mean() + F.cosine_similarity(r, a.detach()).mean()) / 2"
    draft.facts |= {"norm": "nn.BatchNorm1d", "optimizer": wish.get("optimizer") or draw.choice(("momentum", "Adam"))}
    draft.optimizer = parts.optimizer(draft, parameters)
    draft.end = "spread = float(F.normalize(encoder(X[:500]), dim=1).std(0).mean()) * 32 ** 0.5"
    draft.printed.append("'spread': spread")
    draft.facts["embed"] = "F.normalize(encoder(X[:256]), dim=1)"
    parts.logging(draft)
    return draft


def contrastive(draw: Random, wish: Wish) -> Draft:
    """InfoNCE on two views."""
    draft = begin("contrastive", draw, wish, (300, 400))
    _pixels(draft, (64, 128))
    act = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}.get(draft.facts["act"], "ReLU")
    draft.defs = f"""{_VIEWS}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 128), nn.{act}(), nn.Linear(128, 128), nn.{act}())
        self.head = nn.Linear(128, 32)

    def forward(self, x):
        return F.normalize(self.head(self.body(x)), dim=1)
"""
    draft.build = "model = Net()"
    draft.forward = "a, b = model(view(x)), model(view(x))"
    draft.loss = "loss = F.cross_entropy(a @ b.T / 0.2, torch.arange(len(x)))"
    draft.facts |= {"norm": "", "head": "model.head", "first": "model.body[0]", "embed": "model(X[:256])"}
    return finish(draft, _ADAM)
