"""Records that somebody else made: values of the wrong type, odd JSON, and other objects in the place of tables."""

import json
import re
import sqlite3
from contextlib import closing, suppress

from hypothesis import strategies as st

from homeostat.core.finding import Finding, JournalEntry, Prescription
from homeostat.record import RunRecord, schema

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
FINDING = Finding(
    "dormant-units", "warning", 10, ("fc1", "fc2"),
    {"text": "half are dormant", "share": 0.5, "by_layer": {"fc1": {"share": 0.5}, "fc2": {"share": 0.4}}},
    (Prescription("reset them", "redo", "redo-digits", "holds"),),
)  # fmt: skip
TABLES = {
    table: re.findall(r"(?:^|,)\s*(\w+) (?:TEXT|INTEGER|REAL)", columns)
    for table, columns in re.findall(r"CREATE TABLE (\w+) \((.*?)\)(?: WITHOUT ROWID)?;", schema.TABLES, re.DOTALL)
    if table != "about"
}


def template(folder):
    """The bytes of a record with something in every table, whose columns take NULL; and what makes its schema true."""
    record = RunRecord.create(folder, script="train.py", seed=3, settings={"every": 1})
    record.add_vitals([(s, v, f"fc{n}", s / 7) for s in (1, 2, 3, 4) for v in ("loss", "rank") for n in (1, 2)])
    record.set_findings(10, [FINDING])
    record.add_journal(JournalEntry(5, "redo", "edit", "fc1", "dormant", 0.5, None, {"units": [1, 2]}))
    record.add_boundary(2, "task 2")
    record.set_cadence(1, "loss", 10)
    record.add_not_measured("sharpness", "no probe was given")
    record.set_facts(networks=["network"], failed={"diagnosis": {"step": 3, "why": "RuntimeError: x", "times": 2}})
    record.progress(10, 1.5, 0.01)
    record.close()
    with closing(sqlite3.connect(record.path, isolation_level=None)) as db:
        made = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        loose = [(sql.replace(" NOT NULL", ""), sql) for (sql,) in made]
        _rewrite(db, loose)
    return record.path.read_bytes(), [(true, free) for free, true in loose]


def _rewrite(db, pairs):
    """Put the first text of each pair in the place of the second."""
    db.execute("PRAGMA writable_schema = ON")
    db.executemany("UPDATE sqlite_master SET sql = ? WHERE sql = ?", pairs)
    db.execute("PRAGMA writable_schema = RESET")


INFINITY = float("inf")
NUMBERS = st.sampled_from([0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.5, 1e308, -1e308, 5e-324, INFINITY, -INFINITY])
WORDS = ["", "zz", "running", "critical", "gone", "2026-01-01", "0001-01-01T00:00:00+14:00", "{{ 7 * 7 }}[bold]"]
TEXTS = st.sampled_from([*WORDS, MARKUP, "\x1b[2J\x9b1m\r\n\x00", "\u202e\ufffe", "a" * 70_000]) | st.text(max_size=20)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from([10**400, "\ud800"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
BY_LAYER = st.fixed_dictionaries({"fc1": st.just({"share": 1}) | VALUES, MARKUP: VALUES})
DEEP = ["[" * 60_000, "[" * 900 + "]" * 900, '{"a":' * 500 + "1" + "}" * 500]
ODD_JSON = st.sampled_from([*DEEP, "NaN", "1e999", "9" * 5000, "{", "", '"\\ud800"'])


@st.composite
def findings(draw):
    """JSON of a finding with other evidence, or some part of which is anything."""
    data = FINDING.to_json()
    data["evidence"] |= draw(st.dictionaries(st.sampled_from(["text", "share", MARKUP]), VALUES, max_size=2))
    data["evidence"] |= draw(st.just({}) | st.fixed_dictionaries({"by_layer": BY_LAYER}))
    if draw(st.booleans()):
        data[draw(st.sampled_from([*data, MARKUP]))] = draw(VALUES)
    return json.dumps(data)


CELLS = st.one_of(
    st.none(), NUMBERS, TEXTS, st.sampled_from([b"\xff\xfe", b""]), ODD_JSON, VALUES.map(json.dumps), findings()
)


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


@st.composite
def cell(draw):
    """Another value in one column of one table."""
    table = draw(st.sampled_from(list(TABLES)))
    name = draw(st.sampled_from(TABLES[table]))
    where = "" if table in ("vitals", "facts") else draw(st.sampled_from(["", "WHERE rowid = 1"]))
    return f"UPDATE OR REPLACE {table} SET {_quoted(name)} = ? {where}", (draw(CELLS),)


OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3).map(json.dumps)
FAILED = st.fixed_dictionaries({"step": LEAVES, "why": LEAVES, "times": LEAVES}).map(lambda f: json.dumps({"x": f}))
PLAUSIBLE = st.one_of(
    st.tuples(st.sampled_from(["findings.finding", "finding_events.finding"]), findings()),
    st.tuples(st.sampled_from(["journal.detail", "run.settings", "run.environment"]), OBJECTS),
    st.tuples(st.just("facts.value"), VALUES.map(json.dumps) | FAILED),
    st.tuples(st.sampled_from(["vitals.value", "journal.before", "run.wall_seconds"]), NUMBERS),
    st.tuples(
        st.sampled_from(["series.layer", "series.vital", "journal.why", "run.script", "boundaries.label"]), TEXTS
    ),
)


@st.composite
def likely(draw):
    """A value that could be right in the column where it stands."""
    where, value = draw(PLAUSIBLE)
    table, name = where.split(".")
    return f"UPDATE OR IGNORE {table} SET {name} = ?", (value,)


@st.composite
def row(draw):
    """Another row, or none."""
    table = draw(st.sampled_from(list(TABLES)))
    if draw(st.booleans()):
        return f"DELETE FROM {table}", ()
    names = TABLES[table]
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(names))})", tuple(draw(CELLS) for _ in names)


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@st.composite
def schema_change(draw):
    """Something that is no table of a record, often in the place of one."""
    table = draw(st.sampled_from(list(TABLES)))
    away, master = f"ALTER TABLE {table} RENAME TO was", "PRAGMA writable_schema = ON; UPDATE sqlite_master"
    statements = [
        f"DROP TABLE {table}",
        f"{away}; CREATE VIEW {table} AS {ENDLESS} SELECT was.* FROM was, c",
        f"{away}; CREATE VIEW {table} AS SELECT * FROM was",
        f"{away}; CREATE VIRTUAL TABLE {table} USING fts5(step, run)",
        f"ALTER TABLE {table} ADD COLUMN more AS (randomblob(1000000000))",
        f"DROP VIEW vital_values; CREATE VIEW vital_values AS {ENDLESS} SELECT 'v' vital, x step FROM c",
        f"CREATE TRIGGER tr AFTER UPDATE ON {table} BEGIN DELETE FROM {table}; END",
        f"CREATE INDEX i ON {table} ({TABLES[table][0]})",
        "CREATE TABLE theirs (x)",
        "CREATE VIEW theirs AS SELECT 1",
        f"{master} SET rootpage = 3 WHERE name = '{table}'",
        f"{master} SET sql = 'CREATE TABLE {table} (x)' WHERE name = '{table}'",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 99",
        "PRAGMA application_id = 1",
        "PRAGMA journal_mode = WAL",
    ]
    return draw(st.sampled_from(statements)), ()


CHANGES = st.lists(st.one_of(cell(), likely(), row(), likely(), schema_change()), min_size=1, max_size=3)
"""Statements, with values, that make a record one that Homeostat did not write."""
UNEVEN = json.dumps(FINDING.to_json() | {"evidence": {"by_layer": {"fc1": {"share": 1}, "fc2": 3, "fc3": {}}}})
EXAMPLES = (
    [("UPDATE run SET steps = 'zz'", ())],
    [("UPDATE run SET wall_seconds = 9e999", ())],
    [("UPDATE run SET settings = ?", ("[" * 60_000,))],
    [("UPDATE run SET script = x'fffe'", ())],
    [("UPDATE vitals SET value = 1e308", ())],
    [("UPDATE findings SET finding = ?", (UNEVEN,))],
    [(f"ALTER TABLE run RENAME TO was; CREATE VIEW run AS {ENDLESS} SELECT was.* FROM was, c", ())],
)
"""Records that have ended or hung a reader."""


def write(path, content, true_schema, statements):
    """Write the record, changed by the statements as far as SQLite carries them out."""
    path.write_bytes(content)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for sql, values in statements:
            try:
                db.execute(sql, values) if values else db.executescript(sql)
            except (sqlite3.Error, UnicodeEncodeError, OverflowError):
                pass
        with suppress(sqlite3.Error):
            _rewrite(db, true_schema)
