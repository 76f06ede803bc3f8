"""What the README and the docs show can be typed as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def a_training_run() -> dict[str, object]:
    """What a reader has before the examples begin: a model, its optimizer, a loss and some batches."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    batches = [(torch.randn(32, 8, generator=generator), torch.arange(32) % 3) for _ in range(20)]
    optimizer = torch.optim.Adam(model.parameters())
    return {"model": model, "optimizer": optimizer, "loss_fn": nn.CrossEntropyLoss(), "loader": batches}


@pytest.mark.parametrize("page", ["README.md", "docs/catalogue.md"])
def test_python_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = a_training_run()
    for code in blocks((ROOT / page).read_text("utf-8"), "python"):
        if "def test_" not in code:
            exec(code, names)
        if "run.report" in code:
            assert (tmp_path / "report.html").stat().st_size > 1000
    if (run := names.get("run")) is not None:
        run.detach()  # type: ignore[attr-defined]


COMMANDS = sorted(set(re.findall(r"homeostat ([a-z]+)([^\n#`]*)", "\n".join(p.read_text("utf-8") for p in PAGES))))


@pytest.mark.parametrize(("name", "tail"), COMMANDS, ids=lambda part: part.strip() or "-")
def test_commands_and_their_options_exist(name, tail):
    from homeostat.cli import app

    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    asked = re.findall(r"(?<!\S)--[a-z]+", tail.partition(".py")[0])
    assert [option for option in asked if option not in shown.output] == []


def test_the_first_example_prints_what_the_readme_shows(tmp_path):
    shown = blocks((ROOT / "README.md").read_text("utf-8"), "")[1]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "homeostat", "run", str(ROOT / "examples" / "softmax_twice.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "epoch 9" in done.stdout
    printed = re.sub(r"since step \d+", "", done.stderr)
    assert shown.count("\n") > 5
    assert [line for line in re.sub(r"since step \d+", "", shown).splitlines() if line not in printed] == []


def test_every_page_is_found_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index] == []
