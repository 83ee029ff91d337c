"""What a record says of the machine."""

import pytest

# TensorFlow reads the variable when it is imported: here it is as if a user had imported it first.
SCRIPT = """
import tensorflow as tf
import ddefense
from ddefense.experiments import environment
environment.Process("a command")
print(float(tf.nn.softmax([[1e4] + [0.0] * 7] * 8)[0, 0]) == 1.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["0", "1"])
def test_a_softmax_that_does_not_round_to_1_is_warned_of(run_python, tmp_path, setting):
    found = run_python("-c", SCRIPT, cwd=tmp_path, TF_ENABLE_ONEDNN_OPTS=setting)
    exact = found.stdout == "True\n"
    assert exact or setting == "0"
    assert ("Import ddefense before TensorFlow" in found.stderr) != exact
