"""From a sentence to features: stems, pairs of stems, and what they mean in the field's everyday language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import combinations, pairwise

_STOP = frozenset(
    """a an the is are was were be been being am i my me we our you your it its this that these those of in on at to
    for with from by as and or but if then so than do does did done have has had having can could will would should may
    might must there here what which who when where why how any some also very just get got getting am'm please help
    hi hello thanks anyone someone im ive using use used try tried trying about into per while during because really
    seem seems too much more such even still now one""".split()
)
"""Words that say nothing about a symptom. Words of direction, number and negation are kept."""

_NOT = re.compile(
    r"n['\u2019]t\b|\bcannot\b|\b(?:never|without|unable to|(?:fail|refuse)(?:s|d|ed|ing)? to)\b|\bno longer\b"
)
"""Ways to say "not". Each becomes the word."""

_PARTS = re.compile(r"[a-z]+|\d+(?:\.\d+)?(?:e-?\d+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SAME = (("isation", "ization"), ("ising", "izing"), ("ised", "ized"), ("ise", "ize"), ("our", "or"))


def stems(text: str) -> list[str]:
    """Lower-case stems of all words and numbers, stop words left out, names such as `zero_grad` taken apart.

    >>> stems("The loss isn't decreasing with nn.CrossEntropyLoss")
    ['loss', 'not', 'decreas', 'nn', 'cross', 'entropi', 'loss']
    """
    text = _CAMEL.sub(" ", text).lower()
    text = _NOT.sub(" not ", text)
    return [stem(word) for word in _PARTS.findall(text) if word not in _STOP]


@cache
def stem(word: str) -> str:
    """The word without its ending: plural, -ing, -ed, -ly, and British spelling made American."""
    for british, american in _SAME:
        if len(word) > len(british) + 2 and word.endswith(british):
            word = word[: -len(british)] + american
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ization", "ation", "ing", "edly", "ed", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            if word[-1:] == word[-2:-1] and word[-1] not in "aeiols":
                word = word[:-1]
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


@cache
def synonyms() -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    """Meaning -> stems of the words and phrases that people use for it."""
    stored = json.loads(files("homeostat.find").joinpath("synonyms.json").read_text("utf-8"))
    return tuple((name, tuple(tuple(stems(said)) for said in all)) for name, all in stored.items())


@cache
def _by_first() -> dict[str, list[tuple[tuple[str, ...], str]]]:
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for name, all in synonyms():
        for said in all:
            if said:
                found.setdefault(said[0], []).append((said, name))
    return found


def meanings(words: list[str]) -> list[str]:
    """The meanings that a sequence of stems has, without repetition, in the order of their words."""
    found = dict.fromkeys(
        name
        for at, word in enumerate(words)
        for said, name in _by_first().get(word, ())
        if tuple(words[at : at + len(said)]) == said
    )
    return list(found)


def features(text: str) -> list[str]:
    """Stems, pairs of neighbouring stems, meanings and pairs of meanings of a sentence."""
    words = stems(text)
    meant = meanings(words)
    return [*words, *_neighbours(words), *(f"={m}" for m in meant), *_pairs(meant)]


def text_features(text: str) -> list[str]:
    """The same of a longer text, without the pairs of meanings."""
    words = stems(text)
    return [*words, *_neighbours(words), *(f"={m}" for m in meanings(words))]


def _neighbours(words: list[str]) -> Iterator[str]:
    return (f"{a} {b}" for a, b in pairwise(words))


def _pairs(meant: Iterable[str]) -> Iterator[str]:
    return (f"={a}&{b}" for a, b in combinations(sorted(meant), 2))
