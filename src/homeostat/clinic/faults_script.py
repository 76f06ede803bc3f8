"""Mistakes of the script: inputs of the loss, trained parameters, order of the data, schedule."""

from __future__ import annotations

import ast

from homeostat.clinic.draft import Draft, lines
from homeostat.clinic.fault import (
    CLASSIFIERS,
    MODELS,
    Change,
    adjust,
    after,
    from_start,
    has_onset,
    no_better,
    note_onset,
    stands,
    with_first_loss,
)

_WITH_HEAD = ("mlp", "cnn", "resnet", "encoder", "vit", "gru", "lstm", "regressor", "causal-lm", "autoencoder")
_LISTS = ("mlp", "cnn", "regressor", "autoencoder", "causal-lm")


def _misaligned(draft: Draft) -> None:
    """Inputs are shuffled, targets are not."""
    draft.forward = lines("y = y[torch.randperm(len(y))]", draft.forward)
    from_start(draft)


def _rate_too_low(draft: Draft) -> None:
    draft.constants["LR"] = draft.draw.choice((1e-9, 1e-8))
    from_start(draft)


def _rate_too_high(draft: Draft) -> None:
    factor = 100 if draft.facts["optimizer"] in ("Adam", "AdamW", "RMSprop") else 60
    draft.constants["LR"] = draft.constants["LR"] * factor
    draft.scheduler, draft.after = "", ""
    with_first_loss(draft)
    from_start(draft)


class _Cut(ast.NodeTransformer):
    """`self.head(h)` -> `self.head(h.detach())`."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "head" and node.args:
            node.args = [ast.Call(ast.Attribute(node.args[0], "detach", ast.Load()), [], [])]
        return node


def _detached(draft: Draft) -> None:
    draft.defs = ast.unparse(_Cut().visit(ast.parse(draft.defs)))
    from_start(draft)


def _head_replaced(draft: Draft) -> None:
    """The head is replaced after the optimizer was made."""
    head = draft.facts["head"]
    draft.optimizer = lines(draft.optimizer, f"{head} = nn.Linear({head}.in_features, {head}.out_features)")
    from_start(draft)


def _plain_list(draft: Draft) -> None:
    draft.defs = draft.defs.replace("nn.ModuleList(", "list(")
    from_start(draft)


def _no_step(draft: Draft) -> None:
    draft.update, draft.scheduler, draft.after, draft.clip = "", "", "", ""
    from_start(draft)


def _softmax_twice(draft: Draft) -> None:
    draft.forward = lines(draft.forward, "out = F.softmax(out, dim=-1)")
    from_start(draft)


def _softmax_over_queries(draft: Draft) -> None:
    dim = draft.draw.choice((-2, 1))
    draft.defs = draft.defs.replace("torch.softmax(scores, dim=-1)", f"torch.softmax(scores, dim={dim})")
    from_start(draft)


def _softmax_over_batch(draft: Draft) -> None:
    draft.loss = "loss = F.nll_loss(F.log_softmax(out, dim=0), y)"
    from_start(draft)


def _broadcast(draft: Draft) -> None:
    for old, new in ((".squeeze(1)", ""), ("F.mse_loss(value, gain)", "F.mse_loss(value.unsqueeze(1), gain)")):
        if draft.arch == "sac" or draft.arch == "actor-critic":
            draft.loss = draft.loss.replace(old, new)
        else:
            draft.forward = draft.forward.removesuffix(old)
    from_start(draft)


def _accumulating(draft: Draft) -> None:
    draft.clear = ""
    from_start(draft)


def evaluation(draft: Draft, back: bool) -> None:
    """Occasional evaluations, with or without a return to training mode."""
    every = draft.draw.choice((40, 80, 120))
    out = draft.forward.replace("(x", "(X[:64]").replace("squeeze(1)", "squeeze(1)")
    back_line = "\n    model.train()" if back else ""
    after(draft, f"if step % {every} == {every // 2}:\n    model.eval()\n    with torch.no_grad():\n"
                 f"        {out}{back_line}")  # fmt: skip
    if not back:
        draft.printed.append(f"'onset': {every // 2 + 1}")


def _left_in_evaluation(draft: Draft) -> None:
    evaluation(draft, back=False)


def _all_or_nothing(draft: Draft) -> None:
    if draft.arch == "grpo":
        draft.data = "answers = torch.randint(0, 10, (16, 8))"
        draft.build = "model = nn.Sequential(nn.Embedding(16, 64), nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 8 * 10))"
        first = draft.forward.splitlines()
        draft.forward = lines("logits = model(prompt).view(BATCH, 8, 10)", *first[1:])
        draft.forward = draft.forward.replace("gain = right.mean(-1)", "gain = (right.mean(-1) > 0.99).float()")
    else:
        draft.defs = draft.defs.replace("== state.argmax(1) % ACTIONS)", "== state.argmax(1) + ACTIONS)")
        draft.batch = draft.batch.replace("+ 0.3 * torch.randn(BATCH)", "").replace("+ 0.0 * torch.randn(BATCH)", "")
        draft.batch = draft.batch.replace("advantage = gain - value", "advantage = gain - gain.mean()")
    from_start(draft)


def _raw(draft: Draft) -> None:
    """Raw inputs: pixels up to 255, or columns in their own units."""
    if draft.facts.get("data") == "digits":
        draft.data = draft.data.replace("X = X / 16", "X = X * 16 + 20").replace("float32) / 16", "float32) * 16")
    else:
        draft.data = lines(draft.data, "X = X * 30 + 250")
    from_start(draft)


def _sorted(draft: Draft) -> None:
    draft.data = lines(draft.data, "order = Y.argsort()\nX, Y = X[order], Y[order]")
    if draft.loader:
        draft.batch = draft.batch.replace("shuffle=True", "shuffle=False")
    else:
        draft.batch = "i = torch.arange(step * BATCH, (step + 1) * BATCH) % len(X)\nx, y = X[i], Y[i]"
    from_start(draft)


def _ended_by_schedule(draft: Draft) -> None:
    where = "torch.optim.lr_scheduler"
    made = draft.draw.choice(
        (
            f"{where}.StepLR(optimizer, 5, 0.3)",
            f"{where}.ExponentialLR(optimizer, 0.9)",
            f"{where}.LambdaLR(optimizer, lambda t: max(0.0, 1 - t / 30))",
            f"{where}.MultiStepLR(optimizer, [10, 20, 30], 0.05)",
        )
    )
    draft.scheduler, draft.after = f"scheduler = {made}", "scheduler.step()"
    note_onset(draft, "optimizer.param_groups[0]['lr'] / LR", "seen < 0.01", every=1)


def _decay(draft: Draft) -> None:
    strong = {"SGD": 1.0, "momentum": 0.5, "Adam": 1.0, "AdamW": 30.0, "RMSprop": 1.0}[draft.facts["optimizer"]]
    draft.optimizer = draft.optimizer.replace(", weight_decay=0.01", "")
    draft.optimizer = draft.optimizer.replace("lr=LR", f"lr=LR, weight_decay={strong}")
    norm = "sum(float(p.norm()) ** 2 for p in model.parameters()) ** 0.5"
    draft.truth = lines(draft.truth, f"size = {norm}")
    note_onset(draft, f"{norm} / size", "seen < 0.5")


def _collapse(draft: Draft) -> None:
    if draft.arch == "siamese":
        draft.loss = draft.loss.replace(".detach()", "")
    else:
        draft.loss = "loss = 2 - 2 * (a * b).sum(1).mean()"
    size = "float(found.std(0).mean()) * found.shape[1] ** 0.5"
    note_onset(draft, size, "seen < 0.1", also=f"found = {draft.facts['embed']}")


def resumed(draft: Draft, whole: bool) -> None:
    """Continue from a checkpoint that an earlier run of the same script wrote."""
    what = "{'model': model.state_dict(), 'optimizer': optimizer.state_dict()}"
    draft.facts["before"] = f"torch.save({what}, 'checkpoint.pt')"
    adjust(draft, "checkpoint = torch.load('checkpoint.pt')\nmodel.load_state_dict(checkpoint['model'])")
    draft.constants["LR"] = draft.constants["LR"] * 3
    draft.scheduler, draft.after = "", ""
    if whole:
        draft.optimizer = lines(draft.optimizer, "optimizer.load_state_dict(checkpoint['optimizer'])")
    draft.printed.append("'jump': max(losses[1:100]) / max(losses[0], 1e-9), 'began': losses[0]")


def _resumed_without_state(draft: Draft) -> None:
    resumed(draft, whole=False)
    from_start(draft)


def _class_by_class(draft: Draft) -> None:
    """The classes come one pair after the other."""
    draft.loader = False
    tasks = max(draft.classes // 2, 2)
    per = max(draft.steps // tasks, 1)
    draft.batch = (
        f"task = min(step // {per}, {tasks - 1})\nrows = torch.where(Y * {tasks} // {draft.classes} == task)[0]\n"
        "i = rows[torch.randint(0, len(rows), (BATCH,))]\nx, y = X[i], Y[i]"
    )
    draft.truth = lines(draft.truth, f"old = torch.where(Y * {tasks} // {draft.classes} == 0)[0][:200]")
    right = "float((model(X[old]).argmax(-1) == Y[old]).float().mean())"
    note_onset(draft, right, f"step > {per} and seen < 0.2")


def _no_sync(draft: Draft) -> None:
    draft.after = draft.after.replace(draft.facts["sync"], "").strip()
    from_start(draft)


def _greedy_policy(draft: Draft) -> None:
    draft.constants |= {"ENTROPY": 0.0, "LR": 0.05}
    draft.clip = ""
    draft.loss = draft.loss.replace(
        "torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()", "(ratio * advantage).mean()"
    )
    note_onset(draft, "float(model(torch.randn(256, 8))[0].entropy().mean())", "seen < 0.02", every=4)


def _discount_above_one(draft: Draft) -> None:
    """Values are bootstrapped with a discount that makes them grow."""
    draft.forward = draft.forward.replace("r + 0.9 *", "r + 1.3 *")
    draft.batch = draft.batch.replace("gain + 0.8 *", "gain + 1.3 *")
    note_onset(draft, "float(goal.abs().max())", "seen > 15", every=10)


def _stale_batch(draft: Draft) -> None:
    """One batch is used for fifty steps, without a limit on the distance from the policy that collected it."""
    draft.batch = draft.batch.replace("step % 4 == 0", "step % 50 == 0")
    draft.constants["LR"] = 0.01
    draft.clip = ""
    draft.loss = draft.loss.replace(
        "torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()", "(ratio * advantage).mean()"
    )
    note_onset(draft, "float((ratio - 1 - ratio.log()).mean())", "seen > 0.3", every=2)


def _random_tasks(draft: Draft) -> None:
    """New random labels every few steps, at a learning rate at which the network loses plasticity."""
    draft.loader = False
    per = 60
    draft.steps = 12 * per
    draft.constants |= {"LR": 0.01, "BATCH": 64}
    draft.facts["optimizer"] = "Adam"
    draft.optimizer, draft.scheduler, draft.after = "optimizer = torch.optim.Adam(model.parameters(), lr=LR)", "", ""
    draft.data = lines(draft.data, "X, Y = X[:256], Y[:256]")
    draft.batch = (
        f"if step % {per} == 0:\n    Y = torch.randint(0, {draft.classes}, (len(X),))\n"
        "i = torch.randint(0, len(X), (BATCH,))\nx, y = X[i], Y[i]"
    )
    ends = f"ends = [sum(losses[k + {per - 10}:k + {per}]) / 10 for k in range(0, len(losses), {per})]"
    draft.end = lines(draft.end, ends, "early, late = sum(ends[:3]) / 3, sum(ends[-3:]) / 3")
    draft.printed.append("'early': early, 'late': late, 'onset': 0")


_TRUNK = {"written_out": True}
FAULTS = (
    Change("labels-misaligned", (*CLASSIFIERS, "regressor"), _misaligned, ("stalled-learning",),
           shows=stands),
    Change("rate-too-low", MODELS, _rate_too_low, ("learning-rate-too-low", "stalled-learning"), shows=stands),
    Change("rate-too-high", MODELS, _rate_too_high,
           ("learning-rate-too-high", "oscillating-loss", "exploding-gradients", "non-finite", "stalled-learning"),
           shows=no_better),
    Change("detached", _WITH_HEAD, _detached, ("frozen-by-accident", "untrained-parameters")),
    Change("head-replaced", ("mlp", "cnn", "resnet", "encoder", "vit", "gru", "lstm", "regressor"), _head_replaced,
           ("untrained-parameters",)),
    Change("plain-list", _LISTS, _plain_list, ("untrained-parameters",), wish={"norm": ""}),
    Change("no-step", MODELS, _no_step, ("no-optimizer-step",)),
    Change("softmax-twice", CLASSIFIERS, _softmax_twice, ("duplicated-softmax",)),
    Change("softmax-over-queries", ("encoder", "vit", "causal-lm"), _softmax_over_queries, ("wrong-softmax-dim",),
           wish=_TRUNK),
    Change("softmax-over-batch", ("mlp", "cnn", "gru", "vit"), _softmax_over_batch, ("wrong-softmax-dim",)),
    Change("broadcast", ("regressor", "dqn", "sac", "actor-critic"), _broadcast, ("broadcast-loss",)),
    Change("accumulating", MODELS, _accumulating, ("gradients-accumulate",)),
    Change("left-in-evaluation", ("mlp", "cnn", "resnet", "encoder", "gru", "lstm"), _left_in_evaluation,
           ("trained-in-eval-mode",), wish={"norm": "nn.BatchNorm2d", "dropout": 0.2, "written_out": False}),
    Change("no-reward", ("grpo", "actor-critic"), _all_or_nothing, ("zero-advantage",)),
    Change("raw-inputs", ("mlp", "cnn", "autoencoder", "vit", "gru", "regressor"), _raw, ("inputs-not-scaled",),
           shows=stands, wish={"norm": "", "act": "tanh", "optimizer": "SGD"}),
    Change("sorted", ("mlp", "cnn", "resnet", "vit", "gru", "lstm", "encoder"), _sorted, ("data-not-shuffled",),
           wish={"data": ("digits", "blobs"), "sizes": (32,)}),
    Change("schedule-per-step", MODELS, _ended_by_schedule, ("schedule-ends-training",), shows=has_onset),
    Change("decay", (*CLASSIFIERS, "regressor", "autoencoder"), _decay, ("weight-decay-dominates",), shows=has_onset),
    Change("collapse", ("siamese", "contrastive"), _collapse, ("representation-collapse",), shows=has_onset),
    Change("resumed-without-state", ("mlp", "cnn", "vit", "gru", "resnet"), _resumed_without_state,
           ("resumed-without-optimizer-state",), shows=lambda t: t["jump"] >= 3 and t["began"] < 0.4,
           wish={"optimizer": "Adam", "data": ("digits",), "act": "relu"}),
    Change("class-by-class", ("mlp", "cnn", "vit", "resnet"), _class_by_class, ("forgetting",),
           shows=has_onset, wish={"data": ("digits", "blobs")}),
    Change("no-sync", ("dqn", "sac"), _no_sync, ("target-network-never-updated",)),
    Change("greedy-policy", ("actor-critic",), _greedy_policy,
           ("policy-entropy-collapse", "kl-runaway", "learning-rate-too-high"), shows=has_onset),
    Change("discount-above-one", ("dqn", "sac"), _discount_above_one,
           ("value-divergence", "diverging-loss", "exploding-gradients"), shows=has_onset),
    Change("stale-batch", ("actor-critic",), _stale_batch,
           ("kl-runaway", "policy-entropy-collapse", "learning-rate-too-high"), shows=has_onset),
    Change("random-tasks", ("mlp", "cnn"), _random_tasks, ("loss-of-plasticity", "dormant-units", "rank-collapse"),
           shows=lambda t: t["late"] > 1.25 * t["early"], wish={"act": "relu", "norm": "", "dropout": 0.0}),
)  # fmt: skip
