"""`homeostat run` against `python`: the same script must not be able to tell the difference."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HOMEOSTAT = str(Path(sys.executable).with_name("homeostat"))
PLAIN = (sys.executable,)
RUN = (sys.executable, HOMEOSTAT, "run", "--quiet")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def launch(command, folder: Path, *args: str, stdin: str = "", **environment: str):
    env = {k: v for k, v in os.environ.items() if not k.startswith("HOMEOSTAT_")} | environment
    return subprocess.run(
        [*command, *args], cwd=folder, env=env, input=stdin, capture_output=True, text=True, timeout=60
    )


def both(folder: Path, *args: str, stdin: str = "", **environment: str):
    """The outcome under python, after checking that it is the outcome under `homeostat run` too."""
    plain = launch(PLAIN, folder, *args, stdin=stdin, **environment)
    ours = launch(RUN, folder, *args, stdin=stdin, **environment)
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, plain.returncode)
    return plain


FACTS = """
    import os, sys, warnings
    print(sys.argv, sys.path[0], os.getcwd(), sys.stdin.read())
    print(sorted(globals()), __name__, __file__, getattr(__spec__, "name", __spec__), __package__, __doc__, __cached__)
    print(type(__loader__).__name__)
    print(type(__builtins__), sys.modules["__main__"].__dict__ is globals(), sys.flags, sys.excepthook)
    print(warnings.filters, "torch" in sys.modules, "numpy" in sys.modules, sys.stdout.line_buffering)
    warnings.warn("seen, because this is __main__", DeprecationWarning)
"""


def test_a_script_sees_what_it_would_see_under_python(tmp_path):
    write(tmp_path, "deep/facts.py", FACTS)
    args = ("--json", "-o", "x", "-m", "y", "--help", "--", "-q", "--treat", "redo")
    outcome = both(tmp_path, "deep/facts.py", *args, stdin="piped")
    assert str(["deep/facts.py", *args]) in outcome.stdout
    assert "piped" in outcome.stdout


def test_a_module_sees_what_it_would_see_under_python(tmp_path):
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/facts.py", FACTS + "\n    from . import sibling\n")
    write(tmp_path, "package/sibling.py", "import sys; sys.exit(3)")
    assert both(tmp_path, "-m", "package.facts", "--json", "-m").returncode == 3
    assert both(tmp_path, "-m", "package.missing").returncode == 1


def test_folders_and_zip_files_run_like_scripts(tmp_path):
    write(tmp_path, "folder/__main__.py", FACTS)
    both(tmp_path, "folder", "-x")


def test_double_dash_and_python_dash_m(tmp_path):
    write(tmp_path, "args.py", "import sys; print(sys.argv, sys.path[0] == sys.argv[1])")
    command = (sys.executable, "-m", "homeostat", "run", "-q", "--")
    assert launch(command, tmp_path, "args.py", str(tmp_path), "--x").stdout == (
        f"{['args.py', str(tmp_path), '--x']} True\n"
    )


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('told in words')", 1),
        ("sys.exit([1, 2])", 1),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2); time.sleep(9)", -signal.SIGINT),
        ("sys.excepthook = lambda *e: print('own hook', e[1], e[2].tb_lineno); raise KeyError('x')", 1),
        ("x = = 1", 1),
    ],
)
def test_every_way_to_end_is_kept(tmp_path, ending, code):
    script = "import atexit, os, signal, sys, time\natexit.register(print, 'at exit')\nprint('before', flush=True)\n"
    write(tmp_path, "end.py", script + ending)
    assert both(tmp_path, "end.py").returncode == code


def test_tracebacks_are_the_scripts_own(tmp_path):
    write(
        tmp_path,
        "crash.py",
        """
        import helper
        def inner():
            helper.fail()
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("second") from error
        """,
    )
    write(tmp_path, "helper.py", "def fail():\n    raise ValueError('first')\n")
    assert "RuntimeError: second" in both(tmp_path, "crash.py").stderr
    assert "RuntimeError: second" in both(tmp_path, "-m", "crash").stderr


def test_files_beside_the_script_win_over_what_homeostat_has_imported(tmp_path):
    write(tmp_path, "profile.py", "import statistics, click_like, rich\nprint(statistics.mine, rich.mine, __name__)")
    for name in ("statistics", "click_like", "rich", "homeostat_helper"):
        write(tmp_path, f"{name}.py", "mine = __file__")
    both(tmp_path, "profile.py")


def test_a_script_may_be_called_homeostat(tmp_path):
    write(tmp_path, "homeostat.py", "print(__name__)")
    assert both(tmp_path, "homeostat.py").stdout == "__main__\n"


def test_pickle_spawn_and_fork(tmp_path):
    write(
        tmp_path,
        "children.py",
        """
        import multiprocessing, os, pickle, sys
        class Mine:
            def __eq__(self, other): return type(self) is type(other)
        def child(queue):
            queue.put((Mine(), [n for n in sys.modules if n.startswith("homeostat.shell")]))
        if __name__ == "__main__":
            assert pickle.loads(pickle.dumps(Mine())) == Mine()
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            print(queue.get() == (Mine(), []))
            process.join()
            if (pid := os.fork()) == 0:
                print("child ends by running off the end", flush=True)
            else:
                os.waitpid(pid, 0)
        """,
    )
    assert both(tmp_path, "children.py").stdout == "True\nchild ends by running off the end\n"
    told = launch(RUN[:-1], tmp_path, "children.py").stderr
    assert told.count("never imported torch") == 1


def test_switched_off_and_already_watched(tmp_path):
    write(tmp_path, "s.py", "import os; print(os.environ.get('HOMEOSTAT_ACTIVE'))")
    off = launch(RUN[:-1], tmp_path, "s.py", HOMEOSTAT_DISABLE="1")
    assert (off.stdout, off.stderr) == ("None\n", "")
    write(tmp_path, "outer.py", f"import subprocess; subprocess.run([{HOMEOSTAT!r}, 'run', 's.py'])")
    nested = launch(RUN[:-1], tmp_path, "outer.py")
    assert nested.stderr.count("is already measured; its child runs without Homeostat") == 1
    assert nested.stderr.count("never imported torch") == 1


def test_never_imported_torch_is_said_in_a_sentence(tmp_path):
    write(tmp_path, "plain.py", "print('no torch here')")
    ended = launch((*RUN[:-1], "--record", "runs", "--json", "out.json"), tmp_path, "plain.py")
    assert ended.stderr == "homeostat: plain.py never imported torch: nothing was measured\n"
    assert '"why": "the script never imported torch"' in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("trian.py",), "did you mean 'train.py'?"),
        (("python", "train.py"), "leave 'python' out"),
        (("-m",), "-m needs the name of a module"),
        (("--budget", "200%", "train.py"), "at most 100%"),
        (("--json", "train.py/x/y.json", "train.py"), "is in the way; choose another place"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_the_script_starts(tmp_path, args, said):
    write(tmp_path, "train.py", "print('started')")
    ended = launch((HOMEOSTAT, "run"), tmp_path, *args)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert said in ended.stderr
    assert not (tmp_path / "homeostat-runs").exists()


def test_a_console_script_is_found_on_the_path(tmp_path):
    bin = tmp_path / "bin"
    write(bin, "my-train", f"#!{sys.executable}\nimport sys; print(sys.argv[1:], __name__)").chmod(0o755)
    path = f"{bin}{os.pathsep}{os.environ['PATH']}"
    assert launch(RUN, tmp_path, "my-train", "-x", PATH=path).stdout == "['-x'] __main__\n"


def test_help_is_fast_and_imports_no_torch(tmp_path):
    began = time.perf_counter()
    ended = launch((HOMEOSTAT,), tmp_path, "--help")
    assert ended.returncode == 0
    assert time.perf_counter() - began < 5  # importing torch alone takes about 2 s; the machine may be busy
    loaded = launch(PLAIN, tmp_path, "-c", "import sys, homeostat.cli; print({'torch', 'numpy'} & set(sys.modules))")
    assert loaded.stdout == "set()\n"
