"""Data, optimizers, schedules and logging, from which every architecture chooses."""

from __future__ import annotations

from homeostat.clinic.draft import Draft, lines

ACTIVATIONS = {"relu": "F.relu", "gelu": "F.gelu", "silu": "F.silu", "tanh": "torch.tanh", "sigmoid": "torch.sigmoid"}

RATES = {"SGD": 0.1, "momentum": 0.03, "Adam": 2e-3, "AdamW": 2e-3, "RMSprop": 1e-3}
"""Optimizer -> learning rate for small networks."""
OPTIMIZERS = tuple(RATES)


def optimizer(draft: Draft, of: str = "model.parameters()", among: tuple[str, ...] = ()) -> str:
    """A statement that makes an optimizer with the constant LR as its rate. Its name is stored in the facts."""
    kind = draft.facts.get("optimizer") or draft.draw.choice(among or OPTIMIZERS)
    draft.facts["optimizer"] = kind
    draft.constants.setdefault("LR", RATES[kind] * draft.facts.get("rate", 1.0) * draft.draw.choice((0.5, 1.0)))
    more = {"momentum": ", momentum=0.9", "AdamW": ", weight_decay=0.01"}.get(kind, "")
    made = "SGD" if kind == "momentum" else kind
    return f"optimizer = torch.optim.{made}({of}, lr=LR{more})"


def schedule(draft: Draft) -> None:
    """In some programs a schedule that is stepped at every step."""
    kind = draft.draw.choice(("none", "none", "cosine", "steps", "one-cycle", "linear"))
    where = "torch.optim.lr_scheduler"
    made = {
        "cosine": f"{where}.CosineAnnealingLR(optimizer, {draft.steps})",
        "steps": f"{where}.StepLR(optimizer, {draft.steps // 3}, 0.3)",
        "one-cycle": f"{where}.OneCycleLR(optimizer, 3 * LR, total_steps={draft.steps})",
        "linear": f"{where}.LinearLR(optimizer, 1.0, 0.1, total_iters={draft.steps})",
    }.get(kind)
    if made:
        draft.scheduler = f"scheduler = {made}"
        draft.after = "scheduler.step()"


def logging(draft: Draft) -> None:
    """How the script prints its progress."""
    every = draft.draw.choice((50, 100))
    draft.log = draft.draw.choice(
        (
            "",
            f"if step % {every} == 0:\n    print(f'step {{step}} loss {{loss.item():.4f}}')",
            f"if step % {every} == 0:\n    print(json.dumps({{'step': step, 'loss': loss.item()}}))",
            f"history.append(loss.item())\nif len(history) % {every} == 0:\n"
            f"    print('mean', sum(history[-{every}:]) / {every})",
        )
    )
    if "history" in draft.log:
        draft.truth = f"{draft.truth}\nhistory = []".strip()


_TABLES = {
    "digits": ("load_digits", 10, 64, 1797),
    "cancer": ("load_breast_cancer", 2, 30, 569),
    "wine": ("load_wine", 3, 13, 178),
}


def table(draft: Draft, among: tuple[str, ...] = ("digits", "cancer", "wine", "blobs", "rings")) -> tuple[int, int]:
    """Data with classes, X [n, d] standardised: (d, classes)."""
    name = draft.draw.choice(among)
    draft.facts["data"] = name
    if name in _TABLES:
        load, classes, features, _ = _TABLES[name]
        draft.imports.append(f"from sklearn.datasets import {load}")
        scale = "X = X / 16" if name == "digits" else "X = (X - X.mean(0)) / X.std(0)"
        draft.data = (
            f"data = {load}()\nX = torch.tensor(data.data, dtype=torch.float32)\nY = torch.tensor(data.target)\n{scale}"
        )
        draft.facts |= {"scale": scale, "images": name == "digits"}
    elif name == "blobs":
        classes, features = draft.draw.choice((4, 6, 10)), draft.draw.choice((12, 20))
        scale = "X = X / X.std(0)"
        draft.data = (
            f"Y = torch.randint(0, {classes}, (2000,))\n"
            f"X = 2 * torch.randn({classes}, {features})[Y] + torch.randn(2000, {features})\n{scale}"
        )
        draft.facts["scale"] = scale
    else:
        classes, features = 3, 8
        draft.data = (
            f"X = torch.randn(2000, {features})\n"
            "Y = torch.bucketize(X[:, :4].square().sum(1), torch.tensor([2.2, 4.6]))"
        )
    draft.classes = classes
    return features, classes


def batches(draft: Draft, sizes: tuple[int, ...] = (32, 64, 128), rows: int | None = None) -> None:
    """Random batches, or a loader over epochs."""
    size = draft.draw.choice(sizes)
    draft.constants["BATCH"] = size
    rows = rows or {"digits": 1797, "cancer": 569, "wine": 178}.get(draft.facts.get("data", ""), 2000)
    if draft.draw.random() < 0.5 and not draft.facts.get("no_loader"):
        as_loader(draft, rows)
    elif draft.draw.random() < 0.5:
        draft.batch = "i = torch.randint(0, len(X), (BATCH,))\nx, y = X[i], Y[i]"
    else:
        draft.truth = lines(draft.truth, "order = torch.randperm(len(X))")
        draft.batch = "i = order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(X)]\nx, y = X[i], Y[i]"


def as_loader(draft: Draft, rows: int, shuffle: bool = True) -> None:
    """The loop iterates over a DataLoader for as many epochs as the steps need."""
    draft.imports.append("from torch.utils.data import DataLoader, TensorDataset")
    size = draft.constants["BATCH"]
    per_epoch = max(rows // size, 1)
    draft.loader = True
    draft.facts["epochs"] = max(draft.steps // per_epoch, 1)
    draft.facts["per_epoch"] = per_epoch
    draft.steps = draft.facts["epochs"] * per_epoch
    draft.batch = f"loader = DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle={shuffle}, drop_last=True)"
