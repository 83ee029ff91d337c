"""Labels in every form that users have, and what is refused."""

import re

import numpy as np
import pytest
from ddefense.settings import ConfigError

from ddefense.datasets import labelling
from ddefense.datasets.labelling import Labels


@pytest.mark.parametrize(
    "labels",
    [
        [0, 2, 1],
        (0, 2, 1),
        [[0], [2], [1]],
        np.array([0, 2, 1], np.uint8),
        np.array([0.0, 2.0, 1.0], np.float32),
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
        np.eye(3, dtype=np.float32)[[0, 2, 1]],
    ],
    ids=["list", "tuple", "column", "uint8", "float", "one_hot", "one_hot_float"],
)
def test_class_indices_in_any_form(labels):
    found = labelling.read(labels, num_classes=3)
    assert found.classes.dtype == np.int64
    assert found.classes.tolist() == [0, 2, 1]
    assert found.rows is None  # one-hot rows say nothing more
    assert found.count_classes() == 3


def test_two_classes_may_be_told_by_truth():
    assert labelling.read([True, False]).classes.tolist() == [1, 0]


def test_rows_are_kept_as_they_are():
    rows = np.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0005]], np.float32)
    found = labelling.read(rows)
    np.testing.assert_array_equal(found.rows, rows)
    assert found.rows.dtype == np.float32
    assert found.classes.tolist() == [1, 0]
    assert (found.num_classes, found.count_classes()) == (3, 3)


def test_rows_tell_the_number_of_classes_and_indices_the_largest():
    assert labelling.read(np.eye(5)[[0, 1]]).count_classes() == 5
    assert labelling.read([0, 1]).count_classes() == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1, 1], "expected class indices, 0 to 2; received -1 for image 101."),
        ([0, 1, 3], "expected class indices, 0 to 2; received 3 for image 102."),
        ([0.0, 0.5], "expected class indices, 0 to 2; received 0.5 for image 101."),
        ([np.nan, 0.0], "expected class indices, 0 to 2; received nan for image 100."),
        ([np.inf, 0.0], "received inf for image 100."),
        (["cat", "dog"], "Number the classes 0, 1, 2... and pass their names as class_names."),
        ([None, 0], "received object values."),
        (np.zeros((2, 2, 2)), "received [2, 2, 2]."),
        ([[0, 1], [1]], "labels: expected one label per image; received"),
        (np.eye(4)[:2], "expected rows of 3 probabilities, one per class; received rows of 4."),
        (
            [[0.5, 0.5, 0.0], [0.5, 0.5, 0.01]],
            "a row with the sum 1.01 and the smallest value 0.01",
        ),
        ([[0.5, 0.5, 0.0], [0.5, 0.5, 0.01]], " for image 101."),
        ([[1.5, -0.5, 0.0]], "with the sum 1 and the smallest value -0.5 for image 100."),
        ([[np.nan, 1.0, 0.0]], "with the sum nan and the smallest value nan for image 100."),
    ],
)
def test_what_is_no_label(labels, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        labelling.read(labels, num_classes=3, first=100)
    assert str(caught.value).startswith("labels: expected")


def test_an_unknown_number_of_classes_has_no_upper_end():
    assert labelling.read([0, 1000]).count_classes() == 1001
    with pytest.raises(ConfigError, match=r"class indices, 0, 1, 2\.\.\.; received -1"):
        labelling.read([-1])


def test_parts_are_joined():
    soft = np.array([[0.5, 0.5]], np.float32)
    parts = [labelling.read(np.eye(2)), labelling.read(soft)]
    found = labelling.joined(parts)
    np.testing.assert_array_equal(found.rows, [[1, 0], [0, 1], [0.5, 0.5]])
    assert found.classes.tolist() == [0, 1, 0]
    assert labelling.joined([parts[0], parts[0]]).rows is None
    assert labelling.joined([labelling.read([0]), labelling.read([4])]).classes.tolist() == [0, 4]


def test_parts_of_two_forms_are_refused():
    with pytest.raises(ConfigError, match="received class indices and later rows of 2"):
        labelling.joined([labelling.read([0]), labelling.read(np.eye(2))])


class TestClasses:
    def test_every_class_has_an_image(self):
        labelling.check_classes(np.array([1, 0, 2, 0]), ("a", "b", "c"))

    def test_one_class_alone(self):
        with pytest.raises(ConfigError, match=r"received 2 of class 1 \(dog\) alone"):
            labelling.check_classes(np.array([1, 1]), ("cat", "dog"))

    def test_missing_classes_are_named(self):
        with pytest.raises(ConfigError, match=r"none of 2 \(cow\), 3\. Add") as caught:
            labelling.check_classes(np.array([0, 1, 4]), ("cat", "dog", "cow", "3", "owl"))
        assert "each of the 5 classes" in str(caught.value)

    def test_not_all_of_many(self):
        names = tuple(str(i) for i in range(40))
        with pytest.raises(ConfigError, match=r"none of 2, 3, .*, 11 and 28 more\."):
            labelling.check_classes(np.array([0, 1]), names)

    def test_counting_from_1_is_guessed(self):
        with pytest.raises(
            ConfigError, match=r"none of class 0\. .*subtract 1 if these begin at 1"
        ):
            labelling.check_classes(np.array([1, 2, 3]), tuple("0123"))


def test_the_length_is_the_number_of_images():
    assert len(Labels(np.zeros(3, np.int64))) == 3
