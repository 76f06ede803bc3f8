"""The ranks of a run of several processes: each writes its own record, and readers of the first one find the others.

The first rank writes into the folder of records, the others into its subfolders `rank1`, `rank2` and so on. No rank
waits for another, and each record is readable by itself, so that a rank that is killed takes nothing with it.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from homeostat.core.errors import RecordError
from homeostat.core.finding import Finding
from homeostat.core.signals import pass_on
from homeostat.record.environment import birth_of
from homeostat.record.opening import check_inside, connect_to_read
from homeostat.record.reader import Failure, Points, RunReader
from homeostat.record.schema import SUFFIX

MISSING = "missing"
"""Status of a rank that has no readable record."""
MOST_RANKS = 4096
"""Ranks that are looked for."""
NEAREST = 16
"""Records of a rank's folder that are opened, those begun next to the first rank's."""
_ORDER = re.compile(r"(\d{8}-\d{6})-")
Found = TypeVar("Found")


class RankDifference(NamedTuple):
    """Where a vital of a rank differs most from that of the first rank, among the steps that both measured."""

    vital: str
    layer: str
    step: int
    first: float
    here: float


@dataclass(frozen=True)
class OtherRank:
    """Another rank of the run.

    Args:
        rank: its number.
        run: id of its record, in the subfolder of that rank; None if there is none.
        status: as in `RunMeta`, or "missing".
        steps: optimizer steps completed.
        findings, failures: those of its record.
        only: conditions found on this rank, not on the first.
        lacks: conditions found on the first rank, not on this one.
        differences: vitals that differ from the first rank's, largest relative difference first.
    """

    rank: int
    run: str | None = None
    status: str = MISSING
    steps: int = 0
    findings: tuple[Finding, ...] = ()
    failures: tuple[Failure, ...] = ()
    only: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    differences: tuple[RankDifference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As in the JSON of the run."""
        return {
            "rank": self.rank,
            "run": self.run,
            "status": self.status,
            "steps": self.steps,
            "failed": [failure._asdict() for failure in self.failures],
            "findings": [finding.to_json() for finding in self.findings],
            "differences": [difference._asdict() for difference in self.differences],
        }


def rank_facts(rank: int, world_size: int) -> dict[str, Any]:
    """The facts by which the records of one launch find each other; empty for a single process."""
    return {"rank": rank, "world_size": world_size, "launch": _launch()} if world_size > 1 else {}


def rank_folder(folder: Path, rank: int) -> Path:
    """Where a rank keeps its record."""
    return folder if rank == 0 else folder / f"rank{rank}"


def other_ranks(reader: RunReader) -> list[OtherRank]:
    """The other ranks of a run, in order; empty for a single process, and for the record of another rank.

    Raises:
        RecordError: the record itself cannot be read.
    """
    found = _each(reader, lambda other, rank: _compared(reader, other, rank))
    return [one or OtherRank(rank) for rank, one in found.items()] if any(found.values()) else []


def ranks_running(reader: RunReader) -> bool:
    """Whether another rank of the run is still writing its record."""
    return any(_each(reader, lambda other, rank: other.meta.status == "running").values())


def _each(reader: RunReader, read: Callable[[RunReader, int], Found]) -> dict[int, Found | None]:
    """Rank -> what `read` returns for its record, None if there is no readable one."""
    facts, path = reader.facts(), reader.path
    size, launch = facts.get("world_size"), facts.get("launch")
    if path is None or facts.get("rank") != 0 or type(size) is not int or not isinstance(launch, str):
        return {}
    return {rank: _read(path, rank, launch, read) for rank in range(1, min(size, MOST_RANKS))}


def _read(path: Path, rank: int, launch: str, read: Callable[[RunReader, int], Found]) -> Found | None:
    folder = rank_folder(path.parent, rank)
    for candidate in _nearest(folder, path):
        try:
            check_inside(path.parent, folder)
            check_inside(folder, candidate)
            with RunReader(connect_to_read(candidate), candidate) as other:
                facts = other.facts()
                if facts.get("launch") == launch and facts.get("rank") == rank:
                    return read(other, rank)
        except RecordError as error:
            pass_on(error)
    return None


def _nearest(folder: Path, path: Path) -> list[Path]:
    """Records of a folder, by the time between their creation and that of the first rank's."""
    then = _moment(path)
    files = [file for file in folder.glob(f"*{SUFFIX}") if _moment(file) is not None] if folder.is_dir() else []
    return sorted(files, key=lambda file: abs((_moment(file) or 0) - (then or 0)))[:NEAREST]


def _moment(path: Path) -> float | None:
    found = _ORDER.match(path.name)
    try:
        return None if found is None else datetime.strptime(found[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError) as error:
        pass_on(error)
        return None


def _compared(first: RunReader, reader: RunReader, rank: int) -> OtherRank:
    meta, findings = reader.meta, reader.findings()
    there, here = ({f.condition: None for f in found} for found in (first.findings(), findings))
    return OtherRank(
        rank,
        meta.run,
        meta.status,
        meta.steps,
        tuple(findings),
        tuple(reader.failures()),
        tuple(name for name in here if name not in there),
        tuple(name for name in there if name not in here),
        tuple(sorted(_differences(first.vitals(), reader.vitals()), key=_relative, reverse=True)),
    )


def _differences(
    first: Mapping[str, Mapping[str, Points]], other: Mapping[str, Mapping[str, Points]]
) -> Iterator[RankDifference]:
    """One for each vital that differs."""
    for vital, layers in first.items():
        apart = [
            RankDifference(vital, layer, step, value, here)
            for layer, points in layers.items()
            for (step, value), here in _common(points, other.get(vital, {}).get(layer, []))
            if value != here and math.isfinite(value) and math.isfinite(here)
        ]
        if apart:
            yield max(apart, key=_relative)


def _common(points: Points, others: Points) -> Iterator[tuple[tuple[int, float], float]]:
    known = dict(others)
    for step, value in points:
        here = known.get(step)
        if value is not None and here is not None:
            yield (step, value), here


def _relative(difference: RankDifference) -> float:
    return abs(difference.here - difference.first) / max(abs(difference.here), abs(difference.first))


def _launch() -> str:
    """A text that is equal on the ranks of one launch, and on no other."""
    env = os.environ
    elastic = [env.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT")]
    if elastic[0] and env.get("LOCAL_WORLD_SIZE") != env.get("WORLD_SIZE"):
        return ":".join(("torchrun", *elastic, env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", "")))
    if "SLURM_JOB_ID" in env and "SLURM_STEP_ID" in env:
        return ":".join(("slurm", *(env.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))))
    parent = os.getppid()
    return ":".join((platform.node(), str(parent), birth_of(parent), elastic[1]))
