"""`python -m ddefense.cli`."""

from ddefense.cli.main import run

run()
