"""What an attack sees of a network, and what every attack checks before it starts."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.attacks.input_gradient import Passes, passes
from ddefense.networks import check_finite
from ddefense.settings import is_range

Outputs = Literal["logits", "probabilities"]

# Rounding of a float32 softmax over many classes, and room to spare.
_SUM_TOLERANCE = 1e-3


Compiled = TypeVar("Compiled")


@dataclasses.dataclass(frozen=True)
class AdversarialSamples:
    """What an attack made. Whether they succeed is judged outside of it.

    Attributes:
        images: float32, shape [N, H, W, C], within the bounds of the network, in the order of the
            originals.
        details: what else the attack tells of each sample, by name, shape [N]; results hold the
            sums.
    """

    images: npt.NDArray[np.float32]
    details: Mapping[str, npt.NDArray[np.integer | np.bool_]] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network, or any other function, that can be attacked.

    Attributes:
        outputs: what it returns, `logits` or `probabilities`.
        image_shape: of one image, (height, width, channels).
        num_classes: outputs.
        bounds: smallest and largest value of a feature; no attack leaves them.
        passes: the function, cut where a gradient tape has to watch; see `input_gradient`.
        outlier_class: by which the network refuses an image, which is no success of an attack;
            None without one.
    """

    outputs: Outputs
    image_shape: tuple[int, ...]
    num_classes: int
    bounds: tuple[float, float]
    passes: Passes
    outlier_class: int | None = None
    _compiled: dict[Hashable, Any] = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __call__(self, images: Any) -> Any:
        """Images [N, H, W, C] -> float32 outputs [N, classes], inside or outside a graph."""
        return tf.cast(self.passes.tail(self.passes.head(images)), tf.float32)

    def compiled(self, key: Hashable, make: Callable[[], Compiled]) -> Compiled:
        """Keeps what an attack compiles as long as the network.

        Networks are attacked shard by shard, and tracing takes longer than a small shard. What is
        kept must not refer to the classifier, so that it goes with it at once.

        Args:
            key: of what is compiled, among all attacks.
            make: compiles it.
        """
        if key not in self._compiled:
            self._compiled[key] = make()
        found: Compiled = self._compiled[key]
        return found


def classifier(
    function: keras.Model | Callable[[tf.Tensor], tf.Tensor],
    outputs: Outputs = "logits",
    *,
    image_shape: tuple[int, ...] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    outlier_class: int | None = None,
) -> Classifier:
    """Wraps what is to be attacked, after trying what it returns.

    Args:
        function: a Keras model, run in inference mode, or a differentiable TensorFlow function;
            images [N, H, W, C] -> logits or probabilities [N, classes].
        outputs: which of the two it returns.
        image_shape: of one image; may be left out for a Keras model.
        bounds: smallest and largest value of a feature.
        outlier_class: by which the function refuses an image; None without one.

    Returns:
        What attacks take.

    Raises:
        ValueError: if the bounds are none, or the function returns the other of the two, no
            [N, classes] at all, or NaN or infinity.
    """
    if outputs not in ("logits", "probabilities"):
        raise ValueError(f"outputs: expected 'logits' or 'probabilities', received {outputs!r}.")
    if not is_range(*bounds):
        raise ValueError(f"bounds: expected (low, high) with low < high, received {bounds!r}.")
    if isinstance(function, keras.Model):
        shape, cut = tuple(function.input_shape[1:]), passes(function)
    elif image_shape is None:
        raise ValueError(
            "image_shape: expected (height, width, channels) for a function that is no Keras "
            "model, received None."
        )
    else:
        shape, cut = tuple(image_shape), Passes(tf.identity, function, tf.identity)
    noise = np.random.default_rng(0).uniform(*bounds, size=(8, *shape)).astype(np.float32)
    found = np.asarray(tf.cast(cut.tail(cut.head(tf.constant(noise))), tf.float32))
    if found.ndim != 2 or found.shape[0] != len(noise) or found.shape[1] < 2:
        raise ValueError(
            f"function: expected outputs of shape [N, classes >= 2], received {found.shape} for "
            f"{len(noise)} images."
        )
    check_finite(found, network=function if isinstance(function, keras.Model) else None)
    _expect_outputs(found, outputs)
    return Classifier(outputs, shape, found.shape[1], bounds, cut, outlier_class)


def _expect_outputs(found: npt.NDArray[np.float32], outputs: Outputs) -> None:
    sums_to_one = bool(np.all(np.abs(found.sum(axis=1) - 1) <= _SUM_TOLERANCE))
    if outputs == "logits" and sums_to_one and bool(np.all(found >= 0)):
        raise ValueError(
            "outputs: expected logits, but every row is >= 0 and sums to 1: these are "
            "probabilities. Pass the network up to its logits (`networks.logits_of`), or say "
            "outputs='probabilities' to an attack that takes them."
        )
    if outputs == "probabilities" and not (sums_to_one and bool(np.all(found >= 0))):
        raise ValueError(
            "outputs: expected probabilities, but rows are negative or do not sum to 1 "
            f"(first row: {np.round(found[0], 3).tolist()}): these look like logits. Say "
            "outputs='logits'."
        )


def expect_logits(attacked: Classifier, attack: str) -> None:
    """Refuses probabilities.

    Raises:
        ValueError: naming the attack.
    """
    if attacked.outputs != "logits":
        raise ValueError(
            f"{attack}: expected a network that returns logits, received one that returns "
            "probabilities: their float32 gradients vanish where the softmax saturates. Pass the "
            "network up to its logits."
        )


def check_inputs(
    attacked: Classifier,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer] | None,
    batch_size: int = 1,
) -> None:
    """Checks what every attack takes, before any long work.

    Args:
        attacked: the network.
        images: float32, shape [N >= 1, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N], none of them the label; None for an untargeted
            attack.
        batch_size: images attacked together, >= 1.

    Raises:
        ValueError: naming what was received and what was expected.
    """
    (low, high), shape = attacked.bounds, attacked.image_shape
    checks = [
        (
            images.ndim == len(shape) + 1 and images.shape[1:] == shape and len(images) > 0,
            f"images: expected shape [N >= 1, {', '.join(map(str, shape))}], received "
            f"{images.shape}",
        ),
        (images.dtype == np.float32, f"images: expected float32, received {images.dtype}"),
        (
            bool(np.all((images >= low) & (images <= high))),  # false for NaN too
            f"images: expected values within bounds [{low:g}, {high:g}], received "
            + (f"[{images.min():g}, {images.max():g}]" if images.size else "none"),
        ),
    ]
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None:
            checks.append(
                (
                    classes.shape == images.shape[:1]
                    and np.issubdtype(classes.dtype, np.integer)
                    and bool(np.all((classes >= 0) & (classes < attacked.num_classes))),
                    f"{name}: expected {len(images)} classes in 0..{attacked.num_classes - 1}, "
                    f"received {classes!r}",
                )
            )
    holds = isinstance(batch_size, int) and batch_size >= 1
    checks.append((holds, f"batch_size: expected an integer >= 1; received {batch_size!r}"))
    for holds, message in checks:
        if not holds:
            raise ValueError(message + ".")
    if targets is not None and np.any(labels == targets):
        row = int(np.argmax(labels == targets))
        raise ValueError(
            f"targets: expected a class other than the label, received {int(targets[row])} for "
            f"both at row {row}."
        )
