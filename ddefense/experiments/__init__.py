"""Experiments: run a configuration stage by stage and leave results on disk."""

from ddefense.experiments.reproduce import run

__all__ = ["run"]
