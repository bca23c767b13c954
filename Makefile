# Short names for what one does all day; `make` alone checks everything.

.PHONY: check format test readme methods

check:  # formatting, lint, types, layers, tests
	.ci/check.sh

format:  # rewrite files as ruff wants them
	ruff format
	ruff check --fix

test:
	pytest

readme:  # the outputs README.md shows, from the runs in this folder, and the page of commands
	python docs/refresh.py .
	python docs/commands.py

methods:  # the table of methods in docs/methods.md; its costs only with --measure
	python docs/methods_table.py
