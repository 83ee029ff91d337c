"""How each claim of the paper is held against a run: pure functions of the results."""

from ddefense.reporting.answers.answer import Answer, Check, Holds, joined, unless

__all__ = ["Answer", "Check", "Holds", "joined", "unless"]
