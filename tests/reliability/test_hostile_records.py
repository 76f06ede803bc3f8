"""Whatever a record holds, every command gives it or refuses it in one line, and `runs` lists the others.

`python benchmarks/hostile_records.py` tries 10,000 of them.
"""

import io
import json
import os
import re
from contextlib import redirect_stderr, redirect_stdout

import hostile_records as hostile
import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from typer.main import get_command

from homeostat.cli import app
from homeostat.record import RunRecord, json_schema
from homeostat.report import page as pages

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # long values are meant
COMMAND = get_command(app)
READERS = (["findings"], ["findings", "--json"], ["report", "--json"], ["report", "--out", "page.html"])
SCHEMA = jsonschema.Draft202012Validator(json_schema())
STRICT = json.JSONDecoder(parse_constant=pytest.fail)


def invoke(*args):
    """Exit code, stdout and stderr of a command; what it raises comes out."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = COMMAND.main(list(args), prog_name="homeostat", standalone_mode=False)
    return code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    return hostile.template(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one good record; pages are written without the plotting library."""
    folder = tmp_path_factory.mktemp("records")
    RunRecord.create(folder, script="good.py").close()
    here, patch = os.getcwd(), pytest.MonkeyPatch()
    patch.setattr(pages, "BUNDLE", "page.js")
    os.chdir(folder)
    yield folder
    os.chdir(here)
    patch.undo()


def with_examples(test):
    for changes in hostile.EXAMPLES:
        test = example(changes=changes)(test)
    return test


def trying(count):
    return settings(deadline=None, max_examples=count, suppress_health_check=list(HealthCheck))


@with_examples
@given(changes=hostile.CHANGES)
@trying(100)
def test_every_reader_gives_a_record_or_refuses_it_in_one_line(made, folder, changes):
    try_readers(made, folder, changes)


@pytest.mark.thorough
@given(changes=hostile.CHANGES)
@trying(int(os.environ.get("HOSTILE_RECORDS", 1000)))
def test_every_reader_gives_many_records_or_refuses_them_in_one_line(made, folder, changes):
    try_readers(made, folder, changes)
    counted = os.environ.get("HOSTILE_RECORDS_COUNTED")
    if counted:
        with open(counted, "ab") as file:
            file.write(b".")


def try_readers(made, folder, changes):
    path = folder / "20260101-000000-hostile-0000.sqlite"
    hostile.write(path, *made, changes)
    for args in READERS:
        code, out, err = invoke(args[0], str(path), *args[1:])
        assert code in (0, 2) and "Traceback" not in out + err
        if code == 2:
            assert re.fullmatch(r"homeostat: [^\n\x1b]{20,600}\n", err), err
        elif "--json" in args:
            STRICT.decode(out)
        assert "\x1b" not in out
        if code == 0 and args[:2] == ["report", "--json"]:
            SCHEMA.validate(json.loads(out))
        if code == 0 and "--out" in args:
            harmless((folder / "page.html").read_text())
    code, out, err = invoke("runs", "--record", str(folder), "--json")
    assert code == 0 and any(run["script"] == "good.py" for run in STRICT.decode(out)["runs"])
    assert invoke("runs", "--record", str(folder))[0] == 0


def harmless(text):
    """No element of the page comes from the record."""
    assert "<script>alert" not in text and "<img" not in text
