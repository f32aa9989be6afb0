# make train    learns the demo game from pixels and leaves agent, video, curve and dream in runs/
# make test     ruff, mypy and pytest, a worker per core (ARGS='-n 0' for one process, as a debugger needs)
# make gpu      the tests that need a CUDA device, and what an update and a whole run take there
# make docs     the documentation as a site, in site/
# Each sets up .venv on its first call. PYTHON=python3.12 picks another interpreter.

PYTHON ?= python3
TASK ?= hd_agents/Catch-v0
STEPS ?=
ARGS ?=

comma := ,
suite := $(if $(filter ALE/% atari100k/%,$(TASK)),$(comma)atari)\
$(if $(filter dm_control/% dmc_%,$(TASK)),$(comma)dmc)\
$(if $(filter Meta-World/% metaworld/%,$(TASK)),$(comma)metaworld)
train_extras := train$(strip $(suite))

DEVICE ?= cuda

.PHONY: help train test gpu docs clean
.DELETE_ON_ERROR:

help:
	@echo "make train [TASK=$(TASK)] [STEPS=n] [ARGS='--seed 1 --set key=value']"
	@echo "make test  [ARGS='-m slow -k cartpole']"
	@echo "make gpu   [DEVICE=cuda:1]"
	@echo "make docs"
	@echo "make clean   removes .venv and the tools' caches; runs/ stays"

train: .venv/ready-$(train_extras)
	.venv/bin/hd-agents train $(TASK) $(if $(STEPS),--steps $(STEPS)) $(ARGS)

test: .venv/ready-dev
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -n auto --dist loadfile $(ARGS)

# One that fails keeps none of the others from telling what it finds.
gpu: .venv/ready-dev
	@trap 'exit 130' INT; failed=0; try() { echo "$$*"; "$$@" || failed=1; }; \
	try .venv/bin/pytest -m gpu $(ARGS); \
	try .venv/bin/python benchmarks/update.py nano cpu-small atari100k metaworld \
		--precision float32 bfloat16 --device $(DEVICE); \
	try .venv/bin/python benchmarks/train_loop.py --device $(DEVICE); \
	try .venv/bin/hd-agents check atari100k/pong --device $(DEVICE); \
	exit $$failed

docs: .venv/ready-docs
	.venv/bin/mkdocs build

.venv/bin/pip:
	sh scripts/system_packages.sh venv $(PYTHON)
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# Missing rendering libraries stop nothing here: only MuJoCo's tasks draw with them.
.venv/ready-rendering: | .venv/bin/pip
	sh scripts/system_packages.sh rendering
	touch $@

.venv/ready-%: setup.cfg pyproject.toml constraints.txt | .venv/bin/pip .venv/ready-rendering
	.venv/bin/pip install --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf .venv build site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
