"""The trainer and what makes it fast; it knows no method."""
