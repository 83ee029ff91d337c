"""Experiments: `reproduce.run` runs a configuration stage by stage and leaves results on disk.

Nothing is imported here: `workdir` is wanted before TensorFlow is loaded.
"""
