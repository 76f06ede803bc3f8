"""The sources run no code that comes from data: no pickle, no eval, no shell."""

import ast
from pathlib import Path

import pytest

import homeostat

SRC = Path(homeostat.__file__).parent
RUNS_SCRIPTS = "shell/launch/program.py"
"""The file that runs the user's script."""
ROUND_TRIPS = "testing/"
"""The laws save an object and load what they saved."""
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "joblib"}
CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "subprocess.getoutput", "numpy.load", "np.load"}


def dangers(source):
    """What a source does that could run code from data: (line, what)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, f"import {a.name}") for a in node.names if a.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append((node.lineno, f"from {node.module}"))
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [(node.lineno, name)] * (name in CALLS or name.startswith("pickle."))
            shell = [ast.unparse(k.value) for k in node.keywords if k.arg == "shell"]
            found += [(node.lineno, "a shell")] * (shell not in ([], ["False"]))
    return found


def test_no_source_runs_code_from_data():
    found = {}
    for path in SRC.rglob("*.py"):
        name = path.relative_to(SRC).as_posix()
        allowed = ("exec",) if name == RUNS_SCRIPTS else ("import pickle", "pickle.loads", "pickle.dumps", "torch.load")
        if name == RUNS_SCRIPTS or name.startswith(ROUND_TRIPS):
            rest = [danger for danger in dangers(path.read_text()) if danger[1] not in allowed]
        else:
            rest = dangers(path.read_text())
        found |= {name: rest} if rest else {}
    assert found == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from yaml import load", "eval('1')", "import os; os.system('x')", "torch.load(f)",
     "subprocess.run('x', shell=True)", "run('x', shell=flag)", "def f():\n    import dill"],
)  # fmt: skip
def test_the_check_sees(source):
    assert dangers(source)
