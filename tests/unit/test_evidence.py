"""Which networks learnt, by their accuracy, and what a loss of accuracy is called."""

import subprocess
import sys

import pytest

from ddefense import evidence


def learnt(accuracy, undistilled=0.95, images=360, classes=10):
    return evidence.learnt([accuracy], images=images, classes=classes, undistilled=undistilled)


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        (43, False),  # 11.9 %: [9.0, 15.7], no better than guessing and below half
        (152, False),  # up to 47.38 %, just below half of 95 %, which is 47.5 %
        (153, True),  # up to 47.66 %
        (162, True),  # 45 %: up to 50.2 %
        (360, True),
    ],
)
def test_below_half_of_the_undistilled_network_beyond_chance(right, expected):
    assert learnt(right / 360) is expected


def test_the_more_images_the_less_is_left_to_chance():
    assert learnt(0.45, images=360)
    assert not learnt(0.45, images=10_000)  # up to 46.0 %
    assert learnt(0.45, undistilled=0.7957, images=10_000)


@pytest.mark.parametrize(
    ("accuracy", "images", "classes", "expected"),
    [
        (0.12, 360, 10, False),  # from 9.0 %
        (0.12, 10_000, 10, True),  # from 11.4 %
        (0.60, 100, 2, True),  # from 50.2 %
        (0.59, 100, 2, False),  # from 49.2 %
        (0.40, 100, 2, False),  # worse than guessing
        (1.00, 4, 2, True),  # from 4 / (4 + 3.84146) = 51.0 %
        (1.00, 3, 2, False),  # from 43.9 %: too few images to show anything
    ],
)
def test_without_an_undistilled_network_guessing_alone_counts(accuracy, images, classes, expected):
    assert learnt(accuracy, None, images, classes) is expected


def test_a_network_must_be_better_than_guessing_however_bad_the_undistilled_one_is():
    assert not learnt(0.1, undistilled=0.1, images=10_000)


def test_what_a_network_came_from_must_have_learnt_too():
    both = {"images": 360, "classes": 10, "undistilled": 0.95}
    assert evidence.learnt([0.9, 0.9], **both)
    assert not evidence.learnt([0.9, 0.1], **both)


@pytest.mark.parametrize(
    ("before", "after", "costly"),
    [(0.99, 0.94, False), (0.99, 0.9399, True), (0.7957, 0.6717, True), (0.94, 0.99, False)],
)
def test_more_than_five_points_are_much(before, after, costly):
    assert evidence.costly(before - after) is costly  # 0.99 - 0.94 is not quite 0.05


def test_a_loss_in_words():
    assert evidence.loss_in_words(0.7957 - 0.6717) == "a loss of 12.4 points of accuracy"
    assert evidence.loss_in_words(0.0004) == evidence.loss_in_words(-0.1) == ""
    assert evidence.loss_in_words(None) == ""
    assert not evidence.costly(None)


def test_it_needs_no_tensorflow():
    code = (
        "import sys, ddefense.evidence; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
