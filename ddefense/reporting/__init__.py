"""Tables, figures and the report of a run, drawn from its records alone (no TensorFlow)."""

from ddefense.reporting.rendering import render

__all__ = ["render"]
