"""Run as a script: reloads a SavedModel where neither Keras nor this package can be imported.

Usage: python -P reload.py SAVED_MODEL IMAGES.npy ANSWERS.npz
"""

import os
import sys


def main() -> None:
    """Answers all images in one batch, and the last one alone."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in ("keras", "ddefense"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it now fails
    import numpy as np
    import tensorflow as tf

    directory, source, answers = sys.argv[1:]
    images = np.load(source)
    serve = tf.saved_model.load(directory).signatures["serving_default"]
    np.savez(
        answers,
        batch=serve(images=tf.constant(images))["probabilities"].numpy(),
        single=serve(images=tf.constant(images[-1:]))["probabilities"].numpy(),
    )


if __name__ == "__main__":
    main()
