"""Faults of attention and of batch norm."""

from __future__ import annotations

from homeostat.clinic.draft import Draft, lines
from homeostat.clinic.fault import Change, Truth, adjust, after, from_start, has_onset, note_onset
from homeostat.diagnosis.condition import SYMPTOMS

_ATTENTION = ("encoder", "vit", "causal-lm")
_WEIGHTS = "weights = torch.softmax(scores, dim=-1)"


def _look_at_attention(draft: Draft) -> None:
    """Every block stores the mean entropy of its attention and its largest logit."""
    note = (
        "self.entropy = float(-(weights * (weights + 1e-12).log()).sum(-1).mean().detach())\n"
        "        self.logit = float(scores.detach().clamp(min=-1e9).abs()[weights > 0].max())"
    )
    draft.defs = draft.defs.replace(_WEIGHTS, f"{_WEIGHTS}\n        {note}")


def _unscaled_attention(draft: Draft) -> None:
    """Queries and keys start far too large, so every query attends to one key."""
    factor = draft.draw.choice((12.0, 20.0))
    adjust(draft, f"with torch.no_grad():\n    for block in model.blocks:\n        width = block.out.in_features\n"
                  f"        block.qkv.weight[: 2 * width].mul_({factor})")  # fmt: skip
    _look_at_attention(draft)
    note_onset(draft, "min(block.entropy for block in model.blocks)", "seen < 0.15", every=10)


def _growing_queries(draft: Draft) -> None:
    """Queries and keys grow at every step, as with a negative weight decay."""
    factor = draft.draw.choice((1.02, 1.03))
    after(draft, f"with torch.no_grad():\n    for block in model.blocks:\n"
                 f"        block.qkv.weight[: 2 * block.out.in_features].mul_({factor})")  # fmt: skip
    _look_at_attention(draft)
    note_onset(draft, "max(block.logit for block in model.blocks)", "seen > 500", every=10)


def _compare_modes(draft: Draft) -> None:
    """At the end, compute the loss of the same inputs in training and in evaluation mode."""
    images = "X[:256], Y[:256]"
    draft.end = lines(
        draft.end,
        f"x, y = {images}",
        f"with torch.no_grad():\n    {draft.forward}\n    {draft.loss}\n    trained = loss.item()\n    model.eval()\n"
        f"    {draft.forward}\n    {draft.loss}\n    evaluated = loss.item()",
    )
    draft.printed.append("'trained': trained, 'evaluated': evaluated")


_NORMS = "for module in model.modules():\n    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):\n"


def _frozen_averages(draft: Draft) -> None:
    """The momentum of the batch norm keeps the running averages at their initial values."""
    adjust(draft, f"{_NORMS}        module.momentum = {draft.draw.choice((0.0, 1e-4))}")
    draft.data = lines(draft.data, "X = 3 * X + 2")
    _compare_modes(draft)
    from_start(draft)


def _worse_in_evaluation(truth: Truth) -> bool:
    return truth["evaluated"] > 1.5 * truth["trained"] + 0.1


FAULTS = (
    Change("unscaled-attention", _ATTENTION, _unscaled_attention, ("attention-entropy-collapse",),
           also=(*SYMPTOMS, "attention-logit-growth"), shows=has_onset, wish={"written_out": True}),
    Change("growing-queries", _ATTENTION, _growing_queries, ("attention-logit-growth", "attention-entropy-collapse"),
           shows=has_onset, wish={"written_out": True}),
    Change("frozen-averages", ("mlp", "cnn", "resnet"), _frozen_averages, ("batchnorm-mismatch",),
           shows=_worse_in_evaluation, wish={"norm": "nn.BatchNorm2d", "dropout": 0.0}),
)  # fmt: skip
