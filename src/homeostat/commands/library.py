"""Commands about components and studies: list, study."""

from __future__ import annotations

import dataclasses
import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from homeostat.commands.app import command, missing_extra, show_json
from homeostat.commands.records import AsJson
from homeostat.commands.tables import print_table
from homeostat.core.errors import UnknownName


class Budget(StrEnum):
    """Sizes of a study."""

    SMOKE = "smoke"
    PAPER = "paper"


@command("homeostat list treatment", "homeostat list vital --json", name="list")
def list_components(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="vital, treatment, controller, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """List the components of a kind with their settings; without a kind, count them all."""
    from homeostat.core.component import components, kinds

    known = {k: components(k) for k in kinds()}
    if kind is not None:
        kind = next((k for k in (kind, kind.removesuffix("s")) if k in known), kind)
        if kind not in known:
            raise UnknownName("kind of component", kind, known)
    rows = [_describe(cls) for k, found in known.items() if kind in (None, k) for cls in found.values()]
    if as_json:
        return show_json({"components": rows})
    if kind is None:
        return print_table("", ["kind", "components"], [[k, str(len(found))] for k, found in known.items()])
    head = ["name", "what", *(["needs"] if kind == "treatment" else []), "settings"]
    print_table("", head, [[r["name"], r["what"], *_needs(r), _texts(r["settings"])] for r in rows])


@command("homeostat study", "homeostat study continual-backprop --budget paper --jobs 2")
def study(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Study to run; without it, list all studies.")
    ] = None,
    budget: Annotated[
        Budget, typer.Option(help="smoke takes seconds; paper takes minutes and gives a verdict.")
    ] = Budget.SMOKE,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Largest number of seeds; by default that of the study.")
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Number of parallel processes.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the verdict to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test a paper's claim: run the arms under seeds until the claim is decided, and print the verdict."""
    from homeostat.core.component import components

    if id is None:
        return _list_studies(components("study"), as_json)
    try:
        from homeostat.studies.lab.harness import run_study
        from homeostat.studies.lab.tables import show

        verdict = run_study(id, budget=budget.value, seeds=seeds, jobs=jobs, out=out)
    except ImportError as error:
        raise missing_extra("studies", error) from error
    if as_json:
        show_json(verdict.to_json())
    else:
        show(verdict)


def _describe(cls: type[Any]) -> dict[str, Any]:
    first = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    settings = {f.name: _plain(f.default) for f in dataclasses.fields(cls)}
    described = {"kind": cls.kind, "name": cls.name, "what": first, "settings": settings, "entries": list(cls.entries)}
    if cls.kind != "treatment":
        return described
    from homeostat.shell.run.compatibility import LINES

    lines = [LINES[stage] for stage in (cls.stage, *cls.lines) if stage in LINES]
    units, norms = ["unit groups"] * cls.needs_units, ["batch normalisation"] * cls.needs_batch_norm
    return described | {"needs": list(dict.fromkeys([*lines, *units, *norms]))}


def _needs(row: dict[str, Any]) -> list[str]:
    return [", ".join(row["needs"])] if "needs" in row else []


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _texts(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _list_studies(known: dict[str, type[Any]], as_json: bool) -> None:
    from homeostat.catalogue import notes_on, verdict_of

    rows = [(name, cls, verdict_of(name)) for name, cls in known.items()]
    if as_json:
        found = [
            {
                "id": name,
                "claim": cls.claim,
                "verdict": v and v["verdict"],
                "notes": list(notes_on(cls, v)) if v else [],
            }
            for name, cls, v in rows
        ]
        return show_json({"studies": found})
    cells = [[name, _verdict(cls, v), cls.claim] for name, cls, v in rows]
    print_table("", ["study", "verdict", "claim"], cells)


def _verdict(study: type[Any], verdict: dict[str, Any] | None) -> str:
    from homeostat.catalogue import notes_on

    if verdict is None:
        return "not run at paper budget"
    notes = notes_on(study, verdict)
    return verdict["verdict"] + (f" ({'; '.join(notes)})" if notes else "")
