"""Training of planned runs: a scheduler, executors and their workers, and what records the results."""
