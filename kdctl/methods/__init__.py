"""Distillation methods, one file each, named as in a recipe."""
