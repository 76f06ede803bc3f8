"""`homeostat metrics`: a table and a record of the same scores give the same numbers, and what is missing says why."""

import json
import re

import pytest
from typer.testing import CliRunner

from homeostat.cli import app
from homeostat.record import RunRecord

# a: 0.9 after its training, down to 0.4 and back to 0.5 while b is trained
EVALUATIONS = [(10, "a", "a", 0.9), (12, "b", "a", 0.4), (20, "b", "a", 0.5), (20, "b", "b", 0.8)]


def metrics(*args, code=0):
    result = CliRunner().invoke(app, ["metrics", *map(str, args)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def values(*args) -> dict:
    found = json.loads(metrics(*args, "--json").stdout)["metrics"]
    return {metric["name"]: metric["value"] for metric in found}


@pytest.fixture
def table(tmp_path):
    return written(tmp_path, "scores.csv", "step,training,task,accuracy", EVALUATIONS)


def written(folder, name, header, rows):
    path = folder / name
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_a_record_and_a_table_of_the_same_scores_agree(table, tmp_path):
    made = RunRecord.create(tmp_path, script="train.py", seed=0)
    made.add_vitals((step, "task-accuracy", task, value) for step, _, task, value in EVALUATIONS)
    made.add_boundary(10, "b")
    made.close()
    found = values(table)
    assert values("last", "--record", tmp_path) == pytest.approx(found)
    expected = {"average-accuracy": 0.65, "forgetting": 0.4, "backward-transfer": -0.4, "minimum-accuracy": 0.4,
                "worst-case-accuracy": 0.6, "stability-gap-depth": 0.5, "performance-maintenance": -0.4,
                "forward-transfer": None}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_evaluations_before_any_training_give_forward_transfer(tmp_path):
    rows = [(0, "", "b", 0.1), (10, "a", "b", 0.3), *EVALUATIONS]
    found = values(written(tmp_path, "s.csv", "step,training,task,accuracy", rows))
    assert found["forward-transfer"] == pytest.approx(0.2)
    assert found["forward-transfer-contrast"] == pytest.approx(0.5)


def test_learning_experiences_and_experts_give_relative_performance(tmp_path):
    rows = [(0, "train", "a", 0.2), (1, "train", "a", 0.4), (2, "test", "a", 0.4), (2, "test", "a", 0.6),
            (3, "train", "b", 0.5), (4, "test", "a", 0.1), (5, "train", "a", 0.6)]  # fmt: skip
    log = written(tmp_path, "log.csv", "exp_num,block_type,task_name,reward", rows)
    experts = written(tmp_path, "experts.csv", "task,run,reward", [("a", 0, 0.4), ("a", 0, 0.8), ("a", 0, 1.2)])
    found = values(log, "--expert", experts)
    assert found["relative-performance"] == pytest.approx(0.5)
    assert found["performance-maintenance"] == pytest.approx(0.1 - 0.5)
    assert found["forgetting"] is None  # a is trained twice
    assert "task 'a' is trained more than once" in re.sub(r"\s+", " ", metrics(log).output)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("step,task,accuracy", "1,a,0.5", "add a column `training`"),
        ("step,training,accuracy", "1,a,0.5", "no column `task` or `task_name`; it has step, training, accuracy"),
        ("step,training,task,accuracy", "1,a,a,high", "line 2: 'high' is no number"),
        ("step,training,task,accuracy", "1,a,a,inf", "line 2: the score is infinite"),
        ("step,training,task,accuracy", "1,a,,0.5", "line 2: no task is given"),
        ("step,training,task,accuracy", ",a,a,0.5", "line 2: steps must be given and must not fall, got none"),
        ("step,training,task,accuracy", "1,a,a,", "has no scores"),
        ("step,training,task,accuracy", "1,,a,0.5", "name no task that was trained"),
        ("step,kind,task,accuracy", "1,exam,a,0.5", "line 2: kind is train or test, not 'exam'"),
        ("", "", "no header"),
    ],
)
def test_a_table_that_is_not_understood_is_one_line_that_says_why(header, row, message, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(f"{header}\n{row}\n" if header else "")
    assert message in metrics(path, code=2).output


def test_an_unknown_column_suggests_the_nearest(table):
    assert "did you mean 'accuracy'?" in metrics(table, "--score", "acuracy", code=2).output
    assert "cannot read" in metrics(table.with_name("none.csv"), code=2).output
