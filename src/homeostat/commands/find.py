"""The command `homeostat find`: search by symptom."""

from __future__ import annotations

import difflib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from homeostat.commands.app import command, missing_extra, show_json
from homeostat.commands.records import AsJson

if TYPE_CHECKING:
    from homeostat.find import Match, SymptomIndex

EXAMPLES = ("loss is nan", "agent stops exploring", "validation loss goes up", "forgets the old task")
"""Sentences that are suggested where nothing was found."""


class FoundKind(StrEnum):
    """What is looked for."""

    CONDITION = "condition"
    TREATMENT = "treatment"
    PAPER = "paper"


@command(
    "homeostat find 'my critic stops learning at high replay ratio'",
    "homeostat find loss is nan --kind condition --limit 3",
    "homeostat find 'forgets the old task' --json",
)
def find(
    symptom: Annotated[list[str], typer.Argument(metavar="SYMPTOM", help="What you see, in your own words.")],
    kind: Annotated[FoundKind | None, typer.Option(help="Show this kind only.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Largest number of results.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Find what a symptom points to: conditions, treatments and papers, best first, with what studies say."""
    sentence = " ".join(symptom)
    try:
        from homeostat.find import SymptomIndex, load_documents

        index = SymptomIndex(load_documents())
    except ImportError as error:
        raise missing_extra("find", error) from error
    found = index.search(sentence, kind.value if kind else "", limit)
    if as_json:
        return show_json([match.to_json() for match in found])
    _show(found) if found else _nothing(sentence, index)


def _show(found: list[Match]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for number, match in enumerate(found, 1):
        head = Text.assemble(f"{number}. ", (match.name, "bold"), f"  {match.kind}, {match.score:.2f}")
        console.print(head, Text(f"   {_evidence(match)}", style="dim"), sep="")
        console.print(Padding(Text(match.why), (0, 0, 0, 3)))
    console.print(Text(_next_step(found[0]), style="dim"))


def _evidence(match: Match) -> str:
    what = {"condition": "remedies", "treatment": "study", "paper": "study"}[match.kind]
    return f"{what}: {match.verdict}"


def _next_step(best: Match) -> str:
    if best.kind == "treatment":
        return f"Try it: homeostat run --treat {best.name} train.py"
    if best.kind == "paper":
        return f"Read more: homeostat catalogue {best.name}"
    return "Find out whether your run has it: homeostat run train.py"


def _nothing(sentence: str, index: SymptomIndex) -> None:
    from homeostat.find import unknown_words

    unknown = unknown_words(sentence, index.vocabulary)
    near = [word for said in unknown for word in difflib.get_close_matches(said.lower(), index.vocabulary, 2, 0.75)]
    typer.echo(f"nothing is like {sentence!r}")
    if near:
        typer.echo(f"  did you mean {' or '.join(dict.fromkeys(near))}?")
    typer.echo(f"  say what you see, for example: {', '.join(EXAMPLES)}")
