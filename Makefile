# make demo: see it work. make test: check that it does. Both install what they need into .venv.
PYTHON ?= python3
ARITHMETIC = tests/test_runner.py tests/test_export.py tests/test_fused.py tests/test_openvino.py
# Most of 26,000 modules are never imported; Python compiles those that are.
PIP = .venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check

.PHONY: demo test test-all test-avx2 check format bench clean

demo: .venv/demo
	.venv/bin/recondite demo --output demo

test: .venv/dev
	.venv/bin/python -m pytest

# With those marked as slow.
test-all: .venv/dev
	.venv/bin/python -m pytest -m ""

# What depends on the arithmetic of a processor, with torch's and OpenVINO's kernels held to AVX2.
test-avx2: .venv/dev
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
		.venv/bin/python -m pytest -m arithmetic -n 2 $(ARITHMETIC)

check: .venv/dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: .venv/dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: .venv/dev
	.venv/bin/python benchmarks/reference_systems.py mnist-fast
	.venv/bin/python benchmarks/false_alarm_rate.py
	.venv/bin/python benchmarks/damaged_folder.py
	.venv/bin/python benchmarks/growth.py --images 1000,10000
	.venv/bin/python benchmarks/folder.py
	.venv/bin/python benchmarks/peers.py

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info

# torch comes first and by its exact version: a looser request may bring gigabytes of GPU libraries along.
.venv/torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Recondite needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

.venv/demo: .venv/torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[demo]'
	touch $@

# timm without torchvision: PyPI's is built for CUDA, cannot be imported beside a torch for processors alone, and
# transformers fails with it. The tests of timm stand in for it where it is missing.
.venv/dev: .venv/torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[dev]'
	$(PIP) --no-deps "$$(grep '^timm==' constraints.txt)"
	touch $@ .venv/demo
