"""Further mistakes of scripts: other causes of the same conditions."""

from __future__ import annotations

from homeostat.clinic.draft import Draft, lines
from homeostat.clinic.fault import (
    CLASSIFIERS,
    MODELS,
    PLAIN,
    Change,
    adjust,
    after,
    from_start,
    no_better,
    stands,
    with_first_loss,
)

_WITH_HEAD = (*CLASSIFIERS, "regressor")
SCALED_UPDATE = "scaler.step(optimizer)\nscaler.update()"
_SLOW = ("learning-rate-too-low", "stalled-learning")
_FAST = (
    "learning-rate-too-high",
    "oscillating-loss",
    "exploding-gradients",
    "non-finite",
    "stalled-learning",
)


def _without_biases(draft: Draft) -> None:
    """The filter of the parameter groups drops the biases."""
    draft.optimizer = draft.optimizer.replace(
        "model.parameters()", "[p for name, p in model.named_parameters() if 'bias' not in name]"
    )
    from_start(draft)


def _sigmoid_twice(draft: Draft) -> None:
    """Probabilities in a loss that expects logits, one class against the others."""
    draft.loss = (
        "chance = torch.sigmoid(out)\n"
        "loss = F.binary_cross_entropy_with_logits(chance, F.one_hot(y, out.shape[1]).float())"
    )
    from_start(draft)


def _clipped_away(draft: Draft) -> None:
    """Gradients are clipped by value to almost zero."""
    draft.clip = "nn.utils.clip_grad_value_(model.parameters(), 1e-7)"
    from_start(draft)


def _all_zero(draft: Draft) -> None:
    """Every weight starts at zero."""
    adjust(draft, "for p in model.parameters():\n    nn.init.zeros_(p)")
    from_start(draft)


def _never_in_training_mode(draft: Draft) -> None:
    adjust(draft, "model.eval()")
    from_start(draft)


def _heavy_momentum(draft: Draft) -> None:
    draft.optimizer = "optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.99)"
    draft.constants["LR"] = draft.draw.choice((0.5, 1.0))
    draft.scheduler, draft.after, draft.clip = "", "", ""
    with_first_loss(draft)
    from_start(draft)


def _frozen_by_mistake(draft: Draft) -> None:
    """All layers but the head run without gradients, although they are in the optimizer."""
    head = draft.facts["head"].removeprefix("model.")
    draft.defs = draft.defs.replace(f"return self.{head}(", f"return self.{head}(off(")
    call = draft.defs.index(f"return self.{head}(off(")
    line_end = draft.defs.index("\n", call) if "\n" in draft.defs[call:] else len(draft.defs)
    draft.defs = f"{draft.defs[:line_end]}){draft.defs[line_end:]}"
    draft.defs = lines("def off(h):\n    return h.data\n\n", draft.defs)
    from_start(draft)


def scaled(draft: Draft) -> None:
    """A GradScaler, as for float16."""
    draft.optimizer = lines(draft.optimizer, "scaler = torch.amp.GradScaler('cpu')")
    draft.backward, draft.update, draft.clip = "scaler.scale(loss).backward()", SCALED_UPDATE, ""
    draft.printed.append("'scale': scaler.get_scale()")


def _scale_falls(draft: Draft) -> None:
    """The gradient of a root at zero is not finite, at every step or at most of them."""
    scaled(draft)
    term = "loss = loss + (0 * next(model.parameters())).sum().sqrt()"
    draft.loss = lines(draft.loss, draft.draw.choice((term, f"if step % 4:\n    {term}")))
    from_start(draft)


def held_out(draft: Draft) -> None:
    """A fifth of the data is held out and evaluated through a loss module."""
    draft.optimizer = lines(draft.optimizer, "criterion = nn.CrossEntropyLoss()", "tests = []")
    draft.data = lines(
        draft.data,
        "mixed = torch.randperm(len(X))\nX, Y = X[mixed], Y[mixed]",
        "many = len(X) // 5\nVX, VY = X[:many], Y[:many]\nX, Y = X[many:], Y[many:]",
    )
    draft.loss = "loss = criterion(out, y)"
    after(
        draft,
        "if step % 20 == 19:\n    model.eval()\n    with torch.no_grad():\n"
        "        tests.append(criterion(model(VX), VY).item())\n    model.train()",
    )
    draft.printed.append("'best': min(tests), 'test': sum(tests[-3:]) / 3")


def _learnt_by_heart(draft: Draft) -> None:
    """Few data with wrong labels among them."""
    draft.scheduler, draft.after = "", ""
    held_out(draft)
    draft.data = lines(
        draft.data,
        "X, Y = X[:60], Y[:60]",
        f"Y = torch.where(torch.rand(60) < 0.4, torch.randint(0, {draft.classes}, (60,)), Y)",
    )
    draft.steps = 800
    draft.printed.append("'onset': 20 * (tests.index(min(tests)) + 1)")


def _frozen_middle(draft: Draft) -> None:
    """A layer in the middle has `requires_grad=False`."""
    adjust(
        draft,
        "layers = [name.rpartition('.')[0] for name, p in model.named_parameters() if p.dim() > 1]\n"
        "model.get_submodule(layers[len(layers) // 2]).requires_grad_(False)",
    )
    draft.printed.append("'layers': len(layers)")
    from_start(draft)


def _bad_batches(draft: Draft) -> None:
    """Some batches have another scale."""
    every = draft.draw.choice((40, 60))
    draft.forward = lines(f"x = x * (30.0 if step % {every} == {every - 1} else 1.0)", draft.forward)
    draft.end = lines(
        draft.end, "usual = sorted(losses)[len(losses) // 2]", "jumps = sum(v > 5 * usual for v in losses)"
    )
    draft.printed.append("'jumps': jumps")
    draft.printed.append(f"'onset': {every - 1}")


_MOODY = {"norm": "nn.BatchNorm2d", "dropout": 0.2, "written_out": False}
_BARE = {"norm": "", "dropout": 0.0}
FAULTS = (
    Change("without-biases", (*PLAIN, "encoder", "gru"), _without_biases, ("untrained-parameters",)),
    Change("sigmoid-twice", CLASSIFIERS, _sigmoid_twice, ("duplicated-softmax",)),
    Change("clipped-away", MODELS, _clipped_away, _SLOW, shows=stands, wish={"optimizer": "SGD"}),
    Change(
        "all-zero",
        ("mlp", "cnn", "regressor", "autoencoder"),
        _all_zero,
        ("stalled-learning", "rank-collapse", "dormant-units", "vanishing-gradients", "learning-rate-too-low"),
        shows=stands,
        wish=_BARE,
    ),
    Change(
        "never-in-training-mode",
        ("mlp", "cnn", "resnet", "encoder", "gru", "lstm"),
        _never_in_training_mode,
        ("trained-in-eval-mode",),
        wish=_MOODY,
    ),
    Change(
        "heavy-momentum", ("mlp", "cnn", "regressor", "autoencoder", "vae"), _heavy_momentum, _FAST, shows=no_better
    ),
    Change(
        "bad-batches",
        ("mlp", "regressor", "autoencoder", "cnn", "vae"),
        _bad_batches,
        ("loss-spikes",),
        shows=lambda truth: truth["jumps"] >= 3,
        wish={"norm": ""},
    ),
    Change("data-of-trunk", _WITH_HEAD, _frozen_by_mistake, ("frozen-by-accident", "untrained-parameters")),
    Change(
        "frozen-middle",
        ("mlp", "encoder", "cnn", "vit", "resnet", "causal-lm", "autoencoder", "regressor"),
        _frozen_middle,
        ("frozen-by-accident",),
        shows=lambda truth: truth["layers"] >= 3,
    ),
    Change(
        "scale-falls",
        MODELS,
        _scale_falls,
        ("loss-scale-at-its-floor", "non-finite"),
        shows=lambda truth: truth["scale"] <= 1,
    ),
    Change(
        "learnt-by-heart",
        CLASSIFIERS,
        _learnt_by_heart,
        ("overfitting",),
        shows=lambda truth: truth["test"] > 1.4 * truth["best"] and truth["last"] < 0.5 * truth["first"],
        wish={"data": ("digits", "blobs"), "no_loader": True},
    ),
)
