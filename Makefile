# make demo: train, export and reload a small model on scikit-learn's digits.   make test: lint and all tests.
# make check: lint and the unit tests.
# All make the virtual environment .venv with the versions of tests/constraints.txt, which are the tested ones: the demo
# what it needs, the others also what the tests need.
# make lowest: a small set of the tests on the lowest versions that pyproject.toml promises (tests/lowest.txt).
# make gpu: everything that only a GPU can tell, in at most 8 minutes, with the torch and timm that PYTHON has.
#     make gpu PYTHON=python3 OUTPUT=gpu_results DATA=data/cifar100
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= gpu_results
# processes of the tests: one more than two cores have, as a test waits for the programs that it starts
WORKERS ?= 3
INSTALLED := $(VENV)/.installed
FOR_DEMO := $(VENV)/.installed_for_demo

.PHONY: demo check test lint lowest gpu clean

demo: $(FOR_DEMO)
	$(VENV)/bin/iebn-zoo demo --output demo_run --overwrite

check: lint
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadscope -m unit --durations=25

test: lint
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadscope --durations=25

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright --warnings

LOWEST := tests/layers tests/models tests/ops/test_reference.py tests/ops/test_fused.py tests/conversion/test_layers.py \
	tests/weights/test_readers.py tests/hub/package tests/training/run/test_checkpoint.py tests/training/test_train.py \
	tests/data/test_device_loader.py tests/data/test_transforms.py tests/test_import.py

lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable . pytest pytest-xdist hypothesis scikit-learn
	.venv-lowest/bin/python -m pytest -n 2 --dist loadscope -k 'not complex64' $(LOWEST)  # which safetensors 0.5 does not write

gpu:
	PYTHONPATH=$(CURDIR):$$PYTHONPATH $(PYTHON) -m iebn_zoo.studies.benchmark.gpu.check --output $(OUTPUT) $(if $(DATA),--data-dir $(DATA)) $(ARGS)

$(INSTALLED): pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint tests/constraints.txt --editable '.[test,demo]'
	touch $@ $(FOR_DEMO)

$(FOR_DEMO): pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint tests/constraints.txt --editable '.[demo]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest demo_run build dist
