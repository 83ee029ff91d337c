"""Trains the classifier of the tutorial, as anybody would with Keras alone.

    python docs/tutorial/train_letters.py letters letters.keras

It keeps out the images that bin/distill and bin/evaluate keep for testing.
"""

import argparse
import pathlib

import keras

from ddefense.datasets import sources, splitting


def build(image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """A small convolutional network that ends in a softmax."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(num_classes, activation="softmax"),
        ]
    )


def main() -> None:
    """Reads the command line, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path, help="a folder per class")
    parser.add_argument("network", type=pathlib.Path, help="written: a .keras file")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    data = sources.open_data(options.data)
    train = splitting.in_memory(data.train)
    network = build(data.image_shape, data.num_classes)
    network.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    network.fit(train.images, train.labels, epochs=options.epochs, batch_size=32, verbose=2)
    network.save(options.network)


if __name__ == "__main__":
    main()
