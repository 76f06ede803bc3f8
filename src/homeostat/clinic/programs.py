"""All programs of the clinic, by number. A number always gives the same text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from random import Random

from homeostat.clinic import agents, generative, sequences, supervised
from homeostat.clinic.draft import Draft, lines
from homeostat.clinic.fault import Change
from homeostat.clinic.faults_layers import FAULTS as OF_LAYERS
from homeostat.clinic.faults_more import FAULTS as OF_HABIT
from homeostat.clinic.faults_script import FAULTS as OF_SCRIPT
from homeostat.clinic.faults_units import FAULTS as OF_UNITS
from homeostat.clinic.healthy import VARIANTS
from homeostat.clinic.styles import STYLES

ARCHITECTURES = {
    "mlp": supervised.mlp,
    "regressor": supervised.regressor,
    "cnn": supervised.cnn,
    "resnet": supervised.resnet,
    "encoder": sequences.encoder,
    "vit": sequences.vit,
    "causal-lm": sequences.causal_lm,
    "gru": sequences.gru,
    "lstm": sequences.lstm,
    "autoencoder": generative.autoencoder,
    "vae": generative.vae,
    "gan": generative.gan,
    "siamese": generative.siamese,
    "contrastive": generative.contrastive,
    "dqn": agents.dqn,
    "actor-critic": agents.actor_critic,
    "sac": agents.soft_actor_critic,
    "grpo": agents.group_relative,
}
FAULTS = (*OF_UNITS, *OF_SCRIPT, *OF_HABIT, *OF_LAYERS)
FAMILIES = tuple(f"{arch}/{style}" for arch in ARCHITECTURES for style in STYLES)


@dataclass(frozen=True)
class TrainingProgram:
    """One whole training program.

    Args:
        number: index in the list of all programs.
        change: the fault or the variant.
        arch: architecture.
        style: of the script.
        turn: index among the programs of this change and architecture.
    """

    number: int
    change: Change
    arch: str
    style: str
    turn: int

    @property
    def name(self) -> str:
        """Fault, architecture, style and turn."""
        return f"{self.change.name}:{self.arch}:{self.style}:{self.turn}"

    @property
    def family(self) -> str:
        """Architecture and style, which are the units of the split."""
        return f"{self.arch}/{self.style}"

    def texts(self) -> tuple[str, str]:
        """The script, and the script of an earlier run that it continues; "" if there is none."""
        before = self._draft(fault=False) if "before" in (draft := self._draft()).facts else None
        if before is None:
            return STYLES[self.style](draft), ""
        before.end = lines(before.end, draft.facts["before"])
        return STYLES[self.style](draft), STYLES[self.style](before)

    def twin(self) -> tuple[str, str]:
        """The same script without the fault."""
        return STYLES[self.style](self._draft(fault=False)), ""

    @property
    def digest(self) -> str:
        """Digest of the texts, by which a stored result is found."""
        return hashlib.sha256("\0".join(self.texts()).encode()).hexdigest()[:16]

    def _draft(self, fault: bool = True) -> Draft:
        draw = Random(f"{self.change.name}:{self.arch}:{self.turn}")
        draft = ARCHITECTURES[self.arch](draw, dict(self.change.wish))
        if fault:
            self.change.apply(draft)
        return draft


def _of(changes: tuple[Change, ...]) -> Iterator[tuple[Change, str, str, int]]:
    """One program of every change, then a second one of every change, in another architecture, and so on."""
    styles = tuple(STYLES)
    for turn in count():
        for place, change in enumerate(changes):
            arch = change.archs[(turn + place) % len(change.archs)]
            of_arch = turn // len(change.archs)
            style = styles[Random(f"style:{change.name}:{arch}:{of_arch}").randrange(len(styles))]
            yield change, arch, style, of_arch


@cache
def programs(number: int) -> tuple[TrainingProgram, ...]:
    """The first programs: even numbers are healthy, odd numbers sick."""
    well, sick = _of(VARIANTS), _of(FAULTS)
    mixed = (next(sick if k % 2 else well) for k in count())
    return tuple(TrainingProgram(k, *chosen) for k, chosen in enumerate(islice(mixed, number)))
