"""`homeostat catalogue`: filters, one entry, neighbours, drafts and the feed."""

import json

import pytest
from typer.testing import CliRunner

from homeostat.cli import app

BIBTEX = "@misc{k, title={FreshUnits: resetting dormant units}, author={One, Ann}, year={2026}}"


def invoke(*args, code=0, stdin=None):
    result = CliRunner().invoke(app, ["catalogue", *args], input=stdin, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def rows(*args):
    return json.loads(invoke(*args, "--json").stdout)["entries"]


def test_filters_restrict_and_combine():
    everything = rows()
    fitting = rows("--fit", "5")
    assert 0 < len(fitting) < len(everything) and {row["fit"] for row in fitting} == {5}
    holding = rows("--verdict", "holds")
    assert holding and {row["verdict"] for row in holding} == {"holds"}
    untested = rows("--verdict", "untested")
    assert {row["verdict"] for row in untested} == {None}
    both = rows("--search", "plasticity", "--family", "plasticity", "--fit", "4")
    assert both and all(row["family"] == "plasticity" and row["fit"] >= 4 for row in both)


def test_since_shows_what_was_added_or_judged():
    assert rows("--since", "2999-01-01") == []
    assert len(rows("--since", "2000-01-01")) == len(rows())


def test_near_lists_others_by_likeness():
    near = rows("--near", "continual-backprop")
    likes = [row["likeness"] for row in near]
    assert likes == sorted(likes, reverse=True)
    assert "continual-backprop" not in [row["id"] for row in near]
    assert "likeness" in invoke("--near", "continual-backprop").stdout


def test_one_entry_by_its_id_alone():
    one = rows("continual-backprop")
    assert one == json.loads(invoke("--json", "continual-backprop").stdout)["entries"]
    assert one == json.loads(invoke("show", "continual-backprop", "--json").stdout)["entries"]
    assert one[0]["title"] in invoke("continual-backprop").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--fit", "9"), "from 1 to 5"),
        (("--verdict", "hold"), "did you mean 'holds'"),
        (("--since", "monday"), "write it like"),
        (("--near", "no-such-paper"), "unknown catalogue entry"),
        (("continual-bakprop",), "did you mean 'continual-backprop'"),
        (("add", "no-such-file.bib"), "No such file"),
    ],
)
def test_bad_input_is_one_line(args, said):
    result = invoke(*args, code=2)
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_add_writes_a_draft_and_overwrites_nothing(tmp_path):
    source, out = tmp_path / "paper.bib", tmp_path / "drafts"
    source.write_text(BIBTEX)
    shown = invoke("add", str(source), "--out", str(out)).stdout
    assert "freshunits.json" in shown and "nearest" in shown and "own words" in shown
    path = out / "freshunits.json"
    path.write_text("mine")
    assert "exists already" in invoke("add", str(source), "--out", str(out), code=2).stderr
    assert path.read_text() == "mine"
    made = json.loads(invoke("add", "--out", str(tmp_path / "other"), "--json", stdin=BIBTEX).stdout)["drafts"]
    assert made[0]["entry"]["authors"] == "Ann One" and made[0]["near"]
    assert json.loads((tmp_path / "other" / "freshunits.json").read_text()) == made[0]["entry"]


def test_feed_is_written_and_brought_up_to_date(tmp_path):
    path = tmp_path / "papers.xml"
    first = json.loads(invoke("feed", str(path), "--json").stdout)
    assert first["added"] > 0 and path.read_text().startswith("<?xml")
    assert "0 new" in invoke("feed", str(path)).stdout
