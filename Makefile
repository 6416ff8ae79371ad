# Targets that need .venv create it first. `make` without a target lists all targets.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help set-up demo kafka test long lint types messages chaos kafka-chaos laws load capacity models bench views pictures zip workers bundle clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "  %-17s %s\n", $$1, $$2 }'

set-up:  ## create .venv with all packages and jars; the other targets run this first
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "set-up: Python 3.11 or newer is needed, but there is no $(PYTHON): install it" \
	       "(Debian: apt-get install python3 python3-venv), or pass another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@"$(PYTHON)" .ci/set_up.py

demo: set-up  ## run the complete pipeline on a shipped log
	.venv/bin/python jobs/run_demo.py $(ARGS)

kafka: set-up  ## start a Kafka broker on 127.0.0.1:9092, and print how to capture a topic
	@.venv/bin/python .ci/kafka_broker.py $(ARGS)

test: set-up  ## run the tests, one file at a time in each of two processes; select some with ARGS="tests/unit -k rules"
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

long: set-up  ## run the tests in their long form, for example with a crash around every write
	.venv/bin/python -m pytest --long $(ARGS)

lint: set-up  ## run ruff: rules and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: set-up  ## run mypy in strict mode
	.venv/bin/mypy

messages: set-up  ## update the catalogs of the pages from the messages in the code (docs/translations.md)
	.venv/bin/python .ci/messages.py

chaos: set-up  ## kill the pipeline at random times and compare its tables with those of an undisturbed run
	.venv/bin/python tests/flow/chaos.py $(ARGS)

kafka-chaos: set-up  ## kill the pipeline and the Kafka broker that it reads from, and compare the tables
	.venv/bin/python tests/flow/kafka_chaos.py $(ARGS)

laws: set-up  ## run a log in 1, 10 and 200 batches, with late, shuffled and repeated lines, and compare the tables
	.venv/bin/python tests/flow/laws.py $(ARGS)

load: set-up  ## let events arrive at rising rates while the pipeline runs; print latency, lag and cost
	.venv/bin/python benchmarks/load.py $(ARGS)

capacity: set-up  ## compute cores, bytes and limits of a shop from measured costs (docs/scaling.md)
	.venv/bin/python benchmarks/capacity.py $(ARGS)

models: set-up  ## compare models of outcomes with boosting on the shipped logs, and write docs/models.md
	.venv/bin/python benchmarks/models.py $(ARGS)

bench: set-up  ## run the benchmarks; run one with ONLY=name
	.venv/bin/python benchmarks/run.py $(if $(ONLY),--only $(ONLY)) $(ARGS)

views: set-up  ## write views.duckdb, with which a BI tool opens the tables of the demo; others with ARGS="--config conf/local.toml"
	.venv/bin/python jobs/steward_views.py $(ARGS)

pictures: set-up  ## write the pictures of the demo's pages for README and docs, after make demo
	.venv/bin/python benchmarks/pictures.py

zip: set-up  ## write profilestream.zip for spark-submit --py-files
	cd lib && ../.venv/bin/python -c "import glob, zipfile; z = zipfile.ZipFile('../profilestream.zip', 'w', 8); \
	  [z.write(f) for end in ('py', 'mo') for f in sorted(glob.glob(f'profilestream/**/*.{end}', recursive=True))]; z.close()"

workers: set-up  ## write profilestream-workers.tar.gz for spark-submit --archives
	.venv/bin/python .ci/workers.py

bundle: set-up  ## write profilestream-bundle.tar, which installs on a machine without network
	.venv/bin/python .ci/bundle.py

clean:  ## remove .venv, caches and output of runs
	rm -rf .venv build dist demo artifacts benchmarks/results/work profilestream.zip profilestream-workers.tar.gz profilestream-bundle.tar lib/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse metastore_db derby.log mlruns
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
