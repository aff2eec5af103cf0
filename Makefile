# sixfold: the two commands of the README are `make generate SCALE=6x` and `make test`.
# Both make .venv when it is missing or older than the lock.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
SCALE ?= 6x
GIVEN := $(RECIPE)
RECIPE ?= recipes/sandbox.yaml
# without OUT each verb writes into a folder of the recipe's own name; it says which
to = $(if $(OUT),--out $(OUT))
# what `show` and `verify` read: OUT, or that folder
name = $(shell sed -n 's/^name: *["'\'']\{0,1\}\([a-z0-9-]*\).*/\1/p' $(RECIPE))
made = $(or $(OUT),$(addprefix out/,$(name)),$(error $(RECIPE): found no name of a recipe; give OUT=FOLDER))
SET ?=
# where it runs: local, slurm, ray://HOST:PORT, job:http://HOST:8265 or k8s
CLUSTER := local
ROWS ?=
SWEEP ?= recipes/sweeps/scale.yaml

# one lock for laptops, one for machines with an NVIDIA driver (xformers, torchao, and faiss-gpu for faiss-cpu)
LOCK := $(if $(shell command -v nvidia-smi 2>/dev/null),requirements-gpu.lock,requirements.lock)
# the caller's own choices of where packages go: set-up touches .venv alone
unexport UV_SYSTEM_PYTHON UV_PYTHON UV_PROJECT_ENVIRONMENT UV_BREAK_SYSTEM_PACKAGES UV_TARGET UV_PREFIX UV_PROJECT
unexport VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIRE_VIRTUALENV PYTHONHOME
unexport PYTHONDONTWRITEBYTECODE  # each of a hundred programs would compile our packages anew
# a checkout that was moved or copied is set up again: its environment names the old place
READY := .venv/.ready-$(LOCK)-$(shell pwd | cksum | cut -d ' ' -f 1)
RUN := .venv/bin/

# programs that pin packages below ours have environments of their own: img2dataset fetches pictures, clip-retrieval's
# client asks our server in tests
TOOLS := img2dataset clip-client
TOOL_READY := $(TOOLS:%=.tools/%/.ready-$(shell pwd | cksum | cut -d ' ' -f 1))

.DEFAULT_GOAL := help
.PHONY: help generate edit retrieve train sweep show verify tools test test-slow test-times lint torture bench bench-retrieve bench-gpu bench-stream quality ablate sandbox sandbox-score lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): $(LOCK) pyproject.toml
	@echo "setting up .venv from $(LOCK) (about a minute with a warm cache; 6 GB with the CUDA libraries)"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@cp .venv/bin/uv .venv/uv && .venv/uv pip sync --python .venv/bin/python --quiet --compile-bytecode $(LOCK)
	@.venv/uv pip install --python .venv/bin/python --quiet --no-deps --editable .
	@rm -f .venv/.ready-* && touch $@
	@echo "ready; \`source .venv/bin/activate\` puts the program sixfold on your path"

# `sixfold VERB`, here or handed over to where CLUSTER says
run = $(RUN)sixfold $(if $(filter local,$(CLUSTER)),$(1) $(2),submit $(1) $(2) --to $(CLUSTER)) $(3) $(SET)

generate: $(READY) ## make the images: SCALE=6x RECIPE=recipes/sandbox.yaml OUT=out/<its name> CLUSTER=slurm SET="key.sub=value"
	@$(call run,generate,$(RECIPE),--scale $(SCALE) $(to))

# $(1) is made before, where the recipe $(2) reads it
before = $(if $(shell grep -ls '$(3)' $(2)),$(1))
REAL := out/real/real-train/00000_stats.json
EDIT := $(or $(GIVEN),recipes/edit/sandbox.yaml)
edit: RECIPE = $(EDIT)
edit: SCALE = 1x
edit: $(READY) $(call before,$(REAL),$(EDIT),out/real) ## edit the sandbox's real images: SCALE=1x RECIPE=recipes/edit/sandbox.yaml OUT=out/<its name> SET="edit.attributes.feasibility=infeasible"
	@$(call run,edit,$(RECIPE),--scale $(SCALE) $(to))

POOL := out/pool/embeddings.json
# what is there was perhaps made by an older sandbox: a build keeps what it would make, and refuses the rest
SANDBOX := $(wildcard $(addprefix sandbox/,world.py splits.py captions.py sets.py pool.py))

$(REAL): $(SANDBOX) | $(READY)
	@$(RUN)python -m sandbox.build --data out/real
	@touch $@

$(POOL): $(SANDBOX) $(wildcard sandbox/models/clip/*.safetensors) | $(READY)
	@$(RUN)python -m sandbox.build --pool out/pool
	@$(RUN)sixfold embed out/pool --clip sandbox/models/clip --images
	@touch $@

# the pool and the test sets are those of the sandbox; another recipe names its own
RETRIEVE := $(or $(GIVEN),recipes/sandbox-retrieve.yaml)
retrieve: RECIPE = $(RETRIEVE)
retrieve: $(READY) $(call before,$(REAL),$(RETRIEVE),out/real) $(call before,$(POOL),$(RETRIEVE),out/pool) ## retrieve as many real images from a pool: SCALE=6x RECIPE=recipes/sandbox-retrieve.yaml OUT=out/<its name> SET="key.sub=value"
	@$(call run,retrieve,$(RECIPE),--scale $(SCALE) $(to))

TRAIN := $(or $(GIVEN),recipes/sandbox-train.yaml)
train: RECIPE = $(TRAIN)
train: $(READY) $(call before,$(REAL),$(TRAIN),out/real) ## train on the sandbox's real and 6x synthetic images (after make generate): OUT=out/train/<its name> CLUSTER=slurm SET="key.sub=value"
	@$(call run,train,$(RECIPE),$(to))

# a sweep names its data in its base
sweep: $(READY) $(call before,$(REAL),$(SWEEP),out/real\|sandbox) ## accuracy against scale, 0x to 6x, five seeds: SWEEP=recipes/sweeps/scale.yaml OUT=out/sweeps/<its name>
	@$(call run,sweep,$(SWEEP),$(to))

show: $(READY) ## write the gallery of OUT, by default out/<name of RECIPE>
	@$(RUN)sixfold show $(made)

verify: $(READY) ## read every byte of OUT, by default out/<name of RECIPE>, and name every damage
	@$(RUN)sixfold verify $(made)

$(TOOL_READY): .tools/%/.ready-$(shell pwd | cksum | cut -d ' ' -f 1): requirements-%.lock | $(READY)
	@echo "setting up .tools/$* from requirements-$*.lock (20 s with a warm cache; 0.8 GB)"
	@.venv/uv venv --quiet --clear --no-project --python .venv/bin/python .tools/$*
	@.venv/uv pip sync --python .tools/$*/bin/python --quiet --compile-bytecode requirements-$*.lock
	@touch $@

tools: $(TOOL_READY) ## set up img2dataset, which fetches the pictures of pools that hold addresses alone, and a client for tests

TEST := $(RUN)python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test: $(READY) $(TOOL_READY) ## pass the tests but the slow ones (about 9 minutes on 2 cores)
	@$(TEST) -m "not torture and not slow"

test-slow: $(READY) $(TOOL_READY) ## pass the tests that take some seconds each (about 25 minutes on 2 cores)
	@$(TEST) -m "slow and not torture"

test-times: $(READY) $(TOOL_READY) ## pass both, and write tests/slow.txt from the time that each took
	@$(TEST) -m "not torture" --write-slow

lint: $(READY) ## ruff, ruff format, mypy and hadolint
	@$(RUN)ruff check .
	@$(RUN)ruff format --check .
	@$(RUN)mypy
	@if [ -x $(RUN)hadolint ]; then $(RUN)hadolint Dockerfile; fi  # it has no wheel for other machines than Linux on x86-64

torture: $(READY) ## the long fault and load runs
	@$(RUN)python -m pytest -q -m torture --timeout 3600

bench: $(READY) ## time the CPU side against what people use today, side by side (about 30 minutes on 2 cores)
	@$(RUN)python -m docs.bench.cpu

bench-retrieve: $(READY) ## time the search in pools beside what people use today (about 40 minutes on 2 cores; 25 GB of disk)
	@$(RUN)python -m docs.bench.cpu --rows C9,C10,C11,C15

bench-gpu: $(READY) ## time a GPU's images and training steps, side by side (six minutes; what is left: ROWS=rest)
	@$(RUN)python -m docs.bench.gpu $(if $(ROWS),--rows $(ROWS))

bench-stream: $(READY) ## time streaming into training beside webdataset and litData (about 25 minutes)
	@$(RUN)python -m docs.bench.stream

quality: $(READY) ## measure what each shortcut of the sampler costs and gains on the sandbox; writes docs/RESULTS.md
	@$(RUN)python -m docs.bench.quality

ablate: $(READY) ## measure what meaning, context and style do on the sandbox; writes docs/RESULTS.md
	@$(RUN)python -m docs.bench.ablate

sandbox: $(READY) ## rebuild the sandbox's data, generator and CLIP from code and seed (2 hours on two cores with AVX-512, about 3 with AVX2)
	@$(RUN)python -m sandbox.build

sandbox-score: $(READY) ## measure the sandbox's generator and CLIP against their bars
	@$(RUN)python -m sandbox.score

lock: ## resolve the dependencies anew (names, versions, hashes; no address)
	@test -x .venv/uv || { "$(PYTHON)" -m venv .venv && .venv/bin/python -m pip install --quiet uv && cp .venv/bin/uv .venv/uv; }
	@.venv/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --extra dev --extra s3 --extra cpu \
		--generate-hashes --no-emit-index-url --no-header --output-file requirements.lock
	@.venv/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --extra dev --extra s3 --extra gpu \
		--constraint requirements.lock --generate-hashes --no-emit-index-url --no-header --output-file requirements-gpu.lock
	@printf "img2dataset==1.47.0\nstandard-imghdr; python_version >= '3.13'\n" | .venv/uv pip compile - --quiet --upgrade \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --output-file requirements-img2dataset.lock

clean: ## remove the environments (never the images)
	rm -rf .venv .tools
