"""Keras layers of our own."""

from ddefense.layers.temperature_softmax import TemperatureSoftmax

__all__ = ["TemperatureSoftmax"]
