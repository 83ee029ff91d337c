"""The command line: absl flags -> configuration -> experiment and report."""

import os
import signal
import sys

from ddefense import interruption

# A program of ours starts: `python -m ddefense.cli...`, whose first argument is `-m` while this
# package is imported, or a script that pip made. The imports take a second, in which Ctrl-C would
# end in a traceback.
if sys.argv[0] == "-m" or os.path.basename(sys.argv[0]).startswith("ddefense-"):
    interruption.leave_at_once(signal.SIGINT, signal.SIGTERM)
