"""Search by symptom: the right answer comes first, reasons are given, and nothing is found where nothing fits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from homeostat.cli import app
from homeostat.core.component import components
from homeostat.core.errors import BadInput
from homeostat.find import Document, SymptomIndex, load_documents
from homeostat.find.documents import phrase_folder
from homeostat.find.words import features, stems

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks" / "find"))

import score  # noqa: E402


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "homeostat" / "find.json"


@pytest.fixture(scope="module")
def found(cache):
    return load_documents(cache)


@pytest.fixture(scope="module")
def index(found):
    return SymptomIndex(found)


@pytest.fixture
def invoke(cache, found, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))

    def run(*args, code=0):
        result = CliRunner().invoke(app, ["find", *args], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def test_right_answers_of_the_tuning_half_are_among_the_first_three(index):
    places = score.ranks(index, score.sentences("tuning"))
    assert len(places) >= 60
    assert score.share(places, 3) >= 0.9


def test_halves_share_no_source_and_name_what_exists(found):
    names = {document.name for document in found}
    halves = [score.sentences(half) for half in ("tuning", "test")]
    assert {n for rows in halves for row in rows for n in row["right"]} <= names
    owners = [{score.owner(row["source"]) for row in rows} for rows in halves]
    assert owners[0] & owners[1] == set()


@pytest.mark.parametrize("kind", ["condition", "treatment"])
def test_every_component_is_found_by_its_own_words(index, found, kind):
    lost = []
    for document in (d for d in found if d.kind == kind):
        first = [match.name for match in index.search(f"{document.title} {document.says}", kind, limit=3)]
        if document.name not in first:
            lost.append(document.name)
    assert lost == []


def test_phrases_belong_to_components_and_are_not_repeated():
    for kind in ("condition", "treatment"):
        files = [path for path in phrase_folder().joinpath(kind).iterdir()]
        assert {path.name.removesuffix(".txt") for path in files} <= components(kind).keys()
        for path in files:
            lines = path.read_text("utf-8").splitlines()
            assert all(lines) and len(set(lines)) == len(lines), path.name


def test_kind_and_limit_restrict_and_scores_fall(index):
    matches = index.search("critic stops learning at a high replay ratio", limit=10)
    assert {"loss-of-plasticity", "dormant-units"} <= {match.name for match in matches[:3]}
    assert {match.kind for match in matches} >= {"condition", "paper"}
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
    papers = index.search("critic stops learning at a high replay ratio", "paper", limit=2)
    assert [match.kind for match in papers] == ["paper", "paper"]


def test_a_treatment_and_a_paper_are_found_by_what_they_do(index):
    assert index.search("reset dead neurons during training")[0].name == "redo"
    assert index.search("early warning signals before a tipping point", limit=1)[0].kind == "paper"


def test_misspelt_words_still_help(index):
    assert index.search("catastrofic forgeting")[0].name == "forgetting"


def test_bad_queries_say_what_to_do(index):
    for symptom in ("", "  ", "?!", "the of and"):
        with pytest.raises(BadInput, match="a few words"):
            index.search(symptom)
    with pytest.raises(BadInput, match="at least 1"):
        index.search("loss is nan", limit=0)
    with pytest.raises(BadInput, match="condition, treatment, paper"):
        index.search("loss is nan", "vital")


def test_stems_take_names_apart_and_keep_negations():
    assert stems("zero_grad nn.CrossEntropyLoss isn't improving") == stems(
        "zero grad NN cross entropy loss not improved"
    )
    assert "=flat&loss" in features("the loss doesn't decrease")
    assert "=flat&loss" not in features("the loss decreases")


def test_stored_documents_are_read_until_a_file_changes(found, cache, monkeypatch):
    assert load_documents(cache) == found
    stored = json.loads(cache.read_text("utf-8"))
    stored["documents"] = stored["documents"][:1]
    cache.write_text(json.dumps(stored))
    assert load_documents(cache) == found[:1], "the file is used"
    stored["fingerprint"] = "of other code"
    for broken in (json.dumps(stored), "{", "[]"):
        cache.write_text(broken)
        monkeypatch.setattr("homeostat.find.documents.collect", lambda: found[:2])
        assert load_documents(cache) == found[:2]
    cache.unlink()
    monkeypatch.undo()
    assert load_documents(cache) == found


def test_a_folder_that_cannot_be_written_does_no_harm(found, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("homeostat.find.documents.collect", lambda: found[:1])
    assert load_documents(tmp_path / "file" / "find.json") == found[:1]


def test_documents_without_phrases_can_be_searched_too():
    bare = [
        Document("condition", "thin-ice", "The ice is thin.", (), "cracks appear in the ice", "thin ice", "untested")
    ]
    spoken = Document("treatment", "salt", "Strew salt.", ("slippery road",), "", "salt", "holds", ("thin-ice",))
    index = SymptomIndex([*bare, spoken])
    assert [match.name for match in index.search("cracks in the ice")] == ["thin-ice"]
    (salt,) = index.search("the road is slippery", limit=1)
    assert (salt.verdict, salt.why) == ("holds", 'close to "slippery road" (against thin-ice): strew salt.')


def test_command_prints_reasons_verdicts_and_json(invoke):
    shown = invoke("policy", "becomes", "deterministic", "early", "--limit", "3").stdout
    assert "1. policy-entropy-collapse  condition" in shown and "remedies: " in shown and "close to " in shown
    rows = json.loads(invoke("loss is nan", "--json", "--kind", "condition", "--limit", "2").stdout)
    assert [row["name"] for row in rows][:1] == ["non-finite"] and len(rows) <= 2
    assert all({"kind", "name", "score", "why", "verdict"} == set(row) for row in rows)


def test_command_says_when_nothing_is_found(invoke):
    shown = invoke("qwertz", "nevron").stdout
    assert "nothing is like 'qwertz nevron'" in shown and "did you mean neuron" in shown and "loss is nan" in shown
    assert json.loads(invoke("qwertz", "--json").stdout) == []
    assert "a few words" in invoke("", code=2).stderr


def test_command_names_the_extra_if_scikit_learn_is_missing(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction", None)
    assert "pip install 'homeostat[find]'" in invoke("loss is nan", code=2).stderr


def test_search_with_stored_documents_does_not_import_torch(cache, found):
    code = "import sys; from homeostat.find import find; assert find('loss is nan'); print('torch' in sys.modules)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr[-1000:]
