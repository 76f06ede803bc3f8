"""Unusual healthy programs, on which a naive rule would raise a finding."""

from __future__ import annotations

from homeostat.clinic.draft import Draft, lines
from homeostat.clinic.fault import CLASSIFIERS, MODELS, Change, Truth, adjust, after, learned, progress
from homeostat.clinic.faults_more import held_out, scaled
from homeostat.clinic.faults_script import evaluation, resumed

ALL = (*MODELS, "gan", "siamese", "dqn", "actor-critic", "sac", "grpo")


def _nothing(draft: Draft) -> None:
    """No change."""


def _frozen_trunk(draft: Draft) -> None:
    head = draft.facts["head"]
    adjust(draft, f"for p in model.parameters():\n    p.requires_grad_(False)\nfor p in {head}.parameters():\n"
                  "    p.requires_grad_(True)")  # fmt: skip
    if draft.draw.random() < 0.5:
        draft.optimizer = draft.optimizer.replace("model.parameters()", f"{head}.parameters()")
    draft.clip = ""


def _warm_up(draft: Draft) -> None:
    length = draft.steps // 4
    draft.scheduler = (
        f"scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / {length}))"
    )
    draft.after = "scheduler.step()"


def _to_zero(draft: Draft) -> None:
    """Warm-up, then a cosine down to zero at the end."""
    draft.imports.append("import math")
    draft.scheduler = (
        "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / 20, "
        f"0.5 + 0.5 * math.cos(math.pi * min(t / {draft.steps}, 1))))"
    )
    draft.after = "scheduler.step()"


def _label_noise(draft: Draft) -> None:
    share, classes = draft.draw.choice((0.2, 0.4)), draft.classes
    draft.data = lines(
        draft.data,
        f"wrong = torch.rand(Y.shape) < {share}",
        f"Y = torch.where(wrong, torch.randint(0, {classes}, Y.shape), Y)",
    )


def _pruned(draft: Draft) -> None:
    """Most weights are masked, before and after every step."""
    share = draft.draw.choice((0.7, 0.9))
    mask = f"(torch.rand_like(p) > {share}).float() if p.dim() > 1 else torch.ones_like(p)"
    apply = "with torch.no_grad():\n    for p, m in zip(model.parameters(), masks):\n        p.mul_(m)"
    adjust(draft, f"masks = [{mask} for p in model.parameters()]\n{apply}")
    after(draft, apply)


def _distilled(draft: Draft) -> None:
    """Distillation: a network of the same kind is trained first and frozen; the student fits its outputs."""
    build = draft.build
    draft.imports.append("import copy")
    draft.build = lines(
        build,
        "teacher = copy.deepcopy(model).eval()",
        "for p in teacher.parameters():\n    p.requires_grad_(False)",
        build,
    )
    draft.forward = lines(draft.forward, "with torch.no_grad():\n    soft = F.softmax(2 * teacher(x), -1)")
    draft.loss = "loss = F.cross_entropy(out, y) + 0.3 * F.kl_div(F.log_softmax(out, -1), soft, reduction='batchmean')"


def _curriculum(draft: Draft) -> None:
    """Curriculum: inputs with little noise first, noisier ones later."""
    noise = "0.3 * min(step / 200, 1.0)"
    draft.forward = lines(f"x = x + {noise} * torch.randn_like(x)", draft.forward)


def _fine_tuned(draft: Draft) -> None:
    """Continues from trained weights at a small rate, with a new optimizer."""
    draft.facts["before"] = "torch.save({'model': model.state_dict()}, 'checkpoint.pt')"
    adjust(draft, "model.load_state_dict(torch.load('checkpoint.pt')['model'])")
    draft.constants["LR"] = draft.constants["LR"] / draft.draw.choice((10, 100))
    draft.scheduler, draft.after = "", ""


def _summed(draft: Draft) -> None:
    """The loss is the sum over the batch, and the learning rate is lower by the same factor."""
    draft.loss = lines(draft.loss, "loss = loss * BATCH")
    if draft.facts["optimizer"] in ("SGD", "momentum"):
        draft.constants["LR"] = draft.constants["LR"] / draft.constants["BATCH"]


def _harmless_scale(draft: Draft) -> None:
    """Raw pixels, with a batch norm of the inputs."""
    draft.data = lines(draft.data, "X = X * 16")
    shape = "1" if draft.arch in ("cnn", "resnet", "vit") else "X.shape[1]"
    kind = "2" if draft.arch in ("cnn", "resnet", "vit") else "1"
    adjust(draft, f"model = nn.Sequential(nn.BatchNorm{kind}d({shape}), model)")
    draft.hidden = ""


def _micro_batches(draft: Draft) -> None:
    """Gradients of four micro-batches are accumulated on purpose."""
    draft.clear = ""
    draft.backward = "(loss / 4).backward()"
    draft.clip = ""
    draft.update = "if step % 4 == 3:\n    optimizer.step()\n    optimizer.zero_grad()"


def _averaged(draft: Draft) -> None:
    """An exponential average of the weights is kept."""
    adjust(draft, "average = torch.optim.swa_utils.AveragedModel(model, "
                  "multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))")  # fmt: skip
    after(draft, "average.update_parameters(model)")


def _clipped(draft: Draft) -> None:
    draft.clip = "nn.utils.clip_grad_norm_(model.parameters(), 0.1)"


def _imbalanced(draft: Draft) -> None:
    draft.data = lines(draft.data, "kept = (Y == 0) | (torch.rand(len(Y)) < 0.15)\nX, Y = X[kept], Y[kept]")


def _smoothed(draft: Draft) -> None:
    draft.loss = draft.loss.replace(", y)", ", y, label_smoothing=0.2)")


def _mixed(draft: Draft) -> None:
    """Mixup."""
    draft.forward = lines("share = float(torch.rand(()))\nother = torch.randperm(len(x))\n"
                          "x = share * x + (1 - share) * x[other]", draft.forward)  # fmt: skip
    draft.loss = "loss = share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])"


def _frozen_statistics(draft: Draft) -> None:
    """The batch norms are kept in evaluation mode on purpose, as detectors do."""
    norms = "isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))"
    after(draft, f"if step == 60:\n    for module in model.modules():\n        if {norms}:\n            module.eval()")


def _evaluated(draft: Draft) -> None:
    evaluation(draft, back=True)


def _half_precision(draft: Draft) -> None:
    """bfloat16 autocast."""
    draft.forward = (
        "with torch.autocast('cpu', dtype=torch.bfloat16):\n"
        + "\n".join(f"    {line}" for line in draft.forward.splitlines())
        + "\nout = out.float()"
    )


def _double(draft: Draft) -> None:
    draft.data = lines(draft.data, "X = X.double()" + ("\nY = Y.double()" if draft.arch == "regressor" else ""))
    adjust(draft, "model = model.double()")


def _zero_head(draft: Draft) -> None:
    """The last layer starts at zero."""
    head = draft.facts["head"]
    adjust(draft, f"nn.init.zeros_({head}.weight)\nnn.init.zeros_({head}.bias)")


def _long(draft: Draft) -> None:
    """Training continues until the loss is close to its minimum."""
    if draft.loader:
        draft.facts["epochs"] *= 3
    draft.steps *= 3


def _resumed_whole(draft: Draft) -> None:
    resumed(draft, whole=True)


def _noisy_rewards(draft: Draft) -> None:
    draft.batch = draft.batch.replace("+ 0.0 * torch.randn(BATCH)", "+ 1.0 * torch.randn(BATCH)").replace(
        "+ 0.3 * torch.randn(BATCH)", "+ 1.0 * torch.randn(BATCH)"
    )


def _spare_branch(draft: Draft) -> None:
    """A second head that only some steps train."""
    head = draft.facts["head"]
    adjust(draft, f"model.extra = nn.Linear({head}.in_features, 1, bias=False)")
    draft.loss = lines(draft.loss, "if step % 10 == 0:\n    loss = loss + 0.01 * (model.extra.weight ** 2).sum()")


def _full_batch(draft: Draft) -> None:
    """Full-batch training on a small, sorted set."""
    draft.loader = False
    draft.data = lines(draft.data, "order = Y[:300].argsort()\nX, Y = X[:300][order], Y[:300][order]")
    draft.batch = "x, y = X, Y"


def _two_optimizers(draft: Draft) -> None:
    """The head has a separate optimizer and learning rate."""
    head = draft.facts["head"]
    draft.optimizer = lines(
        f"own = {{id(p) for p in {head}.parameters()}}",
        draft.optimizer.replace("model.parameters()", "[p for p in model.parameters() if id(p) not in own]"),
        f"optimizer_h = torch.optim.Adam({head}.parameters(), lr=1e-3)",
    )
    draft.clear, draft.update = lines(draft.clear, "optimizer_h.zero_grad()"), lines(draft.update, "optimizer_h.step()")


def _warm_restarts(draft: Draft) -> None:
    made = f"torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, {max(draft.steps // 4, 1)})"
    draft.scheduler, draft.after = f"scheduler = {made}", "scheduler.step()"


def _observer(draft: Draft) -> None:
    """A second head uses the outputs of the first one and sends no gradient to the rest."""
    head = draft.facts["head"]
    adjust(draft, f"model.judge = nn.Linear({head}.out_features, 1)")
    draft.loss = lines(
        draft.loss, "sure = model.judge(out.detach()).squeeze(-1)\nloss = loss + 0.1 * (sure - 1).square().mean()"
    )


def _some(truth: Truth) -> bool:
    return progress(truth) < 0.98


def _settled(truth: Truth) -> bool:
    return progress(truth) < 1.1


VARIANTS = (
    Change("plain", ALL, _nothing, shows=learned),
    Change("frozen-trunk", (*CLASSIFIERS, "regressor"), _frozen_trunk, shows=_some),
    Change("warm-up", MODELS, _warm_up, shows=learned),
    Change("to-zero", MODELS, _to_zero, shows=learned),
    Change("high-dropout", ("mlp", "cnn", "gru", "lstm"), _nothing, shows=_some, wish={"dropout": 0.5}),
    Change("tiny-batch", CLASSIFIERS, _nothing, shows=_some, wish={"sizes": (4, 8)}),
    Change("label-noise", CLASSIFIERS, _label_noise, shows=_some),
    Change("pruned", ("mlp", "cnn", "resnet", "regressor", "autoencoder"), _pruned, shows=_some),
    Change("distilled", CLASSIFIERS, _distilled, shows=learned),
    Change("curriculum", ("mlp", "cnn", "resnet", "vit", "encoder", "gru", "lstm"), _curriculum, shows=learned),
    Change("fine-tuned", ("mlp", "cnn", "vit", "gru", "autoencoder"), _fine_tuned, shows=_settled),
    Change("summed", (*CLASSIFIERS, "regressor", "autoencoder"), _summed, shows=learned),
    Change("harmless-scale", ("mlp", "cnn", "resnet", "vit"), _harmless_scale, shows=learned,
           wish={"data": ("digits",)}),
    Change("micro-batches", MODELS, _micro_batches, shows=learned),
    Change("averaged", MODELS, _averaged, shows=learned),
    Change("clipped", MODELS, _clipped, shows=_some),
    Change("imbalanced", CLASSIFIERS, _imbalanced, shows=learned, wish={"no_loader": True}),
    Change("smoothed", CLASSIFIERS, _smoothed, shows=_some),
    Change("mixed", CLASSIFIERS, _mixed, shows=_some),
    Change("frozen-statistics", ("mlp", "cnn", "resnet"), _frozen_statistics, shows=learned,
           wish={"norm": "nn.BatchNorm2d"}),
    Change("evaluated", ("mlp", "cnn", "resnet", "encoder", "gru", "lstm"), _evaluated, shows=learned,
           wish={"dropout": 0.2, "norm": "nn.BatchNorm2d", "written_out": False}),
    Change("bfloat16", ("mlp", "cnn", "resnet", "vit", "regressor"), _half_precision, shows=learned),
    Change("double", ("mlp", "regressor", "cnn", "resnet"), _double, shows=learned),
    Change("zero-head", (*CLASSIFIERS, "regressor"), _zero_head, shows=learned),
    Change("long", ("mlp", "regressor", "siamese", "actor-critic", "grpo", "gan", "dqn"), _long, shows=learned),
    Change("resumed", ("mlp", "cnn", "vit", "gru", "resnet"), _resumed_whole, shows=_settled,
           wish={"optimizer": "Adam", "data": ("digits",)}),
    Change("noisy-rewards", ("actor-critic",), _noisy_rewards, shows=lambda t: t["return"] > 0.4),
    Change("spare-branch", ("mlp", "cnn", "gru", "vit", "regressor"), _spare_branch, shows=learned),
    Change("two-optimizers", (*CLASSIFIERS, "regressor", "autoencoder"), _two_optimizers, shows=learned),
    Change("warm-restarts", MODELS, _warm_restarts, shows=learned),
    Change("observer", CLASSIFIERS, _observer, shows=learned),
    Change("full-batch", ("mlp", "regressor", "autoencoder"), _full_batch, shows=learned, wish={"no_loader": True}),
    Change("held-out", CLASSIFIERS, held_out, shows=learned, wish={"data": ("digits", "blobs"), "no_loader": True}),
    Change("loss-scale", MODELS, scaled, shows=learned),
)  # fmt: skip
