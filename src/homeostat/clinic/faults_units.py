"""Faults of units, gradients and numbers."""

from __future__ import annotations

from homeostat.clinic.draft import Draft, lines
from homeostat.clinic.fault import PLAIN, Change, Truth, adjust, after, has_onset, note_onset


def _silent_at_last(truth: Truth) -> bool:
    return has_onset(truth) and truth["seen"] >= 0.75


def _flat_at_last(truth: Truth) -> bool:
    return has_onset(truth) and truth["seen"] >= 0.6


def _narrow_at_last(truth: Truth) -> bool:
    return has_onset(truth) and truth["seen"] <= 2.0


_RECTIFIED = {"act": "relu", "norm": "", "dropout": 0.0, "no_loader": False}
_SILENT = "max(float((h.abs().amax(0) < 1e-6).float().mean()) for h in found)"
_FLAT = "max(float(((h.abs() > 0.98).float().mean(0) > 0.95).float().mean()) for h in found)"
_RANK = "min(rank(h) for h in found)"
_RANK_OF = """def rank(h):
    s = torch.linalg.svdvals(h - 0)
    p = s / s.sum()
    return float((-(p * (p + 1e-12).log()).sum()).exp())


"""


def _hidden(draft: Draft) -> str:
    return f"probe = {draft.probe}\nfound = {draft.hidden}"


def _see_silent(draft: Draft) -> None:
    note_onset(draft, _SILENT, "seen >= 0.75", also=_hidden(draft))


def _dead_biases(draft: Draft) -> None:
    adjust(
        draft,
        f"with torch.no_grad():\n    {draft.facts['layers']}[-1].bias.fill_(-{draft.draw.choice((3.0, 8.0))})\n"
        f"    {draft.facts['layers']}[-1].weight.mul_(0.3)",
    )
    _see_silent(draft)


def _spike(draft: Draft) -> None:
    """A few steps at a learning rate a thousand times too high."""
    at = draft.draw.choice((40, 80))
    factor = 300 if draft.facts["optimizer"] in ("SGD", "momentum") else 1000
    draft.scheduler = ""
    draft.after = ""
    after(
        draft,
        f"for group in optimizer.param_groups:\n    group['lr'] = LR * {factor} if {at} <= step < {at + 5} else LR",
    )


def _spike_kills(draft: Draft) -> None:
    _spike(draft)
    _see_silent(draft)


def _activity(draft: Draft) -> None:
    weight = draft.draw.choice((3.0, 10.0))
    draft.loss = lines(
        draft.loss, f"probe = x\nfound = {draft.hidden}\nloss = loss + {weight} * sum(h.abs().mean() for h in found)"
    )
    _see_silent(draft)


def _large_init(draft: Draft) -> None:
    factor = draft.draw.choice((50, 200))
    layers = draft.facts["layers"]
    adjust(draft, f"with torch.no_grad():\n    for layer in {layers}:\n        layer.weight.mul_({factor})")
    note_onset(draft, _FLAT, "seen >= 0.6", also=_hidden(draft))


def _saturating_spike(draft: Draft) -> None:
    _spike(draft)
    note_onset(draft, _FLAT, "seen >= 0.6", also=_hidden(draft))


def _constant_init(draft: Draft) -> None:
    adjust(
        draft,
        f"for layer in {draft.facts['layers']}:\n    nn.init.constant_(layer.weight, 0.05)\n"
        "    nn.init.zeros_(layer.bias)",
    )
    draft.defs = _RANK_OF + draft.defs
    note_onset(draft, _RANK, "seen <= 2.0", also=_hidden(draft))


def _copied_rows(draft: Draft) -> None:
    """All units of a layer have the same initial weights, so they stay the same."""
    head = draft.facts["head"]
    adjust(
        draft,
        f"with torch.no_grad():\n    for layer in {draft.facts['layers']}:\n"
        "        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))\n        layer.bias.zero_()\n"
        f"    {head}.weight.copy_({head}.weight[:, :1].expand_as({head}.weight))",
    )
    draft.defs = _RANK_OF + draft.defs
    note_onset(draft, _RANK, "seen <= 2.0", also=_hidden(draft))


_RATIO = (
    "sizes = [float(p.grad.norm() / (p.norm() + 1e-12)) for p in model.parameters()"
    " if p.dim() > 1 and p.grad is not None]"
)


def _vanishing(draft: Draft) -> None:
    note_onset(draft, "min(sizes) / max(max(sizes), 1e-30)", "seen < 1e-4", also=_RATIO)


def _tiny_init(draft: Draft) -> None:
    adjust(draft, "for p in model.parameters():\n    if p.dim() > 1:\n        nn.init.normal_(p, std=0.003)")
    _vanishing(draft)


_GROWN = "torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()"


def _see_growth(draft: Draft) -> None:
    draft.truth = lines(draft.truth, "size = None")
    note_onset(
        draft,
        "grown / size",
        "(seen > 30 or seen != seen)",
        every=5,
        also=f"grown = float({_GROWN})\nsize = grown if size is None else size",
    )


def _growing_rate(draft: Draft) -> None:
    """The scheduler multiplies where it should divide."""
    factor = draft.draw.choice((1.03, 1.05))
    draft.scheduler = f"scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, {factor})"
    draft.after = "scheduler.step()"
    _see_growth(draft)


def _ascending(draft: Draft) -> None:
    """The loss is maximised."""
    draft.optimizer = draft.optimizer.replace("lr=LR", "lr=LR, maximize=True")
    _see_growth(draft)


def _see_nonfinite(draft: Draft) -> None:
    note_onset(draft, "float(loss)", "(seen != seen or abs(seen) == float('inf') or lost)", every=1,
          also="lost = not all(bool(torch.isfinite(p).all()) for p in model.parameters())")  # fmt: skip


def _log_of_zero(draft: Draft) -> None:
    """A manual cross entropy: the logarithm of a probability that underflows."""
    target = "y.flatten()" if draft.facts.get("tokens") else "y"
    out = "out.flatten(0, 1)" if draft.facts.get("tokens") else "out"
    draft.loss = (
        f"chance = torch.softmax({draft.draw.choice((60.0, 200.0))} * {out}, dim=-1)\n"
        f"loss = -(F.one_hot({target}, chance.shape[-1]) * torch.log(chance)).sum(-1).mean()"
    )
    _see_nonfinite(draft)


def _overflow(draft: Draft) -> None:
    draft.constants["LR"] = 1e4
    draft.optimizer, draft.scheduler, draft.after = "optimizer = torch.optim.SGD(model.parameters(), lr=LR)", "", ""
    _see_nonfinite(draft)


def _bad_rows(draft: Draft) -> None:
    draft.data = lines(draft.data, f"X[{draft.draw.randrange(20, 150)}] = float('nan')")
    draft.probe = "X[-64:]"
    _see_nonfinite(draft)


def _root_of_zero(draft: Draft) -> None:
    """The gradient of a norm at zero."""
    at = draft.draw.choice((50, 120))
    draft.loss = lines(
        draft.loss,
        f"drift = out - out.detach() if step >= {at} else out\n"
        "loss = loss + 1e-3 * torch.sqrt((drift ** 2).sum(-1)).mean()",
    )
    _see_nonfinite(draft)


_SIGMOID = {"act": "sigmoid", "norm": "", "dropout": 0.0, "optimizer": "SGD", "depth": 8}
_FLAT_TANH = {"act": "tanh", "norm": "", "dropout": 0.0}
_BARE = {"norm": "", "dropout": 0.0}
_SGD = {"norm": "", "dropout": 0.0, "optimizer": "SGD"}
_INPUTS = ("mlp", "regressor", "cnn", "resnet", "encoder", "vit", "gru", "lstm", "autoencoder")

FAULTS = (
    Change("dead-biases", PLAIN, _dead_biases, ("dormant-units",), shows=_silent_at_last, wish=_RECTIFIED),
    Change("spike-kills", PLAIN, _spike_kills, ("dormant-units",), shows=_silent_at_last, wish=_RECTIFIED),
    Change("activity-penalty", PLAIN, _activity, ("dormant-units", "rank-collapse"), shows=_silent_at_last,
           wish=_RECTIFIED),
    Change("large-init", PLAIN, _large_init, ("saturated-units",), shows=_flat_at_last, wish=_FLAT_TANH),
    Change("saturating-spike", PLAIN, _saturating_spike, ("saturated-units",), shows=_flat_at_last, wish=_FLAT_TANH),
    Change("constant-init", PLAIN, _constant_init, ("rank-collapse",), shows=_narrow_at_last, wish=_BARE),
    Change("copied-rows", PLAIN, _copied_rows, ("rank-collapse",), shows=_narrow_at_last, wish=_BARE),
    Change("deep-sigmoid", ("mlp", "regressor"), _vanishing, ("vanishing-gradients",), shows=has_onset, wish=_SIGMOID),
    Change("tiny-init", ("mlp", "regressor", "autoencoder", "cnn"), _tiny_init, ("vanishing-gradients",),
           shows=has_onset, wish=_SGD | {"depth": 6}),
    Change("growing-rate", ("mlp", "regressor", "cnn", "autoencoder"), _growing_rate,
           ("exploding-gradients", "learning-rate-too-high", "diverging-loss", "non-finite"),
           shows=has_onset, wish=_SGD),
    Change("ascending", ("regressor", "autoencoder", "gru", "mlp"), _ascending,
           ("diverging-loss", "exploding-gradients", "non-finite"), shows=has_onset, wish=_SGD),
    Change("log-of-zero", ("mlp", "cnn", "encoder", "vit", "gru", "causal-lm"), _log_of_zero, ("non-finite",),
           shows=has_onset),
    Change("overflow", ("regressor", "autoencoder", "mlp"), _overflow, ("non-finite",), shows=has_onset,
           wish={"norm": ""}),
    Change("bad-rows", _INPUTS, _bad_rows, ("non-finite",), shows=has_onset),
    Change("root-of-zero", ("mlp", "encoder", "autoencoder", "gru", "lstm"), _root_of_zero, ("non-finite",),
           shows=has_onset),
)  # fmt: skip
