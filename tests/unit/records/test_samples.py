"""`samples.npz`: every adversarial image can be rebuilt to the bit."""

import numpy as np
import pytest

from ddefense import records

IMAGES, PAIRS, SHAPE = 4, 12, (3, 4, 2)


@pytest.fixture
def originals():
    rng = np.random.default_rng(0)
    return rng.random((IMAGES, *SHAPE)).astype(np.float32)


def attacked(originals, seed):
    """Adversarial images of three pairs per image, some untouched, and their outcome."""
    rng = np.random.default_rng(seed)
    sample = np.repeat(np.arange(IMAGES), PAIRS // IMAGES)
    adversarial = originals[sample].copy()
    for image, count in zip(adversarial, rng.integers(0, 6, PAIRS), strict=True):
        changed = rng.choice(image.size, count, replace=False)
        image.reshape(-1)[changed] = rng.choice([0, 1, 0.1], count)
    adversarial[3] = originals[1]
    outcome = records.AttackOutcome.from_images(
        originals[sample],
        adversarial,
        sample,
        np.tile(np.arange(PAIRS // IMAGES), IMAGES),
        start=rng.integers(0, 5, PAIRS),
        end=rng.integers(0, 5, PAIRS),
        success=rng.random(PAIRS) < 0.5,
        # Older versions kept none.
        probabilities=rng.random((PAIRS, 5)).astype(np.float32) if seed else None,
    )
    return adversarial, outcome


@pytest.fixture
def samples(originals):
    return records.Samples(
        images=originals,
        labels=np.array([3, 1, 4, 1]),
        test_indices=np.array([0, 2, 5, 9]),
        outcomes={
            (network, attack): attacked(originals, seed)[1]
            for seed, (network, attack) in enumerate(
                [("baseline", "jsma_f"), ("baseline", "jsma_z"), ("distilled_t20", "jsma_f")]
            )
        },
        probabilities={"distilled_t20": np.random.default_rng(9).random((IMAGES, 5), np.float32)},
        attempts={
            ("distilled_t20", "fgsm"): records.Attempts(
                sample=np.arange(IMAGES, dtype=np.int32),
                target=np.full(IMAGES, -1, np.int32),
                start=np.array([3, 1, 4, 2], np.int32),
                end=np.array([3, 2, 4, 2], np.int32),
                started=np.array([False, False, False, True]),
                success=np.array([False, True, False, False]),
                distance=np.array([0.1, 0.2, 0.1, 0.0]),
                chosen=np.ones(IMAGES, bool),
            )
        },
    )


def assert_equal(one, other):
    for field in ("images", "labels", "test_indices"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert getattr(one, field).dtype == getattr(other, field).dtype
    assert one.outcomes.keys() == other.outcomes.keys()
    for key, outcome in one.outcomes.items():
        assert outcome.arrays().keys() == other.outcomes[key].arrays().keys()
        for field, expected in other.outcomes[key].arrays().items():
            np.testing.assert_array_equal(getattr(outcome, field), expected)
            assert getattr(outcome, field).dtype == expected.dtype
    assert one.attempts.keys() == other.attempts.keys()
    for key, attempts in one.attempts.items():
        for field, array in vars(attempts).items():
            np.testing.assert_array_equal(array, getattr(other.attempts[key], field))
            assert array.dtype == getattr(other.attempts[key], field).dtype
    assert one.probabilities.keys() == other.probabilities.keys()
    for network, probabilities in one.probabilities.items():
        np.testing.assert_array_equal(probabilities, other.probabilities[network])
        assert probabilities.dtype == other.probabilities[network].dtype


def test_outcome_by_hand():
    before = np.array([[0.0, 0.5, 1.0], [0.25, 0.5, 0.75]], np.float32).reshape(2, 1, 3, 1)
    after = before.copy()
    after[1, 0, 0] = 1
    after[1, 0, 2] = 0
    outcome = records.AttackOutcome.from_images(
        before,
        after,
        np.array([4, 7]),
        np.array([1, 2]),
        start=np.array([1, 0]),
        end=np.array([1, 2]),
        success=np.array([False, True]),
    )
    assert outcome.offsets.tolist() == [0, 0, 2]
    assert outcome.features.tolist() == [0, 2]
    assert outcome.values.tolist() == [1, 0]
    assert outcome.num_features.tolist() == [0, 2]
    assert outcome.sample.tolist() == [4, 7]
    assert outcome.target.tolist() == [1, 2]
    assert outcome.success.tolist() == [False, True]
    assert outcome.started.tolist() == [True, False]
    attempts = outcome.attempts()
    assert (attempts.start.tolist(), attempts.end.tolist()) == ([1, 0], [1, 2])
    assert attempts.started.tolist() == [True, False]
    assert attempts.distance.tolist() == [0, 2]
    assert attempts.chosen.all()


def test_adversarial_images_are_rebuilt_exactly(originals, tmp_path):
    adversarial, outcome = attacked(originals, 5)
    samples = records.Samples(
        images=originals,
        labels=np.zeros(IMAGES, np.int64),
        test_indices=np.arange(IMAGES),
        outcomes={("baseline", "jsma_f"): outcome},
    )
    samples.save(tmp_path / "samples.npz")
    for source in (samples, records.Samples.load(tmp_path / "samples.npz")):
        before = source.images.copy()
        for pair in range(PAIRS):
            rebuilt = source.adversarial("baseline", "jsma_f", pair)
            assert rebuilt.dtype == np.float32
            np.testing.assert_array_equal(rebuilt, adversarial[pair])
        np.testing.assert_array_equal(source.images, before)
    assert outcome.num_features.min() == 0
    assert outcome.num_features.max() > 2


def test_round_trip(samples, tmp_path):
    lacking = [outcome.probabilities is None for outcome in samples.outcomes.values()]
    assert lacking == [True, False, False]
    samples.save(tmp_path / "deep" / "samples.npz")
    assert_equal(records.Samples.load(tmp_path / "deep" / "samples.npz"), samples)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["samples.npz"]


def test_round_trip_without_outcomes(samples, tmp_path):
    empty = records.Samples(
        images=samples.images,
        labels=samples.labels,
        test_indices=samples.test_indices,
        outcomes={},
    )
    empty.save(tmp_path / "samples.npz")
    assert_equal(records.Samples.load(tmp_path / "samples.npz"), empty)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(records.RunError, match=r"samples.npz, but they cannot be read.*No such"):
        records.Samples.load(tmp_path / "samples.npz")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"{}",
        lambda data: bytes(len(data)),
    ],
    ids=["half", "cut", "empty", "JSON", "zeros"],
)
def test_a_damaged_file_is_named(samples, tmp_path, damage):
    path = tmp_path / "samples.npz"
    samples.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(records.RunError, match=r"samples.npz, but they cannot be read"):
        records.Samples.load(path)


@pytest.mark.slow
def test_no_damaged_byte_escapes_as_another_error(samples, tmp_path):
    path = tmp_path / "samples.npz"
    samples.save(path)
    data = path.read_bytes()
    refused = 0
    for position in range(0, len(data), 29):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            records.Samples.load(path)
        except records.RunError:
            refused += 1
    assert refused > len(data) // 29 // 2


def test_a_missing_array_is_named(samples, tmp_path):
    path = tmp_path / "samples.npz"
    samples.save(path)
    with np.load(path) as arrays:
        kept = {k: arrays[k] for k in arrays.files if k != "baseline/jsma_z/features"}
    np.savez(path, **kept)
    with pytest.raises(records.RunError, match="baseline/jsma_z/features"):
        records.Samples.load(path)


def test_pickled_objects_are_never_loaded(samples, tmp_path):
    path = tmp_path / "samples.npz"
    samples.save(path)
    with np.load(path) as arrays:
        changed = dict(arrays) | {"labels": np.array([{"a": 1}], object)}
    np.savez(path, **changed)
    with pytest.raises(records.RunError, match="cannot be read"):
        records.Samples.load(path)
