"""The laws of an objective, checked on batches generated from the fields that it declares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.core.objective import Batch, Field, Losses, Objective, Stats
from homeostat.core.random import Draw
from homeostat.testing import common_laws as facts
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.law import DoesNotApply, Law

ITEMS, TOKENS = 11, 6
SPLITS = ((4, 7), (1, 1, 9), (11,), (2,) * 5 + (1,))
TOLERANCE = 1e-11
SINGLE = 1e-4


def laws_for(objective: Objective, thorough: bool = False) -> list[Law]:
    """Every law that an objective must satisfy, in a fixed order."""
    return bound(TABLE, lambda: objective)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of an objective."""
    return statements(TABLE)


def batch_for(
    fields: Mapping[str, Field], seed: int = 0, items: int = ITEMS, tokens: int = TOKENS
) -> dict[str, Tensor]:
    """A float64 batch with the declared fields: answers of length 0 to `tokens`. Log-probabilities with the same mask
    are close to one another, like those of a policy and an older version of it."""
    draw = Draw(seed, ("objective",))
    made: dict[str, Tensor] = {}
    for name, field in fields.items():
        like = torch.empty((items, tokens) if field.axes == "token" else (items,), dtype=torch.float64)
        made[name] = _values(field, name, like, draw)
    return made


def _values(field: Field, name: str, like: Tensor, draw: Draw) -> Tensor:
    if field.values == "mask":
        lengths = torch.arange(like.shape[0]) % (like.shape[-1] + 1)
        return torch.arange(like.shape[-1]) < lengths.roll(len(name))[:, None]
    if field.values == "log-probability":
        base = draw.normal(f"base {field.mask}", like) * 1.5 - 1
        return -torch.nn.functional.softplus(base + 0.3 * draw.normal(name, like))
    made = draw.uniform(name, like) if field.values == "uniform" else draw.normal(name, like)
    return made.abs() if field.values == "nonnegative" else made


def gradients(
    objective: Objective, parts: list[Batch], stats: Stats | None = None
) -> tuple[list[Losses], dict[str, list[Tensor]]]:
    """Losses of each part of a batch, and the gradient of the batch's loss for each differentiated field by part."""
    stats = objective.statistics(parts) if stats is None else stats
    losses, grads = [], {name: [] for name, field in objective.fields.items() if field.gradient}
    for part in parts:
        live = {name: part[name].clone().requires_grad_() for name in grads}
        found = objective.losses({**part, **live}, stats, objective.knobs())
        losses.append(found)
        for name, grad in zip(grads, torch.autograd.grad(found.values.sum(), list(live.values())), strict=True):
            grads[name].append(grad)
    return losses, grads


def _sum(losses: list[Losses], name: str = "") -> Tensor:
    """The loss, or a diagnostic, of the whole batch."""
    return torch.stack([(found.diagnostics[name] if name else found.values).sum() for found in losses]).sum()


def _close(one: Tensor, other: Tensor, says: str, tolerance: float = TOLERANCE) -> None:
    worst = (one.double() - other.double()).abs().max().item() if one.numel() else 0.0
    scale = 1 + (other.double().abs().max().item() if other.numel() else 0.0)
    assert worst <= tolerance * scale, f"{says}: {worst:.3g} apart"


def _same(objective: Objective, one: list[Losses], other: list[Losses], what: str) -> None:
    _close(_sum(one), _sum(other), f"{what} changes the loss")
    for name in one[0].diagnostics:
        _close(_sum(one, name), _sum(other, name), f"{what} changes the diagnostic {name!r}")


def _padding(objective: Objective) -> None:
    """Values and number of padded positions (mask False) have no influence, and get no gradient."""
    batch = batch_for(objective.fields)
    losses, grads = gradients(objective, [batch])
    for junk in (torch.nan, torch.inf, -torch.inf, 1e30):
        padded = {name: _padded(batch, name, objective.fields[name], junk) for name in batch}
        again, after = gradients(objective, [padded])
        _same(objective, losses, again, f"padding of {junk}")
        for name, (grad,) in after.items():
            extra = grad[..., TOKENS:] if objective.fields[name].axes == "token" else grad[..., :0]
            assert not bool(extra.any()), f"padding gets a gradient in {name}"
            _close(grad[..., :TOKENS], grads[name][0], f"padding changes the gradient of {name}")


def _padded(batch: Batch, name: str, field: Field, junk: float) -> Tensor:
    if field.axes == "item":
        return batch[name]
    more = torch.zeros(ITEMS, 3, dtype=batch[name].dtype)
    if not field.mask:
        return torch.cat([batch[name], more], -1)
    return torch.cat([batch[name].masked_fill(~batch[field.mask], junk), more + junk], -1)


def _order(objective: Objective) -> None:
    """Reordering the items gives the same loss, and reorders the gradients."""
    batch = batch_for(objective.fields)
    losses, grads = gradients(objective, [batch])
    for order in (torch.arange(ITEMS).flip(0), Draw(1).uniform("order", torch.empty(ITEMS)).argsort()):
        again, after = gradients(objective, [{name: value[order] for name, value in batch.items()}])
        _same(objective, losses, again, "another order")
        for name, (grad,) in grads.items():
            _close(after[name][0], grad[order], f"another order changes the gradient of {name}")


def _split(objective: Objective) -> None:
    """Micro-batches of any sizes give the same loss, diagnostics and gradient as the whole batch."""
    for seed in range(3):
        batch = batch_for(objective.fields, seed)
        losses, grads = gradients(objective, [batch])
        for sizes in SPLITS:
            pieces = {name: value.split(sizes) for name, value in batch.items()}
            parts = [_trimmed(objective, {name: pieces[name][i] for name in batch}) for i in range(len(sizes))]
            again, after = gradients(objective, parts)
            _same(objective, losses, again, f"a split into {sizes}")
            for name, found in after.items():
                joined = torch.cat([torch.nn.functional.pad(g, (0, _missing(objective, name, g))) for g in found])
                _close(joined, grads[name][0], f"a split into {sizes} changes the gradient of {name}")


def _trimmed(objective: Objective, part: Batch) -> Batch:
    """The part without columns that are padding for all of its answers."""
    masks = {name: int(part[name].sum(-1).max()) for name, f in objective.fields.items() if f.values == "mask"}
    return {name: v[..., : masks[_mask(objective, name)]] if _mask(objective, name) else v for name, v in part.items()}


def _mask(objective: Objective, name: str) -> str:
    field = objective.fields[name]
    return name if field.values == "mask" else field.mask


def _missing(objective: Objective, name: str, grad: Tensor) -> int:
    return TOKENS - grad.shape[-1] if objective.fields[name].axes == "token" else 0


def _finite(objective: Objective) -> None:
    """Loss, gradient and diagnostics stay finite for all pairs of log-probabilities from -10,000, -inf and 0."""
    batch = batch_for(objective.fields)
    names = [name for name, field in objective.fields.items() if field.values == "log-probability"]
    extremes = torch.tensor([-1e4, -torch.inf, 0.0, -745.0, -1e-300, -1e38], dtype=torch.float64)
    for at in range(ITEMS * TOKENS):
        i, t = divmod(at, TOKENS)
        for place, name in enumerate(names):
            batch[name][i, t] = extremes[(at // 6**place) % 6]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        part = _cast(batch, dtype)
        losses, grads = gradients(objective, [part])
        tensors = {"loss": losses[0].values, **losses[0].diagnostics, **{n: g[0] for n, g in grads.items()}}
        bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
        assert not bad, f"not finite at extreme log-probabilities in {dtype}: {', '.join(bad)}"


def _precision(objective: Objective) -> None:
    """float32 and bfloat16 inputs give the result of float64; half precision is computed in float32."""
    for dtype in (torch.float32, torch.bfloat16):
        given = _cast(batch_for(objective.fields), dtype)
        losses, _ = gradients(objective, [given])
        exact, _ = gradients(objective, [_cast(given, torch.float64)])
        assert losses[0].values.dtype == torch.float32, f"the loss of {dtype} is {losses[0].values.dtype}, not float32"
        _close(_sum(losses), _sum(exact), f"the loss in {dtype}", SINGLE)


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def _empty(objective: Objective) -> None:
    """A fully masked batch has loss 0 and gradient 0, and does not change the result as part of another batch."""
    batch = batch_for(objective.fields)
    masks = [name for name, field in objective.fields.items() if field.values == "mask"]
    if not masks:
        raise DoesNotApply("its batch has no mask")
    void = {name: torch.zeros_like(v) if name in masks else v for name, v in batch.items()}
    losses, grads = gradients(objective, [void])
    assert not bool(_sum(losses)), f"a batch without tokens has loss {float(_sum(losses)):g}"
    assert not any(bool(g.any()) for (g,) in grads.values()), "a batch without tokens has a gradient"
    _same(objective, gradients(objective, [batch, void])[0], gradients(objective, [batch])[0], "an empty part")


def _pure(objective: Objective) -> None:
    """It uses no randomness, does not modify its inputs, has statistics without gradient, and two calls agree."""
    batch = batch_for(objective.fields)
    kept, knobs = {name: value.clone() for name, value in batch.items()}, objective.knobs()
    torch_state = torch.get_rng_state()
    live = {n: v.requires_grad_() if objective.fields[n].gradient else v for n, v in batch.items()}
    stats = objective.statistics([live], knobs)
    before = {name: value.clone() for name, value in stats.items()}
    first, second = objective.losses(live, stats, knobs), objective.losses(live, stats, knobs)
    assert torch.equal(torch_state, torch.get_rng_state()), "it moves torch's global random state"
    assert all(torch.equal(kept[name], batch[name].detach()) for name in kept), "it modifies its batch"
    assert all(torch.equal(before[name], stats[name]) for name in stats), "it modifies the statistics"
    assert not any(value.requires_grad for value in stats.values()), "statistics carry a gradient"
    assert not any(value.requires_grad for value in first.diagnostics.values()), "diagnostics carry a gradient"
    assert torch.equal(first.values, second.values), "two calls with the same inputs differ"
    assert all(torch.equal(value, objective.knobs()[name]) for name, value in knobs.items()), "it modifies the knobs"


def _replicas(objective: Objective) -> None:
    """A stack of batches, with knobs per replica, gives the result of each batch alone."""
    batches = [batch_for(objective.fields, seed) for seed in range(3)]
    stacked = {name: torch.stack([b[name] for b in batches]) for name in batches[0]}
    scale = torch.tensor([1.0, 0.7, 0.9], dtype=torch.float64)
    knobs = {name: value * scale for name, value in objective.knobs().items()}
    found = objective(stacked, knobs)
    for r, batch in enumerate(batches):
        alone = objective(batch, {name: value[r] for name, value in knobs.items()})
        _close(found.values[r], alone.values, f"replica {r} gets a different loss than alone")


def _refuses(objective: Objective) -> None:
    """A missing field, a field of the wrong shape, and a missing batch are refused with a message that names them."""
    batch = batch_for(objective.fields)
    for name, field in objective.fields.items():
        _refused(functools.partial(objective, {n: v for n, v in batch.items() if n != name}), name)
        if field.mask or field.axes == "item":
            _refused(functools.partial(objective, {**batch, name: batch[name][:-1]}), name)
    _refused(functools.partial(objective.statistics, []), objective.name)


def _refused(call: Callable[[], object], name: str) -> None:
    try:
        call()
    except BadInput as error:
        assert name in str(error), f"the refusal does not name {name}: {error}"
        return
    raise AssertionError(f"a batch with an invalid {name} must raise BadInput")


TABLE: dict[str, Check] = {
    **facts.COMMON,
    "settings are plain": facts.settings_are_plain,
    "padding": _padding,
    "order": _order,
    "split": _split,
    "finite": _finite,
    "precision": _precision,
    "empty": _empty,
    "pure": _pure,
    "replicas": _replicas,
    "refuses": _refuses,
}
"""Every law of an objective."""
