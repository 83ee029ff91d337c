"""Size and speed of a network."""

import keras

from ddefense import measurements, networks


def test_sizes_are_those_of_the_weights():
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    (found,) = measurements.costs([network], (4, 4, 1), batch_sizes=(1, 8))
    assert found.parameters == 16 * 3 + 3
    assert found.weight_bytes == 4 * 51
    assert set(found.latency_seconds) == {1, 8}
    assert all(0 < seconds < 1 for seconds in found.latency_seconds.values())


def test_a_network_of_more_arithmetic_takes_longer():
    built = [
        networks.build(name, temperature=1.0, seed=0, image_shape=(32, 32, 3))
        for name in ("small", "cifar10")
    ]
    small, large = measurements.costs(built, (32, 32, 3))
    assert large.parameters > 10 * small.parameters
    # Some 60 times the arithmetic; far less would do even on a busy machine.
    assert large.latency_seconds[32] > 3 * small.latency_seconds[32]


def test_weights_of_half_precision_policies_count_as_they_are_stored():
    dense = keras.layers.Dense(3, dtype=keras.DTypePolicy("mixed_bfloat16"))
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), dense])
    (found,) = measurements.costs([network], (2, 2, 1), (1,))
    assert found.weight_bytes == 4 * 15
