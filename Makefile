# make compile       build MambaVision-S, compile it frozen for inference, check it against eager, measure; ARGS="--no-frozen"
# make test          all tests; ARGS="-k packaging" and so on
# make test-oldest   the tests of what a torch version can change, on the oldest one, but for the slow ones: with its
#                    triton, then without
# make test-newest   the same tests on the newest torch
# make fuzz          random programs with recurrences beside eager for a minute, from a seed that is the day's;
#                    ARGS="--seed 17 --show" for one
# make lint          ruff's checks and formatting
# make bench         time the regression gate's cases with pytest-benchmark; ARGS as above
# make bench-model   measure against other models
# make bench-scan    measure the selective scan against other scans
# make bench-passes  measure the passes
# make bench-recurrences  what the passes make of recurrences that others published; ARGS="--quick" times nothing
# make bench-offline GPU code without a GPU: launches and bytes beside stock Inductor's
# make bench-gpu     everything that this machine's GPU can tell, in 8 minutes; ARGS="--output DIR"
# make bench-regress how often the regression gate errs on this machine: about an hour
# Each makes the virtual environment that it needs.

PYTHON ?= python3
ARGS ?=

# torch is pinned here, since one constraints file serves every version; it brings its own triton.
TORCH ?= torch==2.14.1
TORCH_OLDEST ?= torch==2.11.0
TORCH_NEWEST ?= torch==2.15.0
NUMPY ?= 'numpy==2.4.6; python_version >= "3.11"'
NUMPY_OLDEST ?= numpy==2.2.0

# Constraints given through the environment also hold in the environment in which pip builds the package.
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt $(@D)/bin/python -m pip install
PINS = pyproject.toml constraints.txt Makefile
# Neighbouring tests stay in one process, since they share what a module's fixtures build.
PYTEST = python -m pytest -n auto --dist worksteal --durations 15
# The processes share the cores: threads sleep while they wait, each process compiles alone, and processors are taken at
# their word on their vector instructions. The smoke run and a test of its own have torch's defaults.
test test-oldest test-newest: export OMP_WAIT_POLICY = passive
test test-oldest test-newest: export TORCHINDUCTOR_COMPILE_THREADS = 1
test test-oldest test-newest: export TORCHINDUCTOR_VEC_ISA_OK = 1

.PHONY: compile test test-oldest test-newest fuzz lint bench bench-model bench-scan bench-passes bench-recurrences bench-offline bench-gpu bench-regress

compile: .venv/installed
	.venv/bin/python -m mvc.compile --variant S $(ARGS)

test: .venv/installed-test
	.venv/bin/$(PYTEST) $(ARGS)

# The environment is installed anew when it is next asked for, since triton is then missing. What tests/passes rewrites
# on a CPU does not depend on it.
test-oldest: .venv-oldest/installed-test
	.venv-oldest/bin/$(PYTEST) -m "versions and not slow" $(ARGS)
	rm $<
	.venv-oldest/bin/python -m pip uninstall --yes triton
	.venv-oldest/bin/$(PYTEST) -m "versions and not slow" --ignore tests/passes $(ARGS)

test-newest: .venv-newest/installed-test
	.venv-newest/bin/$(PYTEST) -m versions $(ARGS)

fuzz: .venv/installed-test
	.venv/bin/python tests/program_fuzz.py --seed "$$(date -u +%Y%m%d)000" --seconds 60 $(ARGS)

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

bench-recurrences: .venv/installed-bench
	.venv/bin/python bench/recurrences.py $(ARGS)

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

# Without timm, whose torchvision is made for one version of torch.
.venv-oldest/installed-test: $(PINS) | .venv-oldest/bin/python
	$(PIP_INSTALL) $(TORCH_OLDEST) $(NUMPY_OLDEST) --editable '.[test-core]'
	touch $@

.venv-newest/installed-test: $(PINS) | .venv-newest/bin/python
	$(PIP_INSTALL) $(TORCH_NEWEST) $(NUMPY) --editable '.[test-core]'
	touch $@

%/bin/python:
	$(PYTHON) -m venv $*
