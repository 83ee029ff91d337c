"""A network whose training can be followed by hand."""

import pytest


@pytest.fixture(scope="session")
def make_row_network():
    """Logits are rows of a zero matrix, one row per image: whoever is used leaves its mark."""
    import keras
    import numpy as np

    from ddefense import networks

    def make(num_images):
        images = keras.Input((num_images, 1, 1))
        x = keras.layers.Flatten()(images)
        logits = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros", name="logits")(x)
        network = networks.with_temperature(keras.Model(images, logits), 5.0)
        return network, np.eye(num_images, dtype=np.float32)[..., None, None]

    return make


@pytest.fixture(scope="session")
def in_windows():
    """Makes examples that are read in windows of a size, in every pass anew."""
    import dataclasses

    import numpy as np

    @dataclasses.dataclass
    class InWindows:
        images: np.ndarray
        labels: np.ndarray
        window: int
        passes: list = dataclasses.field(default_factory=list)  # the first window of each

        def __len__(self):
            return len(self.images)

        @property
        def image_shape(self):
            return self.images.shape[1:]

        def windows(self, first=0):
            self.passes.append(first)
            for start in range(first * self.window, len(self), self.window):
                yield self.images[start : start + self.window]

    return InWindows


@pytest.fixture
def asked_after(monkeypatch):
    """Asks for a stop, as SIGTERM does, once the loop has made so many calls of its steps."""
    import contextlib
    import threading

    from ddefense import interruption
    from ddefense.progress import Progress

    @contextlib.contextmanager
    def ask(calls):
        note, sizes, update = threading.Event(), [], Progress.update
        if calls == 0:
            note.set()

        def counting(self, amount, **metrics):
            update(self, amount, **metrics)
            sizes.append(amount)
            if len(sizes) == calls:
                note.set()

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "update", counting)
            patch.setattr(interruption, "_asked", note)
            yield sizes

    return ask


@pytest.fixture(scope="session")
def assert_same_bits():
    """Compares the weights of two networks."""
    import numpy as np

    def compare(one, other):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    return compare


@pytest.fixture(scope="session")
def operations_of():
    """The kinds of all operations of compiled training steps, sorted."""
    import re

    def list_operations(steps):
        return sorted(re.findall(r'^\s*op: "(\w+)"', str(steps.graph.as_graph_def()), re.MULTILINE))

    return list_operations
