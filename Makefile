# make compile         build MambaVision-S, compile it, check it against eager, measure; ARGS="--batch 16" and so on
# make test            all tests; ARGS="-k packaging" and so on
# make test-cpu-torch  the quick tests on the oldest torch supported, a CPU build without triton
# make lint            ruff's checks and formatting
# make bench           time the regression gate's cases with pytest-benchmark; ARGS as above
# make bench-model     measure against other models
# make bench-scan      measure the selective scan against other scans
# make bench-passes    measure the passes
# make bench-offline   GPU code without a GPU: launches and bytes beside stock Inductor's
# make bench-gpu       everything that this machine's GPU can tell, in 8 minutes; ARGS="--output DIR"
# make bench-regress   how often the regression gate errs on this machine: about an hour
# Each makes the virtual environment that it needs.

PYTHON ?= python3
ARGS ?=

# torch is pinned here, since one constraints file serves both builds. TORCH_CPU_INDEX may name a further index, of CPU
# builds, which are smaller; any build serves, since triton is taken out.
TORCH ?= torch==2.14.1
TORCH_CPU ?= torch==2.13.0
# The older numpy comes with the CPU build's tests: Apache Otava holds it at 2.2.0.
NUMPY ?= 'numpy==2.4.6; python_version >= "3.11"'
TORCH_CPU_INDEX ?=

# Constraints given through the environment also hold in the environment in which pip builds the package.
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt $(@D)/bin/python -m pip install
PINS = pyproject.toml constraints.txt Makefile

.PHONY: compile test test-cpu-torch lint bench bench-model bench-scan bench-passes bench-offline bench-gpu bench-regress

compile: .venv/installed
	.venv/bin/python -m mvc.compile --variant S $(ARGS)

test: .venv/installed-test
	.venv/bin/python -m pytest -n auto $(ARGS)

test-cpu-torch: .venv-cpu/installed-test
	.venv-cpu/bin/python -m pytest -n auto -m "not slow" $(ARGS)

lint: .venv/installed-ruff
	.venv/bin/ruff check
	.venv/bin/ruff format --check

bench: .venv/installed-bench
	.venv/bin/python -m pytest bench $(ARGS)

bench-model: .venv/installed-bench
	.venv/bin/python bench/model.py $(ARGS)

bench-scan: .venv/installed-bench
	.venv/bin/python bench/scan.py $(ARGS)

bench-passes: .venv/installed-bench
	.venv/bin/python bench/passes.py $(ARGS)

bench-offline: .venv/installed-test
	.venv/bin/python bench/offline.py --output bench/results/offline $(ARGS)

bench-gpu: .venv/installed-bench
	.venv/bin/python bench/gpu.py $(ARGS)

bench-regress: .venv/installed
	.venv/bin/python bench/regress_study.py $(ARGS)

.venv/installed: $(PINS) | .venv/bin/python
	$(PIP_INSTALL) $(TORCH) $(NUMPY) --editable '.[image]'
	touch $@

.venv/installed-test: .venv/installed
	$(PIP_INSTALL) $(TORCH) $(NUMPY) --editable '.[test]'
	touch $@

.venv/installed-bench: .venv/installed-test
	$(PIP_INSTALL) $(TORCH) $(NUMPY) --editable '.[bench]'
	touch $@

.venv/installed-ruff: $(PINS) | .venv/bin/python
	$(PIP_INSTALL) ruff
	touch $@

# Without timm, whose torchvision needs a newer torch, and without triton, should this torch have brought it; with
# Apache Otava, whose numpy the other build does not take.
.venv-cpu/installed-test: $(PINS) | .venv-cpu/bin/python
	$(PIP_INSTALL) $(TORCH_CPU) $(if $(TORCH_CPU_INDEX),--extra-index-url $(TORCH_CPU_INDEX)) --editable '.[test-core,history]'
	$(@D)/bin/python -m pip uninstall --yes triton
	touch $@

%/bin/python:
	$(PYTHON) -m venv $*
