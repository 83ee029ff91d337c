"""The softmax at a temperature as a Keras layer."""

from typing import Any

import keras

from ddefense.settings import is_number


@keras.saving.register_keras_serializable(package="ddefense")
class TemperatureSoftmax(keras.layers.Layer):
    r"""Softmax of logits divided by a temperature (the paper, section II-C).

    $$F_i(x) = \frac{e^{z_i(x) / T}}{\sum_l e^{z_l(x) / T}}$$

    It computes in float32 whatever the precision policy: a float16 softmax underflows at a logit
    gap of 18. The temperature cannot be changed, because a compiled function keeps the value it
    was traced with: build another head on the same weights with `networks.with_temperature`.

    Args:
        temperature: T, finite and > 0.
        dtype: float32 unless told otherwise.
        **kwargs: passed to `keras.layers.Layer`.

    Raises:
        ValueError: if the temperature is not a finite number > 0.
    """

    def __init__(self, temperature: float = 1.0, *, dtype: Any = "float32", **kwargs: Any) -> None:
        """Checks and stores the temperature."""
        super().__init__(dtype=dtype, **kwargs)
        if not is_number(temperature) or temperature <= 0:
            raise ValueError(
                "Invalid value received for argument `temperature`. Expected a finite number > 0 "
                "that float32 holds. "
                f"Received: temperature={temperature!r}"
            )
        self._temperature = float(temperature)
        self.supports_masking = True
        self.built = True

    @property
    def temperature(self) -> float:
        """T, fixed for the layer's life."""
        return self._temperature

    def call(self, logits: Any) -> Any:
        """Computes the probabilities.

        Args:
            logits: shape [..., classes].

        Returns:
            Probabilities of the same shape that sum to 1 over the last axis.
        """
        logits = keras.ops.cast(logits, self.compute_dtype)
        return keras.ops.softmax(logits / self._temperature)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the logits."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument."""
        return {**super().get_config(), "temperature": self._temperature}
