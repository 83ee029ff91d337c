"""Pure functions, one per equation: no state, no files, no layers."""
