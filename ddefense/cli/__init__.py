"""The command line: absl flags -> configuration -> experiment and report."""
