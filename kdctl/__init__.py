"""Knowledge-distillation experiments that anyone can run, trust and extend."""

__version__ = "0.2.0"
