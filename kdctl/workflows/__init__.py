"""Train, sweep, evaluate and report as plain functions; where rooms meet."""
