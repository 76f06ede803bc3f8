"""Networks of many kinds. Each program trains one and returns what it leaves behind."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


def mlp(*between, width=12):
    return nn.Sequential(nn.Linear(6, width), *(between or (nn.ReLU(),)), nn.Linear(width, 3))


def fit(cell, model, optimizer=None, probe=None, loss=None, steps=6):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.01)
    cell.measure(model, optimizer, probe)
    cell.train(model, optimizer, steps, loss)
    return model, optimizer


def cnn_batchnorm(cell):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=4), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    images = torch.randn(16, 1, 8, 8)
    probe = (images, cell.y), F.cross_entropy
    return fit(cell, model, probe=probe, loss=lambda: F.cross_entropy(model(images), cell.y))


def dropouts(cell):
    return fit(cell, mlp(nn.Dropout(0.3), nn.SELU(), nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.1)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens, mask=None):
        return self.out(self.body(self.table(tokens), src_key_padding_mask=mask))


def transformer_with_evaluation(cell):
    """Evaluates in between, where torch takes its fused path; prints the loss to the last digit."""
    model, tokens = Attention(), torch.randint(0, 11, (4, 7))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    cell.measure(
        model, optimizer, probe=((tokens, tokens), lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()))
    )
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask[:, 5:] = True
    for _ in range(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            print(loss.item(), model(tokens).double().sum().item(), model(tokens, mask).double().sum().item())
        model.train()
    return model, optimizer


def frozen_encoder(cell):
    body = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 16, batch_first=True), 1).requires_grad_(False).eval()
    model = nn.ModuleDict({"body": body, "head": nn.Linear(6, 3)})
    optimizer = torch.optim.SGD(model["head"].parameters(), 0.1)
    cell.measure(model, optimizer, probe=False)
    loss = cell.train(
        model, optimizer, loss=lambda: F.cross_entropy(model["head"](body(cell.x[:, None])[:, 0]), cell.y)
    )
    print(loss.item())
    return model, optimizer


def causal_attention(cell):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.mix, self.up, self.down = (
                nn.LayerNorm(6),
                nn.Linear(6, 18),
                nn.Linear(6, 24),
                nn.Linear(24, 3),
            )

        def forward(self, x):
            q, k, v = self.mix(self.norm(x)).chunk(3, -1)
            return self.down(
                F.gelu(self.up(x + F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)))
            )

    model = Block()
    sequences = torch.randn(4, 4, 6)
    return fit(cell, model, probe=False, loss=lambda: F.cross_entropy(model(sequences).flatten(0, 1), cell.y))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.head = kind(6, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.body(x[:, None].repeat(1, 5, 1))[0][:, -1])


def lstm(cell):
    return fit(cell, Recurrent(nn.LSTM))


def packed_gru(cell):
    model = Recurrent(nn.GRU)

    def loss():
        packed = nn.utils.rnn.pack_padded_sequence(cell.x.view(4, 4, 6), [4, 3, 2, 1], batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(model.body(packed)[0], batch_first=True)
        return model.head(out).square().mean()

    return fit(cell, model, probe=False, loss=loss)


def cell_called_in_a_loop(cell):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.head = nn.GRUCell(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            state = x.new_zeros(len(x), 8)
            for _ in range(3):
                state = self.step(x, state)
            return self.head(state)

    return fit(cell, Loop())


def gan(cell):
    maker, judge = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6)), mlp()
    makers, judges = torch.optim.Adam(maker.parameters(), 0.01), torch.optim.Adam(judge.parameters(), 0.01)
    cell.measure(judge, judges)
    cell.measure(maker, makers, probe=False)
    for _ in range(6):
        fake = maker(torch.randn(16, 4))
        judges.zero_grad()
        (judge(cell.x).mean() - judge(fake.detach()).mean()).backward()
        judges.step()
        makers.zero_grad()
        judge(fake).mean().backward()
        makers.step()
    return maker, judge, makers, judges


def variational(cell):
    model = nn.ModuleDict({"code": nn.Linear(6, 8), "read": nn.Linear(4, 6)})

    def loss():
        mean, log = model["code"](cell.x).chunk(2, -1)
        code = torch.distributions.Normal(mean, log.exp()).rsample()
        return (model["read"](code) - cell.x).square().mean() + 0.1 * (mean.square() + log.exp() - log).mean()

    return fit(cell, model, probe=False, loss=loss)


def shared_modules(cell):
    inner = nn.Linear(6, 6)
    return fit(cell, nn.Sequential(inner, nn.Tanh(), inner, nn.Tanh(), inner, nn.Linear(6, 3)))


def spectral_norm(cell):
    return fit(cell, nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 3)))


def weight_norm(cell):
    return fit(cell, nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 3)))


def orthogonal(cell):
    return fit(cell, nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 3)))


def old_norms(cell):
    import warnings

    warnings.simplefilter("ignore")
    one, two = nn.utils.weight_norm(nn.Linear(6, 12)), nn.utils.spectral_norm(nn.Linear(12, 3))
    return fit(cell, nn.Sequential(one, nn.ReLU(), two))


def pruned(cell):
    from torch.nn.utils import prune

    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    fit(cell, model)
    prune.remove(model[0], "weight")
    return model


def lazy_modules(cell):
    import warnings

    warnings.simplefilter("ignore")
    model = nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.LazyLinear(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if cell.way != "probe":
        cell.measure(model, optimizer, probe=False)
        model(cell.x)
    else:
        model(cell.x)
        cell.measure(model, optimizer)
    cell.train(model, optimizer)
    return model, optimizer


def sparse_embeddings(cell):
    model = nn.ModuleDict({"table": nn.EmbeddingBag(50, 6, sparse=True), "head": nn.Linear(6, 3)})
    optimizers = [torch.optim.SparseAdam(model["table"].parameters()), torch.optim.SGD(model["head"].parameters(), 0.1)]
    words = torch.randint(0, 50, (16, 5))
    cell.measure(model, optimizers, probe=False)
    for _ in range(6):
        for one in optimizers:
            one.zero_grad()
        F.cross_entropy(model["head"](model["table"](words)), cell.y).backward()
        for one in optimizers:
            one.step()
    return model, optimizers


def complex_numbers(cell):
    model = nn.Sequential(nn.Linear(6, 8, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64))
    return fit(cell, model, probe=False, loss=lambda: F.cross_entropy(model(cell.x.to(torch.complex64)).abs(), cell.y))


def float64_by_default(cell):
    torch.set_default_dtype(torch.float64)
    model, x = mlp(), cell.x.double()
    return fit(cell, model, probe=((x, cell.y), F.cross_entropy), loss=lambda: F.cross_entropy(model(x), cell.y))


def bfloat16(cell):
    model, x = mlp().bfloat16(), cell.x.bfloat16()
    return fit(cell, model, probe=False, loss=lambda: F.cross_entropy(model(x).float(), cell.y))


def raw_parameters(cell):
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.many = nn.ParameterList([nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 3))])
            self.named = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(3))})

        def forward(self, x):
            return torch.relu(x @ self.many[0]) @ self.many[1] + self.named["bias"]

    return fit(cell, Raw())


def experts(cell):
    """Layers that are called for some batches only, chosen by data."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.all = nn.Linear(6, 4), nn.ModuleList([nn.Linear(6, 3) for _ in range(4)])

        def forward(self, x):
            chosen = self.gate(x).argmax(-1)
            out = x.new_zeros(len(x), 3)
            for number in chosen.unique().tolist():
                out[chosen == number] = self.all[number](x[chosen == number])
            return out * self.gate(x).amax(-1, keepdim=True)

    return fit(cell, Experts())


def quantization_aware(cell):
    import warnings

    warnings.simplefilter("ignore")
    model = nn.Sequential(torch.ao.quantization.QuantStub(), mlp(), torch.ao.quantization.DeQuantStub()).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    model = torch.ao.quantization.prepare_qat(model)
    model, optimizer = fit(cell, model)
    integers = torch.ao.quantization.convert(model.eval())
    cell.note(integers(cell.x))
    return model, optimizer, integers
