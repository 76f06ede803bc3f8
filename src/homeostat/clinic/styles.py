"""Layouts of training scripts. Each makes one text of a draft; the computation is the same."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from textwrap import indent
from typing import Any

from homeostat.clinic.draft import PRELUDE, Draft

Style = Callable[[Draft], str]
TAB = " " * 4


def flat(draft: Draft) -> str:
    """Statements from top to bottom."""
    return _joined(_head(draft), _constants(draft), draft.defs, draft.setup, _loop(draft), draft.ending)


def functions(draft: Draft) -> str:
    """`setup()`, `train(...)` and `main()`."""
    names = assigned(draft.setup)
    row = ", ".join(names)
    return _joined(
        _head(draft),
        _constants(draft),
        draft.defs,
        _function("setup", "", f"{draft.setup}\nreturn {row}"),
        _function("train", row, f"{_loop(draft)}\n{draft.ending}"),
        _function("main", "", "train(*setup())"),
        "if __name__ == '__main__':\n    main()",
    )


def trainer(draft: Draft) -> str:
    """A class `Trainer` with everything as attributes."""
    names = assigned(_setup(draft))
    given = "step, x, y" if draft.loader else "step"
    call = f"self.train_step({given})"
    body = f"{draft.body}" if draft.loader else f"{draft.batch}\n{draft.body}"
    loop = (
        f"step = 0\nfor epoch in range(EPOCHS):\n    for x, y in self.loader:\n        {call}\n        step += 1"
        if draft.loader
        else f"for step in range(STEPS):\n    {call}"
    )
    inside = "\n\n".join(
        (
            _function("__init__", "self", owned(_setup(draft), names)),
            _function("train_step", f"self, {given}", owned(body, names)),
            _function("fit", "self", f"{loop}\n{owned(draft.ending, names)}"),
        )
    )
    return _joined(
        _head(draft),
        _constants(draft),
        draft.defs,
        f"class Trainer:\n{indent(inside, TAB)}",
        "trainer = Trainer()\ntrainer.fit()",
    )


def argparse(draft: Draft) -> str:
    """`main(args)` with every hyperparameter as an option."""
    options = "\n".join(
        f"parser.add_argument('--{name.lower()}', type={type(value).__name__}, default={value!r})"
        for name, value in _all_constants(draft).items()
    )
    body = _Constants(set(_all_constants(draft))).text(f"{_setup(draft)}\n{_loop(draft)}\n{draft.ending}")
    parse = f"parser = argparse.ArgumentParser()\n{options}\nmain(parser.parse_args())"
    return _joined(
        _head(draft, "import argparse"),
        draft.defs,
        _function("main", "args", body),
        f"if __name__ == '__main__':\n{indent(parse, TAB)}",
    )


def notebook(draft: Draft) -> str:
    """Notebook cells in the order in which they were run; the model is built and inspected twice."""
    look = "print(sum(p.numel() for p in model.parameters()))" if "model =" in draft.build else ""
    return "\n\n# %%\n".join(
        filter(
            None,
            (
                _head(draft),
                _constants(draft),
                draft.data,
                draft.defs,
                f"{draft.build}\n{look}",
                f"{draft.build}\n{draft.adjust}",
                _joined(draft.optimizer, draft.scheduler, "losses = []", draft.truth, _loader(draft)),
                _loop(draft, loader=False),
                draft.ending,
            ),
        )
    )


STYLES: dict[str, Style] = {
    "flat": flat,
    "functions": functions,
    "trainer": trainer,
    "argparse": argparse,
    "notebook": notebook,
}


def assigned(code: str) -> list[str]:
    """Names that the statements assign, in order."""
    found: dict[str, None] = {}
    for node in ast.parse(code).body:
        for target in _targets(node):
            found |= {n.id: None for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if isinstance(node, ast.For):
            found |= dict.fromkeys(assigned(ast.unparse(ast.Module(node.body, []))))
    return list(found)


def owned(code: str, names: Iterable[str]) -> str:
    """The same statements with these names as attributes of `self`."""
    return ast.unparse(_Owned(set(names)).visit(ast.parse(code)))


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For) else []


class _Owned(ast.NodeTransformer):
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self._names:
            return node
        return ast.Attribute(ast.Name("self", ast.Load()), node.id, node.ctx)


class _Constants(ast.NodeTransformer):
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def text(self, code: str) -> str:
        return ast.unparse(self.visit(ast.parse(code)))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self._names:
            return node
        return ast.Attribute(ast.Name("args", ast.Load()), node.id.lower(), node.ctx)


def _head(draft: Draft, *more: str) -> str:
    seed = draft.constants.get("SEED", 0)
    wanted = sorted({*draft.imports, *more, "import json"}, key=lambda line: (line.startswith("from"), line))
    return "\n".join((*wanted, PRELUDE, "", f"torch.manual_seed({seed})"))


def _all_constants(draft: Draft) -> dict[str, Any]:
    length = {"EPOCHS": draft.facts["epochs"]} if draft.loader else {"STEPS": draft.steps}
    return {k: v for k, v in draft.constants.items() if k != "SEED"} | length


def _constants(draft: Draft) -> str:
    return "\n".join(f"{name} = {value!r}" for name, value in _all_constants(draft).items())


def _loader(draft: Draft) -> str:
    return draft.batch if draft.loader else ""


def _setup(draft: Draft) -> str:
    return "\n".join(filter(None, (draft.setup, _loader(draft))))


def _loop(draft: Draft, loader: bool = True) -> str:
    if draft.loader:
        made = f"{draft.batch}\n" if loader else ""
        body = indent(draft.body, " " * 8)
        return f"{made}step = 0\nfor epoch in range(EPOCHS):\n    for x, y in loader:\n{body}\n        step += 1"
    body = f"{draft.batch}\n{draft.body}"
    return f"for step in range(STEPS):\n{indent(body, TAB)}"


def _function(name: str, arguments: str, body: str) -> str:
    return f"def {name}({arguments}):\n{indent(body, TAB)}"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
