"""An attack that sees nothing but predicted classes: HopSkipJump, by a library behind an extra.

Chen, Jordan & Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack" (IEEE S&P
2020), as the Adversarial Robustness Toolbox (ART) has it. It takes no gradient of the network, so
hiding gradients does not stop it. Ours is the border between library and network: classes alone
cross it, every image that does is counted, and the closest adversarial one is kept.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption
from ddefense.attack_catalog import ATTACKS, AttackSpec
from ddefense.attacks.batching import padded_size
from ddefense.attacks.classifier import AdversarialSamples, Classifier, check_inputs
from ddefense.config import Config
from ddefense.settings import Count, Natural, checked, setting

# Images to try as a start; one adversarial image is enough.
_STARTS = 100
# Most images that the library shows at once.
_BATCH = 64
# Queries end an attack, not the library's iterations, each of which takes more than 100 of them.
_MAX_ITERATIONS = 1_000_000


@checked
class LabelsOnly:
    """Settings of `labels_only`."""

    queries: Count = setting(
        "Most images shown to the network for one sample, the original included.", default=10_000
    )
    seed: Natural = setting("Of starts and search directions.", default=0)


Predict = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""float32 images [N, H, W, C] -> predicted classes, one-hot, [N, classes]."""


class _SpentError(Exception):
    """The queries of a sample are used up."""


class _Oracle:
    """The network as the attack on one sample sees it: so many images in, their classes out.

    Args:
        predict: the network.
        original: the image under attack, shape [H, W, C].
        label: its true class.
        queries: most images to show the network.
        outlier_class: by which the network refuses images; the attack is told the true class
            then, because that is not what it looks for. None without one.
    """

    def __init__(
        self,
        predict: Predict,
        original: npt.NDArray[np.float32],
        label: int,
        queries: int,
        outlier_class: int | None = None,
    ) -> None:
        """Nothing has been shown yet, so the original is the best there is."""
        self.original, self.label, self._outlier_class = original, label, outlier_class
        self.best, self._distance = original, np.inf
        self._predict, self._left = predict, queries

    def __call__(self, images: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """The predicted classes of images [N, H, W, C], one-hot.

        Raises:
            _SpentError: if fewer queries are left than there are images; they are used first.
            StoppedError: if the run was asked to stop.
        """
        interruption.check()
        shown = images[: self._left].astype(np.float32)
        if len(shown) == 0:
            raise _SpentError
        self._left -= len(shown)
        classes = self._predict(shown)
        if self._outlier_class is not None:
            classes[:, self.label] += classes[:, self._outlier_class]
            classes[:, self._outlier_class] = 0
        self._keep_closest(shown[classes[:, self.label] == 0])
        if len(shown) < len(images):
            raise _SpentError
        return classes

    def is_adversarial(self, image: npt.NDArray[np.float32]) -> bool:
        """Whether the network puts an image [H, W, C] in another class than the label; a query."""
        return bool(self(image[None])[0, self.label] == 0)

    def _keep_closest(self, adversarial: npt.NDArray[np.float32]) -> None:
        if len(adversarial) == 0:
            return
        distances = np.linalg.norm(
            (adversarial - self.original).reshape(len(adversarial), -1), axis=1
        )
        closest = distances.argmin()
        if distances[closest] < self._distance:
            self.best, self._distance = adversarial[closest], distances[closest]


def labels_only(
    attacked: Classifier,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer] | None = None,
    *,
    settings: LabelsOnly,
    batch_size: int = 1,
    first_row: int = 0,
) -> AdversarialSamples:
    """Looks for the closest images, by L2, that the network puts in any wrong class.

    A result depends on its own image, label and row and on the seed, not on the other samples. The
    network's outlier class is no wrong class.

    Args:
        attacked: the network; only which of its outputs is largest is used.
        images: originals, float32, shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: None, because the attack has no targets.
        settings: of the attack.
        batch_size: not used, because samples are attacked one by one.
        first_row: number of the first image where the images are part of a longer list, so that
            each is attacked as it would be there.

    Returns:
        For each sample, the closest adversarial image that the network was shown; the original if
        none was found, or if the network errs on it.

    Raises:
        ModuleNotFoundError: if the library is not installed.
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    if targets is not None:
        raise ValueError("targets: expected None, because labels_only has no targets.")
    check_inputs(attacked, images, labels, None, batch_size)
    make_attack = _library(attacked)
    predict = attacked.compiled("labels only", lambda: _compile(attacked))
    results = []
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), first_row):
        oracle = _Oracle(predict, image, label, settings.queries, attacked.outlier_class)
        seeds = np.random.SeedSequence([settings.seed, row])
        with contextlib.suppress(_SpentError):
            _search(oracle, make_attack, attacked.bounds, seeds)
        results.append(oracle.best)
    return AdversarialSamples(np.stack(results))


def _search(
    oracle: _Oracle,
    make_attack: Callable[[_Oracle], Any],
    bounds: tuple[float, float],
    seeds: np.random.SeedSequence,
) -> None:
    """Shows the oracle images until it has seen enough of them."""
    if oracle.is_adversarial(oracle.original):
        return
    of_start, of_attack = seeds.spawn(2)
    start = _start(oracle, bounds, np.random.default_rng(of_start))
    if start is None:
        return
    with _global_seed(of_attack):
        make_attack(oracle).generate(
            oracle.original[None], y=np.array([oracle.label]), x_adv_init=start[None]
        )


def _start(
    oracle: _Oracle, bounds: tuple[float, float], rng: np.random.Generator
) -> npt.NDArray[np.float32] | None:
    """An adversarial image of noise in square cells of a random size; None if none was found.

    The library would draw independent pixels, which a network tends to put in one class: that
    class would be out of reach.
    """
    height, width, channels = oracle.original.shape
    for _ in range(_STARTS):
        side = int(rng.integers(1, max(height, width) + 1))
        shape = (-(-height // side), -(-width // side), channels)
        cells = rng.uniform(*bounds, size=shape).astype(np.float32)
        noise = cells.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
        if oracle.is_adversarial(noise):
            return noise
    return None


def _compile(attacked: Classifier) -> Predict:
    """One graph for every batch, padded to few sizes."""
    cut = attacked.passes
    one_hot = np.eye(attacked.num_classes, dtype=np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, *attacked.image_shape], tf.float32)])
    def classes(images: tf.Tensor) -> tf.Tensor:
        return tf.argmax(tf.cast(cut.tail(cut.head(images)), tf.float32), axis=1)

    compiled = classes.get_concrete_function()

    def predict(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = padded_size(len(images))
        padded = np.resize(images, (size, *images.shape[1:]))
        return one_hot[compiled(tf.constant(padded)).numpy()[: len(images)]]

    return predict


def _library(attacked: Classifier) -> Callable[[_Oracle], Any]:
    """What makes the library's attack for one sample."""
    if not ATTACKS["labels_only"].installed:
        raise ModuleNotFoundError(
            "labels_only: expected its library to be installed, found none. Install it with "
            "`pip install 'ddefense[labels-only]'`, or leave the attack out.",
            name="art",
        )
    with warnings.catch_warnings():
        # Of something we do not use, which needs another framework.
        warnings.filterwarnings("ignore", "PyTorch not found", UserWarning)
        from art.attacks.evasion import HopSkipJump
        from art.estimators.classification import BlackBoxClassifier

    def make_attack(oracle: _Oracle) -> Any:
        estimator = BlackBoxClassifier(
            oracle,
            attacked.image_shape,
            attacked.num_classes,
            clip_values=attacked.bounds,
            preprocessing=None,
        )
        return HopSkipJump(estimator, batch_size=_BATCH, max_iter=_MAX_ITERATIONS, verbose=False)

    return make_attack


@contextlib.contextmanager
def _global_seed(seeds: np.random.SeedSequence) -> Iterator[None]:
    """Seeds NumPy's global generator, the only one the library draws from, and puts it back."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seeds.generate_state(4))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> LabelsOnly:
    """The settings of the attack in a run; see `prepared.prepare`."""
    del spec, temperature
    return LabelsOnly(queries=config.labels_only_queries, seed=config.seed)
