"""Trains, distills, attacks and measures as in the paper; writes results, report and SavedModels.

Usage: bin/reproduce [flags]
"""

from ddefense.cli.main import run

run()
