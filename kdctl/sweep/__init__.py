"""Which configurations to run next, through Optuna."""
