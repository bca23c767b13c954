"""Experiment trackers that runs can be exported to, one file each."""
