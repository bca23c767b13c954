#!/usr/bin/env bash
# Formatting, lint, types, layers, tests: everything that must hold before a commit.
# Runs them all in the current environment, then says what failed. Arguments go to pytest.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()

check() {
    printf '\n== %s\n' "$*"
    "$@" || failed+=("$1${2:+ $2}")
}

check ruff format --check
check ruff check
check pyright --pythonpath "$(python -c 'import sys; print(sys.executable)')"
check lint-imports
check pytest "$@"

if ((${#failed[@]})); then
    printf '\nFAILED: %s\n' "${failed[*]}"
    exit 1
fi
printf '\nall checks passed\n'
