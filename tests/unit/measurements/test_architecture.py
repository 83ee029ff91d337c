"""The network as rows of the paper's Table I."""

import pytest

from ddefense import measurements, networks


@pytest.fixture(scope="module")
def rows():
    return measurements.architecture(networks.build("mnist", temperature=20.0, seed=0))


def test_has_the_parameters_of_the_papers_network(rows):
    assert sum(row.parameters for row in rows) == 312_202
    # 3x3 kernels of every input and output channel, and a bias for each output.
    assert {row.name: row.parameters for row in rows if row.parameters} == {
        "conv_1_1": 9 * 1 * 32 + 32,
        "conv_1_2": 9 * 32 * 32 + 32,
        "conv_2_1": 9 * 32 * 64 + 64,
        "conv_2_2": 9 * 64 * 64 + 64,
        "dense_1": 4 * 4 * 64 * 200 + 200,
        "dense_2": 200 * 200 + 200,
        "logits": 200 * 10 + 10,
    }


def test_has_the_shapes_of_valid_padding(rows):
    shapes = {row.name: row.output_shape for row in rows}
    assert shapes["images"] == [28, 28, 1]
    assert shapes["conv_1_2"] == [24, 24, 32]
    assert shapes["pool_1"] == [12, 12, 32]
    assert shapes["pool_2"] == [4, 4, 64]
    assert shapes["flatten"] == [1024]
    assert shapes["probabilities"] == [10]


def test_says_what_each_layer_is(rows):
    assert [row.kind for row in rows] == [
        "InputLayer",
        *(["Conv2D", "Conv2D", "MaxPooling2D"] * 2),
        "Flatten",
        *(["Dense", "Dropout"] * 2),
        "Dense",
        "TemperatureSoftmax",
    ]
    details = {row.name: row.detail for row in rows}
    assert details["conv_1_1"] == "filters 32, kernel size 3x3, padding valid, relu"
    assert details["pool_1"] == "pool size 2x2, padding valid"
    assert details["dense_1"] == "units 200, relu"
    assert details["dropout_1"] == "rate 0.5"
    assert details["logits"] == "units 10"
    assert details["probabilities"] == "temperature 20.0"
    assert details["images"] == details["flatten"] == ""
