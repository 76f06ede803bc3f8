"""Rules for every module and every component of the project."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import homeostat
from homeostat.core.component import PACKAGES, Cite, cites, components, kinds

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
SOURCES = sorted(SRC.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


TEXT = {module_name(path): path.read_text("utf-8") for path in SOURCES}
# Integrations are thin covers over libraries that need not be there; `__main__` would start the program.
MODULES = [n for n in TEXT if ".integrations." not in n and not n.endswith("__main__")]
COMPONENTS = [c for kind in kinds() for c in components(kind).values() if c.__module__.startswith("homeostat.")]
EXTRAS = {
    "scipy",
    "sklearn",
    "jinja2",
    "starlette",
    "uvicorn",
    "stable_baselines3",
    "gymnasium",
    "pandas",
    "matplotlib",
    "tensorboard",
    "wandb",
    "mlflow",
    "trackio",
    "apprise",
    "pyarrow",
    "lightning",
    "transformers",
    "accelerate",
}


def by_name(component: type) -> str:
    return f"{component.kind}-{component.name}"


def is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_and_its_public_names_are_real_sorted_and_single(name):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    if public is None:
        return
    order = sorted(public, key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    assert [n for n in public if not n.startswith("__")] == [n for n in order if not n.startswith("__")]
    assert len(set(public)) == len(public)
    assert [n for n in public if not hasattr(module, n) and not is_module(f"{name}.{n}")] == []


def test_every_component_for_users_is_exported_by_its_package():
    kinds_for_users = ("vital", "treatment", "controller", "objective", "stream", "curve")
    missing = []
    for component in (c for c in COMPONENTS if c.kind in kinds_for_users):
        package = importlib.import_module(".".join(component.__module__.split(".")[:2]))
        if component.__name__ not in package.__all__ or getattr(package, component.__name__) is not component:
            missing.append(component.__name__)
    assert missing == []


def test_every_package_that_offers_names_lists_them():
    packages = {module_name(path) for path in SOURCES if path.name == "__init__.py"}
    assert [n for n in sorted(packages) if offers_names(TEXT[n]) and "__all__" not in TEXT[n]] == []


def offers_names(text: str) -> bool:
    return any(isinstance(n, ast.ImportFrom) and (n.module or "").startswith("homeostat") for n in ast.parse(text).body)


def test_no_two_classes_have_one_name():
    found: dict[str, list[str]] = {}
    for name, text in TEXT.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(name)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_every_module_says_what_it_is_for():
    assert [name for name, text in TEXT.items() if not ast.get_docstring(ast.parse(text))] == []


def test_no_file_is_longer_than_400_lines():
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_text_names_no_place_outside_the_project():
    pages = [*SOURCES, *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py"), ROOT / "CHANGELOG.md"]
    places = re.compile(r"/(?:work|root|home)/|/tmp/[a-z]")
    assert [str(page.relative_to(ROOT)) for page in pages if places.search(page.read_text("utf-8"))] == []


def test_imports_point_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_base_install_is_enough_to_import_everything():
    """The extras are loaded where they are used, never by an import of the package or of its components."""
    code = (
        "import importlib, sys; from homeostat.core.component import discover; discover();"
        f"[importlib.import_module(n) for n in {MODULES!r}];"
        f"print(sorted({EXTRAS!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("component", COMPONENTS, ids=by_name)
def test_component_cites_explains_and_shows_itself(component):
    assert component.__module__.startswith(f"homeostat.{PACKAGES[component.kind]}."), "it is looked for there"
    found = cites(component)
    assert found
    for cite in found:
        assert isinstance(cite, Cite)
        assert cite.authors
        assert cite.title
        assert 1900 < cite.year < 2100
        assert cite.arxiv == "" or re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}", cite.arxiv)
    doc = component.__dict__.get("__doc__") or ""
    assert len(doc.split()) >= 8, "a component's docstring says what it does"
    assert not doc.startswith(f"{component.__name__}("), "a docstring of its own, not the one dataclasses make"
    assert ">>>" in doc or f"`{component.name}`" in DOCS, "an example in the docstring, or a place in the docs"


DOCS = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("component", COMPONENTS, ids=by_name)
def test_component_states_where_its_numbers_come_from(component):
    unsourced = [name for name, spec in component.knob_specs().items() if spec.source in ("", "guess")]
    unknown = [name for name, reason in component.declared.items() if not reason.strip()]
    assert unsourced == []
    assert unknown == []


@pytest.mark.parametrize("name", [n for n in MODULES if ">>>" in TEXT[n]])
def test_examples_in_docstrings_work(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_version_is_told_once():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{homeostat.__version__}"' in text
    assert f"## [{homeostat.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_links_inside_the_documents_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    dead = []
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)} -> {target}")
    assert dead == []
