# make demo: train, export and reload a small model on scikit-learn's digits.   make test: lint and all tests.
# Both make the virtual environment .venv with the versions of tests/constraints.txt, which are the tested ones.
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(VENV)/bin/iebn-zoo demo --output demo_run --overwrite

test: lint
	$(VENV)/bin/python -m pytest -n 2 --dist loadscope

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .

$(INSTALLED): pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint tests/constraints.txt --editable '.[test,demo]'
	touch $@

clean:
	rm -rf $(VENV) demo_run build dist
