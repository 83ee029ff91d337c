"""Names of folders of others neither steer a terminal nor forge a line, in any command."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow

CLASSES = ("\x1b[2Jcat\nforged: cat", "dog\u202e\x9b2J\r\nforged: dog")
COMMON = ("--data=photos\x1b[2J\nforged", "--value_range=0,1")
DISTILL = ("--network=mine.keras", "--temperature=5", "--epochs=1", "--batch_size=8")
EVALUATE = ("--network=run/networks/distilled.keras", "--temperature=5", "--samples=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "photos\x1b[2J\nforged" / name).mkdir(parents=True)
        for number in range(10):
            photo = tf.io.encode_png(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).numpy()
            (folder / "photos\x1b[2J\nforged" / name / f"{number}.png").write_bytes(photo)
        (folder / "photos\x1b[2J\nforged" / name / "\x1bnotes\nforged.txt").write_text("")
    inputs = keras.Input((4, 4, 3))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(folder / "mine.keras")
    return folder


def assert_plain(text):
    assert "forged" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", text)
    assert not re.search(r"^\W*forged", text, re.M)


def test_every_command_escapes_them(start_run, run_python, folder):
    def run(module, name, *arguments):
        program = ("-m", f"ddefense.cli.{module}")
        flags = (f"--workdir={name}",)
        return start_run(folder, *COMMON, *arguments, program=program, flags=flags).finish()

    assert_plain(run("distill", "run", *DISTILL).process.stderr)
    evaluated = run("evaluate", "evaluated\n\x1bforged", *EVALUATE, "--attacks=pgd_linf")
    assert_plain(evaluated.process.stderr)
    found = run_python("-m", "ddefense.cli.compare", "evaluated\n\x1bforged", cwd=folder)
    assert found.returncode == 0
    assert_plain(found.stdout)
