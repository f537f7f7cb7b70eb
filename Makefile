# Everything starts from a bare clone: the first command makes .venv, later ones find it as it is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help run test lint notebook results systems drawings badge clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED) ## run notebooks/S7.ipynb; the executed notebook and an HTML page go to out/
	$(BIN)/python notebooks/run.py notebooks/S7.ipynb --out out

test: $(INSTALLED) lint ## all tests, the notebooks' own run among them
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --doctest-modules tests utils benchmarks
	$(BIN)/python -m pytest -q --nbval --nbval-current-env --nbval-cell-timeout 4000 notebooks

lint: $(INSTALLED) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

NOTEBOOK ?= S7
notebook: $(INSTALLED) ## run S7.ipynb (or NOTEBOOK=compare) and keep the outputs in the notebook itself
	$(BIN)/python notebooks/run.py notebooks/$(NOTEBOOK).ipynb --out out --keep

results: $(INSTALLED) ## train the default recipe with 20 seeds; CSV and README table (resumable, hours on two cores)
	$(BIN)/python benchmarks/seeds.py --seeds 20

systems: $(INSTALLED) ## train the five systems and ours, in full (resumable, hours), but for what is kept; README tables
	$(BIN)/python benchmarks/systems.py

drawings: $(INSTALLED) ## draw every network into images/ (needs Graphviz's program dot)
	for model in $$($(BIN)/python -c 'from utils import MODELS; print(*MODELS)'); do \
		$(BIN)/python -m utils draw $$model --out images/$$model.svg || exit; \
	done

badge: $(INSTALLED) ## set the repository's address everywhere: make badge REPO=owner/name
	$(BIN)/python notebooks/badge.py $(REPO)

clean: ## remove .venv and everything that runs have made here
	rm -rf $(VENV) out runs .pytest_cache .ruff_cache

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or later is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
