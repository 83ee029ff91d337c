"""Tables, figures and the report of a run, drawn from its records alone (no TensorFlow)."""

from ddefense.reporting.rendering import render, render_seeds

__all__ = ["render", "render_seeds"]
