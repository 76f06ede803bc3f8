"""The command `homeostat catalogue`: list, search, add, and the feed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from homeostat.commands.app import app, epilog, missing_extra, show_json
from homeostat.commands.records import AsJson
from homeostat.commands.tables import cell, print_table
from homeostat.core.errors import BadInput, UnknownName

DRAFTS = Path("catalogue-drafts")
COLUMNS = ["id", "year", "title", "components", "study", "verdict"]
UNTESTED, BOUNDED = "untested", "no effect"


class _Catalogue(TyperGroup):
    """`homeostat catalogue ID` stands for `homeostat catalogue show ID`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            return "show", self.commands["show"], args
        return super().resolve_command(ctx, args)


catalogue = typer.Typer(
    cls=_Catalogue,
    invoke_without_command=True,
    subcommand_metavar="[ID | COMMAND ...]",
    epilog=epilog(
        "homeostat catalogue --search 'dormant units'",
        "homeostat catalogue --fit 4 --verdict holds",
        "homeostat catalogue --near continual-backprop",
        "homeostat catalogue continual-backprop",
        "homeostat catalogue --json",
        "homeostat catalogue add paper.bib",
        "homeostat catalogue feed papers.xml",
    ),
)
app.add_typer(catalogue, name="catalogue")

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the drafts.")]


@catalogue.callback()
def listing(
    ctx: typer.Context,
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="Show matching entries only, best first.")] = None,
    family: Annotated[str | None, typer.Option(metavar="F", help="Show this family only.")] = None,
    fit: Annotated[int | None, typer.Option(metavar="N", help="Show entries whose fit is at least N (1 to 5).")] = None,
    verdict: Annotated[str | None, typer.Option(metavar="V", help="Show this verdict only: holds, untested...")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Show what was added or judged since.")] = None,
    near: Annotated[str | None, typer.Option(metavar="ID", help="Show the entries nearest to this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the catalogue of papers, and what is implemented and tested of each."""
    if ctx.invoked_subcommand is not None:
        return
    from homeostat import catalogue as papers

    likeness = dict(_near(near)) if near is not None else {}
    chosen = [papers.entry(id) for id in likeness] if near is not None else list(papers.entries())
    if search is not None:
        among = {e.id for e in chosen}
        chosen = [found for found, _ in papers.search(search, limit=len(papers.entries())) if found.id in among]
    if family is not None:
        if family not in (known := papers.families()):
            raise UnknownName("family", family, known)
        chosen = [e for e in chosen if e.family == family]
    if fit is not None:
        if not 1 <= fit <= 5:
            raise BadInput(f"fit is from 1 to 5, got {fit}")
        chosen = [e for e in chosen if e.fit >= fit]
    if since is not None:
        dates = [event.entry.id for event in papers.events(since, chosen)]
        order = {id: place for place, id in reversed(list(enumerate(dates)))}
        chosen = sorted((e for e in chosen if e.id in order), key=lambda e: order[e.id])
    rows = papers.to_json(chosen)["entries"]
    if verdict is not None:
        wanted = _verdict(verdict)
        rows = [row for row in rows if (row["verdict"] or UNTESTED).startswith(wanted)]
    rows = [{**row, "likeness": likeness[row["id"]]} if likeness else row for row in rows]
    if as_json:
        return show_json({"entries": rows})
    columns = [*COLUMNS, "likeness"] if likeness else COLUMNS
    print_table(f"{len(rows)} entries", columns, [[cell(row[c]) for c in columns] for row in rows])


def _json_was_asked_for(ctx: typer.Context) -> bool:
    """Whether `--json` was given before the name of the command."""
    return ctx.parent is not None and bool(ctx.parent.params.get("as_json"))


@catalogue.command()
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the entry.")],
    as_json: AsJson = False,
) -> None:
    """Show one entry in full."""
    from rich.console import Console

    from homeostat import catalogue as papers

    data = papers.to_json([papers.entry(id)])
    if as_json or _json_was_asked_for(ctx):
        return show_json(data)
    console = Console(highlight=False)
    for name, value in data["entries"][0].items():
        if value not in ("", None, [], 0) and name != "mechanism":
            console.print(f"[bold]{name}[/bold]  ", end="")
            console.print(cell(value), markup=False)


@catalogue.command()
def add(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="[FILE]", help="The papers; by default standard input.")] = "-",
    out: Out = DRAFTS,
    as_json: AsJson = False,
) -> None:
    """Draft the entry of a paper, from BibTeX, an arXiv Atom file, or a pasted title and abstract.

    The paper is placed among its nearest entries. The draft is a file of its own; an existing one is not overwritten.
    """
    try:
        from homeostat.catalogue.incoming import parse_papers
        from homeostat.find.drafting import draft

        drafts = []
        for paper in parse_papers(_read(source)):
            drafts.append(draft(paper, [made.row["id"] for made in drafts]))
    except ImportError as error:
        raise missing_extra("find", error) from error
    paths = [out / f"{made.row['id']}.json" for made in drafts]
    if existing := [str(path) for path in paths if path.exists()]:
        raise BadInput(f"{existing[0]} exists already; move it, or choose another folder with --out")
    for made, path in zip(drafts, paths, strict=True):
        _write(path, json.dumps(made.row, indent=1, ensure_ascii=False) + "\n")
    if as_json or _json_was_asked_for(ctx):
        written = [{"written": str(path), **made.to_json()} for made, path in zip(drafts, paths, strict=True)]
        return show_json({"drafts": written})
    for made, path in zip(drafts, paths, strict=True):
        typer.echo(f"wrote {path}: family {made.family}, kind {made.row['kind']}, as its nearest entries")
        print_table("", ["nearest", "likeness", "title"], [[e.id, f"{like:.2f}", e.title] for e, like in made.near])
    typer.echo("Next:")
    typer.echo("  1. Write claim, mechanism and study_idea in your own words; the abstract is not copied.")
    typer.echo("  2. Move the object into src/homeostat/catalogue/entries/FAMILY.json of a checkout.")
    typer.echo("  3. Check it: python -m pytest tests/catalogue")


@catalogue.command()
def feed(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Atom feed to write, or to bring up to date.")],
    since: Annotated[str, typer.Option(metavar="DATE", help="Add nothing that is older.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write an Atom feed of new entries and changed verdicts; what the file holds already is kept."""
    from homeostat import catalogue as papers

    count = papers.update_feed(file, papers.events(since))
    if as_json or _json_was_asked_for(ctx):
        return show_json({"written": str(file), "added": count})
    typer.echo(f"{file}: {count} new")


def _near(id: str) -> list[tuple[str, float]]:
    from homeostat.catalogue import entry

    try:
        from homeostat.find.neighbours import neighbours, text_of

        return [(e.id, like) for e, like in neighbours(text_of(entry(id)), 10, without=id)]
    except ImportError as error:
        raise missing_extra("find", error) from error


def _verdict(text: str) -> str:
    """The beginning of the verdicts that are meant."""
    from homeostat.catalogue.status import VERDICTS

    known = (*VERDICTS, BOUNDED, UNTESTED)
    if text not in known and not text.startswith(BOUNDED):
        raise UnknownName("verdict", text, known)
    return text


def _read(source: str) -> str:
    try:
        if source != "-":
            return Path(source).read_text("utf-8")
        if sys.stdin.isatty():
            typer.echo("paste a title, then the abstract, and end with Ctrl-D", err=True)
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise BadInput(f"{source} is not text in UTF-8") from None


def _write(path: Path, text: str) -> None:
    """Write a file that must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as opened:
        opened.write(text)
