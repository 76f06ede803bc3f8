"""How often `homeostat find` has the right answer among the first three, on symptoms in the words of public questions.

`sentences.json` has two halves, "tuning" and "test". Each sentence says in our words what somebody asked, with the
address of the question and the names that count as right. No repository or site serves both halves. Phrases and weights
were set on the tuning half.

    python benchmarks/find/score.py [--half tuning|test] [--misses] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from homeostat.find import SymptomIndex, load_documents

SENTENCES = Path(__file__).with_name("sentences.json")


def sentences(half: str) -> list[dict[str, Any]]:
    """The sentences of a half: text, source and right names."""
    return json.loads(SENTENCES.read_text("utf-8"))[half]


def owner(source: str) -> str:
    """Repository of an address on GitHub, otherwise the address."""
    return "/".join(source.split("/")[3:5]) if "//github.com/" in source else source


def ranks(index: SymptomIndex, asked: list[dict[str, Any]], kind: str = "") -> list[int]:
    """Place of the first right answer of each sentence, from 1; 0 if it is not among the first ten."""
    found = []
    for row in asked:
        names = [match.name for match in index.search(row["text"], kind, limit=10)]
        found.append(next((place for place, name in enumerate(names, 1) if name in row["right"]), 0))
    return found


def share(places: list[int], first: int) -> float:
    """Share of the places that are at most `first`."""
    return sum(0 < place <= first for place in places) / len(places)


def interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (Wilson)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def chance(index_size: int, asked: list[dict[str, Any]]) -> float:
    """Expected share of hits among three names drawn at random from the conditions."""
    misses = [math.comb(index_size - len(row["right"]), 3) / math.comb(index_size, 3) for row in asked]
    return 1 - sum(misses) / len(misses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("tuning", "test"), help="only this half")
    parser.add_argument("--misses", action="store_true", help="print the sentences of the tuning half that fail")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = load_documents()
    SymptomIndex(found[:1])  # imports scikit-learn
    started = time.process_time()
    index = SymptomIndex(found)
    built = time.process_time() - started
    conditions = sum(document.kind == "condition" for document in found)
    rows = []
    for half in [options.half] if options.half else ["tuning", "test"]:
        asked = sentences(half)
        started = time.process_time()
        places = ranks(index, asked)
        seconds = (time.process_time() - started) / len(asked)
        low, high = interval(share(places, 3), len(asked))
        rows.append(
            {
                "half": half,
                "sentences": len(asked),
                "sources": len({owner(row["source"]) for row in asked}),
                "right names per sentence": sum(len(row["right"]) for row in asked) / len(asked),
                "first": share(places, 1),
                "first three": share(places, 3),
                "interval": [low, high],
                "conditions only": share(ranks(index, asked, "condition"), 3),
                "chance": chance(conditions, asked),
                "seconds per query": seconds,
            }
        )
        if options.misses and half == "tuning":
            for row, place in zip(asked, places, strict=True):
                if not 0 < place <= 3:
                    print(f"{row['text']}: right is {row['right']}, at place {place or 'none'}")
    report = {"seconds to index": built, "documents": len(found), "halves": rows}
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{len(found)} documents indexed in {built:.2f} s (processor time)")
    for row in rows:
        print(
            f"{row['half']}: {row['sentences']} sentences of {row['sources']} sources, "
            f"{row['right names per sentence']:.1f} right names each; first {row['first']:.3f}, "
            f"first three {row['first three']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f}), "
            f"of the conditions alone {row['conditions only']:.3f}, by chance {row['chance']:.3f}; "
            f"{1000 * row['seconds per query']:.0f} ms a query"
        )


if __name__ == "__main__":
    main()
