"""What takes the optimizer steps, and its rates."""

import keras

from ddefense.settings import ConfigError
from ddefense.training.settings import TrainingSettings


def make_optimizer(
    network: keras.Model, settings: TrainingSettings, given: keras.optimizers.Optimizer | None
) -> keras.optimizers.Optimizer:
    """An optimizer without any state, built on a network's trainable weights.

    Where a layer computes in float16 the optimizer scales the loss: small gradients would vanish.

    Args:
        network: to be trained.
        settings: whose rates stochastic gradient descent starts with.
        given: the user's own, which is copied; None for stochastic gradient descent.

    Raises:
        ConfigError: if the user's own cannot be copied as it is, or the settings have rates of
            their own.
    """
    if given is None:
        optimizer = keras.optimizers.SGD(settings.learning_rate, momentum=float(settings.momentum))
    else:
        _refuse_decay(settings)
        optimizer = copy_of(given)
    half = any(layer.compute_dtype == "float16" for layer in network._flatten_layers())
    if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def set_rates(
    optimizer: keras.optimizers.Optimizer,
    rates: tuple[float, float],
    before: tuple[float, float] | None,
) -> None:
    """Sets learning rate and momentum where they change.

    A learning rate that a callback set holds until the settings have another one.

    Args:
        optimizer: made by `make_optimizer` without one of the user's own.
        rates: of the epoch that begins.
        before: of the epoch before, if that was trained here.
    """
    if before is None or rates[0] != before[0]:
        optimizer.learning_rate = rates[0]
    if before is None or rates[1] != before[1]:
        getattr(optimizer, "inner_optimizer", optimizer).momentum = rates[1]


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the next step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def _refuse_decay(settings: TrainingSettings) -> None:
    for name in ("learning_rate_decay", "momentum_decay"):
        received = getattr(settings, name)
        if received != 1.0:
            raise ConfigError(
                name,
                f"expected 1 with an optimizer of your own; received {received:g}. Give "
                "that optimizer a `keras.optimizers.schedules.LearningRateSchedule` instead.",
            )


def copy_of(given: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A copy of a user's optimizer with its settings and none of its state.

    Raises:
        ConfigError: if it cannot be copied, or a copy would lose a setting; or if it has several
            learning rates.
    """
    if isinstance(given, keras.optimizers.MultiOptimizer):
        raise ConfigError(
            "optimizer",
            "expected one optimizer for all weights, whose learning rate is recorded; "
            "received MultiOptimizer.",
        )
    try:
        copy = type(given).from_config(given.get_config())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "optimizer",
            "expected a Keras optimizer that `from_config` makes again of what "
            f"`get_config` gives; received {type(given).__name__}: {error}. Decorate classes of "
            "your own, such as schedules, with `keras.saving.register_keras_serializable()`.",
        ) from error
    for old, new in zip(_nested(given), _nested(copy), strict=True):
        _carry_over(old, new)
    return copy


def excluded_from_decay(given: keras.optimizers.Optimizer) -> list[str]:
    """Parts of the names of variables that weight decay leaves alone, sorted.

    Keras keeps them outside of the optimizer's configuration.
    """
    patterns = [
        getattr(each, "_exclude_from_weight_decay_pattern", None) for each in _nested(given)
    ]
    return sorted(name for each in patterns if each for name in each.pattern.split("|"))


def _nested(given: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """An optimizer and the one that it wraps, if it is one that scales the loss."""
    inner = getattr(given, "inner_optimizer", None)
    return [given] if inner is None else [given, *_nested(inner)]


def _carry_over(given: keras.optimizers.Optimizer, copy: keras.optimizers.Optimizer) -> None:
    """Gives a copy what the configuration of an optimizer does not hold."""
    if getattr(given, "_exclude_from_weight_decay", None):
        raise ConfigError(
            "optimizer",
            "expected variables excluded from weight decay by parts of their names, "
            "because the networks that are trained are copies with variables of their own; "
            "received a list of variables. Call exclude_from_weight_decay(var_names=['bias']).",
        )
    excluded = excluded_from_decay(given)
    if excluded:
        copy.exclude_from_weight_decay(var_names=excluded)
    for name, value in vars(given).items():
        simple = isinstance(value, bool | int | float | str | None)
        if name.startswith("_") or name == "built" or not simple:
            continue
        copied = getattr(copy, name, None)
        if copied != value:
            raise ConfigError(
                "optimizer",
                "expected one whose `get_config` holds all of its settings, because it "
                f"is copied; received {type(given).__name__} with {name}={value!r}, of which a "
                f"copy has {name}={copied!r}.",
            )
