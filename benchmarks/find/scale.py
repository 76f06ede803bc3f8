"""How SQLite's full-text search (FTS5) would serve a catalogue of up to 1,000,000 entries.

Entries are generated: 60% of the words of each come from one entry of the catalogue, drawn at random, 30% from all of
them, and 10% are made-up words whose frequencies fall as 1 / rank, so that the vocabulary grows with the number of
entries as in real text. Queries are six words of one entry that are not among the 150 most frequent ones: what somebody
remembers of a paper.

Two searches are compared, both ranked by BM25. Exact: every entry that has any word of the query. Fast: the words that
more than a share of the entries have are left out, unless no other is there.

    python benchmarks/find/scale.py [--sizes 1000,10000,100000,1000000] [--queries 200] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from homeostat.catalogue import entries
from homeostat.catalogue.lookup import tokens

WORDS = 120
"""Words of an entry: title, claim and mechanism."""

TOPIC, MADE_UP = 0.6, 0.1
"""Shares of words of one entry of the catalogue, and of made-up words."""

VOCABULARY, FREQUENT = 1_000_000, 150
"""Number of made-up words, and of the most frequent words that no query has."""

COMMON = 0.1
"""Share of the entries from which on a word is left out by the fast search."""


def counts() -> list[Counter[str]]:
    """Word counts of every entry of the catalogue."""
    return [Counter(tokens(f"{e.title} {e.claim} {e.mechanism}")) for e in entries()]


def generate(count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Number and text of every entry."""
    topics = [np.array(sorted(each.elements()), dtype=object) for each in counts()]
    everything = np.concatenate(topics)
    generator = np.random.default_rng(seed)
    for number in range(count):
        topic = topics[generator.integers(len(topics))]
        own, made_up = int(WORDS * TOPIC), int(WORDS * MADE_UP)
        ranks = np.exp(generator.uniform(0.0, np.log(VOCABULARY), made_up)).astype(int)
        rest = everything[generator.integers(len(everything), size=WORDS - own - made_up)]
        words = [*topic[generator.integers(len(topic), size=own)], *rest, *(f"w{rank}" for rank in ranks)]
        yield number, " ".join(words)


def build(path: Path, count: int, kept: set[int], seed: int = 0) -> tuple[float, dict[int, str]]:
    """Write the index. Returns its seconds, without those of generating, and the texts of the kept entries."""
    base = sqlite3.connect(path)
    base.execute("pragma journal_mode = off")
    base.execute("pragma synchronous = off")
    base.execute("create virtual table entry using fts5(text, content='', tokenize='unicode61')")
    seconds, rows, texts = 0.0, [], {}
    for row in generate(count, seed):
        rows.append(row)
        if row[0] in kept:
            texts[row[0]] = row[1]
        if len(rows) == 10_000:
            seconds += insert(base, rows)
            rows = []
    seconds += insert(base, rows)
    started = time.perf_counter()
    base.execute("insert into entry(entry) values ('optimize')")
    base.commit()
    base.close()
    return seconds + time.perf_counter() - started, texts


def insert(base: sqlite3.Connection, rows: list[tuple[int, str]]) -> float:
    started = time.perf_counter()
    base.executemany("insert into entry(rowid, text) values (?, ?)", rows)
    base.commit()
    return time.perf_counter() - started


def search(base: sqlite3.Connection, words: list[str], limit: int = 10) -> list[int]:
    """Entries that have any of the words, best first."""
    query = " OR ".join(f'"{word}"' for word in words)
    found = base.execute("select rowid from entry where entry match ? order by rank limit ?", (query, limit))
    return [row for (row,) in found]


def telling(base: sqlite3.Connection, words: list[str], count: int, share: float) -> list[str]:
    """The words that at most a share of the entries have, or else the rarest one."""
    marks = ",".join("?" * len(words))
    counts = dict(base.execute(f"select term, doc from vocabulary where term in ({marks})", words))
    return [word for word in counts if counts[word] <= share * count] or [min(counts, key=counts.__getitem__)]


def measure(path: Path, count: int, texts: dict[int, str], share: float) -> dict[str, float]:
    base = sqlite3.connect(path)
    base.execute("create virtual table temp.vocabulary using fts5vocab('main', 'entry', 'row')")
    generator = np.random.default_rng(1)
    times: dict[str, list[float]] = {"exact": [], "fast": []}
    overlap, own = [], []
    frequent = {word for word, _ in sum(counts(), Counter()).most_common(FREQUENT)}
    for number, text in texts.items():
        words = [word for word in dict.fromkeys(generator.permutation(text.split())) if word not in frequent][:6]
        started = time.perf_counter()
        exact = search(base, words)
        middle = time.perf_counter()
        fast = search(base, telling(base, words, count, share))
        times["exact"].append(middle - started)
        times["fast"].append(time.perf_counter() - middle)
        overlap.append(len(set(exact) & set(fast)) / len(exact))
        own.append(number in fast)
    base.close()
    return {
        **{f"{name} p50 ms": 1000 * statistics.median(found) for name, found in times.items()},
        **{f"{name} p95 ms": 1000 * statistics.quantiles(found, n=20)[-1] for name, found in times.items()},
        "recall at 10": statistics.mean(overlap),
        "entry found": statistics.mean(own),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--common", type=float, default=COMMON, help="share of entries from which on a word is left out"
    )
    parser.add_argument("--folder", type=Path, help="where to write the index; by default a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in map(int, options.sizes.split(",")):
            path = Path(folder) / f"{size}.sqlite"
            kept = np.random.default_rng(2).choice(size, min(options.queries, size), replace=False)
            seconds, texts = build(path, size, set(kept.tolist()))
            row = {"entries": size, "index s": seconds, "index MB": path.stat().st_size / 1e6}
            print(json.dumps({**row, **measure(path, size, texts, options.common)}), flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
