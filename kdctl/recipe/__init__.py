"""A run as data: recipes, plans and run keys; no torch."""
