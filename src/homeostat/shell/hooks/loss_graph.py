"""Facts about a training program from the autograd graph of its loss. The graph is not changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from homeostat.shell.hooks.generative_graph import code_divergence, made_spread
from homeostat.shell.hooks.graph_values import MOST_NODES, SAME, operand, output_shape, through, walk
from homeostat.shell.hooks.layer_graph import AttentionReading, NormReading, read_attention, read_norms
from homeostat.shell.hooks.token_graph import read_leak, unnormalised
from homeostat.shell.hooks.torch_internals import saved

MOST_CLASSES = 1000
SUM = 2
"""Value of the reduction "sum" in nodes of losses."""
NEAR = 10
"""Operations between the loss and a product that can still be a weight of the loss."""

_CROSS_ENTROPY = ("NllLossBackward0", "NllLoss2DBackward0", "NllLossNdBackward0")
_BINARY = ("BinaryCrossEntropyBackward0", "BinaryCrossEntropyWithLogitsBackward0")
_REGRESSION = ("MseLossBackward0", "SmoothL1LossBackward0", "HuberLossBackward0")
_PROBABILITIES = ("SoftmaxBackward0", "SigmoidBackward0")
_TO_LOSS = (
    *SAME,
    "LogBackward0",
    "AddBackward0",
    "ClampBackward0",
    "ClampMinBackward0",
    "NegBackward0",
    "MeanBackward0",
)


@dataclass(frozen=True)
class LossReading:
    """Facts about a loss from its graph.

    Args:
        duplicated_softmax: whether probabilities enter a loss that expects logits.
        unnormalised: whether a negative log-likelihood is given no logarithms of probabilities.
        leak: how the network is given the tokens that it is to find, or "".
        softmax_dim: the error in the dimension of a softmax, or "".
        broadcast: (shape of the outputs, shape of the loss) if a loss was broadcast, else None.
        parameters: leaves of the graph that are parameters.
        labels: class labels [N] of a cross entropy, None without one.
        classes: number of classes.
        summed: whether the cross entropy is summed over its labels.
        zero_weight: whether all constant factors near the loss are zero; None without constant factors.
        inputs: an input batch of the network, the one with the largest values.
        spread: spread of the normalised representations [N, D] near the loss within the batch: their standard deviation
            over that of random directions, 1 / sqrt(D); the smallest one. None without representations.
        variance: variance of the targets if the loss is a mean squared error alone, which is the error of predicting
            their mean; else None.
        attention, norms: of the layers that the loss depends on, None without any.
        code_divergence: of the code of a variational autoencoder from the prior (nats per item), None without one.
        made_spread: spread of one of two batches that enter one layer over that of the other, None without two.
    """

    duplicated_softmax: bool
    unnormalised: bool
    leak: str
    softmax_dim: str
    broadcast: tuple[tuple[int, ...], tuple[int, ...]] | None
    parameters: tuple[nn.Parameter, ...]
    labels: Tensor | None
    classes: int
    summed: bool
    zero_weight: bool | None
    inputs: Tensor | None
    spread: float | None
    variance: float | None
    attention: AttentionReading | None
    norms: NormReading | None
    code_divergence: float | None
    made_spread: float | None


def read_loss(loss: Tensor) -> LossReading | None:
    """Read the graph of a loss before its backward pass; None if it has none."""
    if loss.grad_fn is None:
        return None
    nodes = list(walk(loss.grad_fn))
    labels, classes = _labels(node for node, _ in nodes)
    weights = [zero for node, depth in nodes if depth <= NEAR and (zero := _zero_weight(node)) is not None]
    return LossReading(
        duplicated_softmax=any(_duplicated(node) for node, _ in nodes),
        unnormalised=unnormalised(node for node, _ in nodes),
        leak=read_leak([node for node, _ in nodes]),
        softmax_dim=next((why for node, _ in nodes if (why := _wrong_dim(node))), ""),
        broadcast=next((found for node, depth in nodes if depth <= NEAR and (found := _broadcast(node))), None),
        parameters=tuple(v for node, _ in nodes if isinstance(v := getattr(node, "variable", None), nn.Parameter)),
        labels=labels,
        classes=classes,
        summed=any(saved(node, "reduction") == SUM for node, _ in nodes if node.name() in (*_CROSS_ENTROPY, *_BINARY)),
        zero_weight=all(weights) if weights else None,
        inputs=_inputs(node for node, _ in nodes),
        spread=min((s for node, depth in nodes if depth <= NEAR and (s := _spread(node)) is not None), default=None),
        variance=_variance(loss),
        attention=read_attention(node for node, _ in nodes),
        norms=read_norms(node for node, _ in nodes),
        code_divergence=code_divergence([node for node, _ in nodes]),
        made_spread=made_spread([node for node, _ in nodes]),
    )


@dataclass(frozen=True)
class Criterion:
    """One comparison of outputs with targets inside a loss.

    Args:
        kind: "classes" (targets are class numbers), "binary" (0 or 1) or "numbers".
        scores: for classes log-probabilities [N, C] or [N, C, positions], else outputs with the shape of the targets.
        targets: the targets.
        ignored: the class number that is ignored.
        middle: the score above which a binary answer is 1.
    """

    kind: Literal["classes", "binary", "numbers"]
    scores: Tensor
    targets: Tensor
    ignored: int = -100
    middle: float = 0.0


def criteria(loss: Tensor, within: int = MOST_NODES) -> list[Criterion]:
    """The comparisons of a loss that its graph shows, at most `within` operations from it."""
    found: list[Criterion] = []
    for node, depth in walk(loss.grad_fn):
        if depth > within:
            break
        name = node.name()
        if name not in (*_CROSS_ENTROPY, *_BINARY, *_REGRESSION):
            continue
        scores, targets = saved(node, "self"), saved(node, "target")
        if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
            continue
        scores, targets = scores.detach(), targets.detach()
        if name in _CROSS_ENTROPY:
            if scores.ndim > 2:  # torch adds and merges dimensions after the classes
                scores, targets = scores.flatten(2), targets.flatten(1)
            found.append(Criterion("classes", scores, targets, _ignored(node)))
        elif name in _BINARY and bool(((targets == 0) | (targets == 1)).all()):
            found.append(Criterion("binary", scores, targets, middle=0.0 if "Logits" in name else 0.5))
        elif name in _REGRESSION:
            found.append(Criterion("numbers", scores, targets))
    return found


def _dim(node: Any) -> int:
    """The dimension of a softmax, not negative; -1 if unknown."""
    dim, shape = saved(node, "dim"), output_shape(node)
    if not isinstance(dim, int) or shape is None:
        return -1
    return dim % len(shape) if shape else -1


def _duplicated(node: Any) -> bool:
    """Whether probabilities enter log-softmax or a loss with a sigmoid."""
    if node.name() not in ("LogSoftmaxBackward0", "LogsumexpBackward0", "BinaryCrossEntropyWithLogitsBackward0"):
        return False
    inner = through(operand(node))
    if inner is None or inner.name() not in _PROBABILITIES:
        return False
    return node.name() != "LogSoftmaxBackward0" or inner.name() != "SoftmaxBackward0" or _dim(node) == _dim(inner)


def _wrong_dim(node: Any) -> str:
    if node.name() in ("BmmBackward0", "MmBackward0"):
        softmax = operand(node)
        while softmax is not None and softmax.name() in (*SAME, "MulBackward0", "NativeDropoutBackward0"):
            before = output_shape(softmax)
            softmax = operand(softmax)
            after = None if softmax is None else output_shape(softmax)
            if not before or not after or before[-1] != after[-1]:
                return ""  # the last dimension was split or merged
        shape = output_shape(softmax) if softmax is not None and softmax.name() == "SoftmaxBackward0" else None
        if shape and (dim := _dim(softmax)) not in (-1, len(shape) - 1):
            summed = f"attention weights {list(shape)} are summed over dimension {len(shape) - 1}"
            return f"{summed}, but their softmax is over dimension {dim}"
        return ""
    if node.name() in _CROSS_ENTROPY:
        softmax = through(operand(node), _TO_LOSS)
        if softmax is None or softmax.name() not in ("LogSoftmaxBackward0", "SoftmaxBackward0"):
            return ""
        shape = output_shape(softmax)
        if shape and len(shape) == 2 and shape[0] > 1 and _dim(softmax) == 0:
            return f"the softmax of the outputs {list(shape)} is over dimension 0, the items of the batch"
        if shape and len(shape) == 2 and shape[1] == 1:
            return f"the softmax of the outputs {list(shape)} is over a single class"
    return ""


def _difference(node: Any) -> bool:
    """Whether a node is a power or absolute value of a difference to a constant."""
    if node.name() not in ("PowBackward0", "AbsBackward0"):
        return False
    inner = operand(node)
    return inner is not None and inner.name() in ("SubBackward0", "RsubBackward0") and _constant(inner)


def _constant(node: Any) -> bool:
    """Whether one of two operands needs no gradient."""
    children = [child for child, _ in node.next_functions[:2]]
    return len(children) < 2 or children.count(None) == 1


def _broadcast(node: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Whether outputs of N numbers are in a loss of N x N numbers."""
    if node.name() in _REGRESSION:
        outer, inner = saved(node, "self"), operand(node)
        loss = tuple(outer.shape) if isinstance(outer, Tensor) else None
    elif _difference(node):
        difference = operand(node)
        loss = output_shape(difference)
        inner = next((child for child, _ in difference.next_functions[:2] if child is not None), None)
    else:
        return None
    while inner is not None and inner.name() == "ExpandBackward0":
        inner = operand(inner)
    outputs = None if inner is None else output_shape(inner)
    if not loss or not outputs or len(loss) != 2 or loss[0] != loss[1] or loss[0] < 2:
        return None
    return (outputs, loss) if torch.Size(outputs).numel() == loss[0] else None


def _ignored(node: Any) -> int:
    """The class number that a cross entropy ignores."""
    ignored = saved(node, "ignore_index")
    if not isinstance(ignored, int):
        return -100
    return ignored


def _labels(nodes: Iterable[Any]) -> tuple[Tensor | None, int]:
    for node in nodes:
        if node.name() in _CROSS_ENTROPY:
            scores, target = saved(node, "self"), saved(node, "target")
            if isinstance(scores, Tensor) and isinstance(target, Tensor) and scores.ndim >= 2:
                labels = target.detach().reshape(-1)
                return labels[labels != _ignored(node)], scores.shape[1]
        if node.name() in _BINARY:
            target = saved(node, "target")
            if isinstance(target, Tensor) and bool(((target == 0) | (target == 1)).all()):
                return target.detach().reshape(-1).long(), 2
    return None, 0


def _variance(loss: Tensor) -> float | None:
    """The squared error of the best constant answer, where the loss is a mean squared error."""
    node = through(loss.grad_fn)
    target = saved(node, "target") if node is not None and node.name() == "MseLossBackward0" else None
    if not isinstance(target, Tensor) or target.ndim < 1 or len(target) < 2 or saved(node, "reduction") != 1:
        return None
    return float(target.detach().float().var(0).mean())


def _zero_weight(node: Any) -> bool | None:
    """Whether a constant factor of several numbers is all zero; None without such a factor."""
    if node.name() != "MulBackward0" or not _constant(node):
        return None
    first = operand(node, 0)
    factor = saved(node, "other" if first is not None else "self")
    if not isinstance(factor, Tensor) or factor.numel() < 2 or not factor.is_floating_point():
        return None
    return not bool(factor.detach().any())


def _spread(node: Any) -> float | None:
    """The spread of vectors that are divided by their norm."""
    vectors = saved(node, "self") if node.name() == "DivBackward0" else None
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) < 8 or vectors.shape[1] < 8:
        return None
    if not vectors.is_floating_point() or node.next_functions[1][0] is None:
        return None  # divided by a constant
    unit = torch.nn.functional.normalize(vectors.detach().float(), dim=1)
    return float(unit.std(0).mean()) * vectors.shape[1] ** 0.5


def _inputs(nodes: Iterable[Any]) -> Tensor | None:
    """An input batch: the input of a first linear or convolutional layer."""
    places = {"AddmmBackward0": ("mat1", 1), "MmBackward0": ("self", 0), "ConvolutionBackward0": ("input", 0)}
    largest, found = -1.0, None
    for node in nodes:
        if (place := places.get(node.name())) is None or operand(node, place[1]) is not None:
            continue
        batch = saved(node, place[0])
        if isinstance(batch, Tensor) and batch.is_floating_point() and batch.numel():
            size = float(batch.detach().float().square().mean())
            if size > largest:
                largest, found = size, batch.detach()
    return found
