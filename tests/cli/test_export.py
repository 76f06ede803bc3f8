"""`homeostat export`: the tables hold what the record holds, in files that are never replaced unasked."""

import csv
import json
import math
import sys

import pytest
from typer.testing import CliRunner

from homeostat.cli import app
from homeostat.core.finding import Finding, JournalEntry
from homeostat.record import RunRecord, open_record
from homeostat.report.tables import TABLES, run_tables

FINDING = Finding("dormant-units", "warning", 10, ("actor.fc1",), {"text": 'half, "idle"\nsince 10', "value": 0.5})


@pytest.fixture
def record(tmp_path):
    """A run of two networks, one of which has a layer named like the other network."""
    made = RunRecord.create(tmp_path, script="train.py", seed=0)
    made.add_vitals((s, "step-loss", f"{net}.network", 1 / 3 * s) for s in (1, 2) for net in ("actor", "actor.old"))
    made.add_vitals([(1, "dormant-units", "actor.fc1", 0.1), (2, "dormant-units", "actor.fc1", None)])
    made.add_vitals([(1, "dormant-units", "actor.old.fc1", math.inf), (1, "logged/val/loss", "network", 0.7)])
    made.add_vitals([(2, "knob", "actor.lr", 1e-3)])
    made.set_findings(2, [FINDING])
    made.add_journal(JournalEntry(2, "pi", "knob", "actor.lr", "turned", None, 1e-3, {"by": [1, 2]}))
    made.add_boundary(1, "=second")
    made.progress(2, 1.0)
    made.close()
    return made


def export(tmp_path, *args, code=0):
    result = CliRunner().invoke(app, ["export", "last", "--record", str(tmp_path), *map(str, args)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_tables_hold_the_values_of_the_record(record, tmp_path):
    with open_record(record.run, tmp_path) as reader:
        tables, vitals = run_tables(reader), reader.vitals()
    rows = tables["vitals"].rows
    assert rows[:1] == [(1, "actor", "step-loss", "network", 1 / 3)]
    joined = {(vital, f"{network}.{layer}", step): value for step, network, vital, layer, value in rows}
    plain = {v: lines for v, lines in vitals.items() if v not in ("knob", "logged/val/loss")}
    assert joined == {(v, at, s): x for v, lines in plain.items() for at, line in lines.items() for s, x in line}
    assert {(network, layer) for _, network, _, layer, _ in rows} >= {("actor", "fc1"), ("actor.old", "fc1")}
    assert tables["metrics"].rows == [(1, "val/loss", 0.7)]
    assert tables["knobs"].rows == [(2, "actor", "lr", 1e-3)]
    assert tables["journal"].rows == [(2, "pi", "knob", "actor.lr", "turned", None, 1e-3, '{"by": [1, 2]}')]
    assert tables["boundaries"].rows == [(1, "=second")]
    (found,) = tables["findings"].rows
    assert found[:5] == ("dormant-units", "warning", 10, "", FINDING.evidence["text"])
    assert json.loads(found[5]) == list(FINDING.layers) and json.loads(found[6]) == FINDING.evidence
    assert tables["finding_events"].rows == [(2, "appeared", *found)]


def test_a_run_of_one_network_has_no_label(tmp_path):
    with RunRecord.create(tmp_path, script="train.py") as made:
        made.add_vitals([(1, "loss", "network", 1.0), (1, "step-loss", "network", 1.0), (1, "norm", "a.network", 2.0)])
        assert [row[1::2] for row in run_tables(made)["vitals"].rows] == [("", "network")] * 2 + [("", "a.network")]


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_files_give_back_every_value_and_type(record, tmp_path, to):
    if to == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    said = json.loads(export(tmp_path, "--to", to, "--out", tmp_path / "out", "--json").stdout)
    assert [file["table"] for file in said["files"]] == list(TABLES)
    tables = run_tables(record)
    for file in said["files"]:
        table = tables[file["table"]]
        if to == "parquet":
            read = parquet.read_table(file["path"])
            assert read.column_names == list(table.columns)
            rows = list(zip(*(column.to_pylist() for column in read.columns), strict=True))
        else:
            with open(file["path"], newline="", encoding="utf-8") as text:
                names, *cells = csv.reader(text)
            assert names == list(table.columns)
            kinds = table.columns.values()
            rows = [tuple(k(c) if c or k is str else None for k, c in zip(kinds, row, strict=True)) for row in cells]
        assert rows == table.rows and file["rows"] == len(rows)


def test_one_table_goes_to_one_file_and_nothing_is_replaced_unasked(record, tmp_path):
    file = tmp_path / "metrics.csv"
    export(tmp_path, "--table", "metrics", "--out", file)
    assert file.read_bytes() == b"step,name,value\n1,val/loss,0.7\n"
    file.write_text("mine")
    assert "--overwrite" in export(tmp_path, "--table", "metrics", "--out", file, code=2).stderr
    assert "metrics.csv exists" in export(tmp_path, "--out", tmp_path, code=2).stderr
    assert file.read_text() == "mine" and not (tmp_path / "vitals.csv").exists()
    export(tmp_path, "--table", "metrics", "--out", file, "--overwrite")
    assert file.read_text() != "mine"
    assert "does not fit" in export(tmp_path, "--to", "parquet", "--out", file, code=2).stderr
    assert "one table" in export(tmp_path, "--table", "knobs", "--table", "vitals", "--out", file, code=2).stderr
    assert "did you mean 'vitals'" in export(tmp_path, "--table", "vital", code=2).stderr


def test_without_pyarrow_it_says_what_to_install(record, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = export(tmp_path, "--to", "parquet", "--out", tmp_path / "new", code=2).stderr
    assert "pip install 'homeostat[parquet]'" in said and not (tmp_path / "new").exists()
