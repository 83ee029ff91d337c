"""Networks that give NaN or infinity, of which no class can be told."""

import keras
import numpy as np
import numpy.typing as npt

NO_CLASS = -1
"""What stands for the class of an image that a network gives NaN or infinity."""


def check_finite(
    outputs: npt.NDArray[np.floating],
    *,
    network: keras.Model | None = None,
    images: str = "random images",
) -> None:
    """Refuses a network that gives NaN or infinity.

    Args:
        outputs: of the network, shape [N, classes].
        network: whose weights may be the reason.
        images: what the outputs are of, for the message.

    Raises:
        ValueError: naming the first such image and the likely reason.
    """
    wrong = ~np.isfinite(outputs).all(axis=1)
    if not wrong.any():
        return
    weights = [] if network is None else network.weights
    broken = next((weight.path for weight in weights if not _is_finite(weight)), None)
    reason = "Does it divide by something that is 0 in such an image?"
    if broken is not None:
        reason = f"Its weights {broken!r} are not finite: did its training diverge?"
    raise ValueError(
        "Expected a network with finite answers to any image; received one that gives NaN or "
        f"infinity for {wrong.sum()} of {len(wrong)} {images}, the first of them number "
        f"{int(np.argmax(wrong))}. {reason}"
    )


def predicted_classes(outputs: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The class with the largest output; `NO_CLASS` where an output is NaN or infinite.

    Args:
        outputs: logits or probabilities, shape [N, classes].

    Returns:
        Shape [N].
    """
    classes: npt.NDArray[np.int64] = np.where(
        np.isfinite(outputs).all(axis=1), outputs.argmax(axis=1), NO_CLASS
    )
    return classes


def _is_finite(weight: keras.Variable) -> bool:
    values = keras.ops.convert_to_numpy(weight)
    # Seeds of random generators are integers, and the types of Keras are not all NumPy's.
    return bool(np.isfinite(values.astype(np.float32)).all())
