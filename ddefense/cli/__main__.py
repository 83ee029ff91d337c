"""Trains, distills, attacks and measures as in the paper; writes results, report and SavedModels.

Usage: bin/reproduce [flags]

Examples:
  bin/reproduce
  bin/reproduce --dataset=mnist --temperatures=1,20,100 --epochs=10 --workdir=runs/mnist
"""

from ddefense.cli.main import run

run()
