"""The database and the run folders."""
