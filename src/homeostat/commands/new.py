"""The command `homeostat new`: writes the files of a new component."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer

from homeostat.commands.app import command, show_json
from homeostat.commands.records import AsJson
from homeostat.core.errors import BadInput

if TYPE_CHECKING:
    from homeostat.catalogue import Entry

AUTHORS = "Authors of the paper"
"""Stands in a written citation until somebody names them."""


class Kind(StrEnum):
    """Kinds of component that can be written."""

    TREATMENT = "treatment"
    VITAL = "vital"
    CONDITION = "condition"
    OBJECTIVE = "objective"
    STUDY = "study"


@dataclass(frozen=True)
class _Place:
    """Where components of a kind live.

    Args:
        package: folder of the families, below `src/homeostat`.
        family: the default one.
        tests: folder of the tests, "" if a common test covers the kind.
    """

    package: str
    family: str
    tests: str


_PLACES = {
    Kind.TREATMENT: _Place("treatments", "regularization", "treatments"),
    Kind.VITAL: _Place("vitals", "activations", "vitals"),
    Kind.CONDITION: _Place("diagnosis/conditions", "optimization", "diagnosis"),
    Kind.OBJECTIVE: _Place("objectives", "policy", "objectives"),
    Kind.STUDY: _Place("studies/papers", "plasticity", ""),
}


@command(
    "homeostat new vital mean-activation",
    "homeostat new treatment weight-projection --family normalization --paper spectral-regularization",
)
def new(
    kind: Annotated[Kind, typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name, in lower case with hyphens.")],
    family: Annotated[str | None, typer.Option(metavar="F", help="Folder of related components.")] = None,
    paper: Annotated[
        str | None, typer.Option(metavar="ID", help="Entry of the catalogue to cite; by default the one of this name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a component and its test into this checkout.

    Both work as written: the component passes its laws, except that a paper whose authors the catalogue lacks needs
    them first. Replace the formula, the citation and the test.
    """
    root, place = _checkout(Path.cwd()), _PLACES[kind]
    _check_name(kind, name)
    chosen, cited = _family(root, place, kind, family or place.family), _entry(name, paper)
    written = _write(root, kind, name, chosen, _filled(root, kind, name, chosen, cited))
    steps = _next_steps(kind, name, cited, [path for path in written if path.startswith("tests")])
    if as_json:
        return show_json({"written": written, "next": steps})
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo("Next:")
    for number, step in enumerate(steps, 1):
        typer.echo(f"  {number}. {step}")


def _checkout(start: Path) -> Path:
    """The root of the checkout that a folder belongs to."""
    for folder in (start, *start.parents):
        if (folder / "src" / "homeostat" / "core" / "component.py").is_file():
            return folder
    raise BadInput(f"{start} is not inside a checkout of homeostat; run this where src/homeostat is")


def _check_name(kind: Kind, name: str) -> None:
    """Refuse a name that is malformed or taken."""
    from homeostat.core.component import components

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadInput(f"{name!r} is not a name: write lower case letters and digits with hyphens, like 'weight-noise'")
    known = components(kind)
    if name in known:
        free = next(other for n in range(2, 100) if (other := f"{name}-{n}") not in known)
        raise BadInput(
            f"there is already a {kind} {name!r} in {known[name].__module__}; edit it, or choose another name such as "
            f"{free!r} (`homeostat list {kind}` shows those that are taken)"
        )


def _family(root: Path, place: _Place, kind: Kind, family: str) -> str:
    known = sorted(path.parent.name for path in (root / "src" / "homeostat" / place.package).glob("*/__init__.py"))
    if family not in known:
        raise BadInput(f"there is no family {family!r} of {kind}s; choose one of {', '.join(known)}")
    return family


def _entry(name: str, paper: str | None) -> Entry | None:
    """The entry of the catalogue to cite."""
    from homeostat.catalogue import entries, entry

    return entry(paper) if paper else next((e for e in entries() if e.id == name), None)


def _filled(root: Path, kind: Kind, name: str, family: str, cited: Entry | None) -> dict[str, str]:
    """What the templates' placeholders stand for."""
    module = ".".join(["homeostat", *_PLACES[kind].package.split("/"), family, name.replace("-", "_")])
    words = name.replace("-", " ").capitalize()
    label = _class_name(root, kind, name)
    return {"Class": label, "name": name, "words": words, "module": module, "header": _header(kind, label, name, cited)}


def _class_name(root: Path, kind: Kind, name: str) -> str:
    """A class name that nothing else in the package has."""
    label = "".join(part.capitalize() for part in name.split("-"))
    taken = re.compile(rf"^class {label}\b", re.MULTILINE)
    if kind == Kind.STUDY or any(
        taken.search(p.read_text("utf-8")) for p in (root / "src" / "homeostat").rglob("*.py")
    ):
        label += kind.capitalize()
    return label


def _header(kind: Kind, label: str, name: str, cited: Entry | None) -> str:
    """The lines that name the component and its paper."""
    from homeostat.core.component import kebab

    typed = kind == Kind.STUDY
    cite = f'Cite.of("{cited.id}")' if cited else f'Cite("{AUTHORS}", 2026, "Title of the paper")'
    lines = [f'name{": ClassVar[str]" if typed else ""} = "{name}"'] if typed or kebab(label) != name else []
    lines.append(f"cite{': ClassVar[Cite]' if typed else ''} = {cite}")
    return textwrap.indent("\n".join(lines), "    ")


def _write(root: Path, kind: Kind, name: str, family: str, filled: dict[str, str]) -> list[str]:
    """Write the files and return their paths from the root; nothing is written if one exists."""
    place, stem = _PLACES[kind], name.replace("-", "_")
    texts = {root / "src" / "homeostat" / place.package / family / f"{stem}.py": _template(kind, family, "py")}
    if place.tests:
        texts[_test_file(root, kind, stem)] = _template(kind, family, "test")
    for path in texts:
        if path.exists():
            raise BadInput(f"{path.relative_to(root).as_posix()} exists already; choose another name")
    for path, template in texts.items():
        path.write_text(template.substitute(filled), encoding="utf-8")
    return [path.relative_to(root).as_posix() for path in texts]


def _test_file(root: Path, kind: Kind, stem: str) -> Path:
    """The test's file, named like no other: pytest tells them apart by their names alone."""
    folder = root / "tests" / _PLACES[kind].tests
    used = {path.name for path in (root / "tests").rglob("test_*.py") if path.parent != folder}
    return folder / (f"test_{stem}_{kind}.py" if f"test_{stem}.py" in used else f"test_{stem}.py")


def _template(kind: Kind, family: str, what: str) -> Template:
    """The template of a family, or else that of the kind."""
    folder = files("homeostat.commands").joinpath("templates")
    own = folder.joinpath(f"{kind}-{family}.{what}.tmpl")
    return Template((own if own.is_file() else folder.joinpath(f"{kind}.{what}.tmpl")).read_text("utf-8"))


def _next_steps(kind: Kind, name: str, cited: Entry | None, tests: list[str]) -> list[str]:
    """What is left to do, as sentences."""
    cite = "" if cited else "the citation, "
    steps = [f"Replace {cite}the docstring and the formula by those of the paper."]
    if cited and not cited.authors:
        steps.insert(0, f'Add "authors" to {cited.id!r} in src/homeostat/catalogue/entries/{cited.family}.json.')
    if kind == Kind.STUDY:
        return [
            *steps,
            f"Try it: homeostat study {name}",
            f"Judge the claim: homeostat study {name} --budget paper",
        ]
    return [
        *steps,
        f"Restate the formula in the test: python -m pytest {tests[0]}",
        f"Check the laws: homeostat check {name}",
        "Write the evidence and the pages: make evidence",
    ]
