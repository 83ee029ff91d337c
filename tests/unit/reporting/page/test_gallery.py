"""What the page's script inflates is what the samples hold, to 8 bits."""

import base64
import dataclasses
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddefense import records
from ddefense.reporting import page


def inflated(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def unpacked(entry):
    """Reads an entry as `_entry` says that it is written."""
    pairs, features, classes = entry["pairs"], entry["features"], entry["classes"]
    parts = [
        ("<u4", pairs),
        ("<u2" if entry["short"] else "<u4", features),
        ("<u2", pairs),
        ("<u2", pairs),
    ]
    parts += [("<u2", pairs * classes), ("u1", pairs), ("u1", features)]
    data = zlib.decompress(base64.b64decode(entry["data"]))
    found, at = [], 0
    for kind, length in parts:
        found.append(np.frombuffer(data, kind, length, at))
        at += found[-1].nbytes
    assert at == len(data)
    return found


def rebuilt(content, entry):
    """Every adversarial image, in 8 bits."""
    shape = content["shape"]
    images = inflated(content["images"], "u1").reshape(shape[0], -1)
    counts, steps, sample, _, _, _, change = unpacked(entry)
    made = images[sample].copy()
    at = 0
    for row, count in zip(made, counts, strict=True):
        features = np.cumsum(steps[at : at + count])
        row[features] += change[at : at + count]
        at += count
    return made.reshape(-1, *shape[1:])


@given(
    pairs=st.integers(1, 9),
    share=st.floats(0, 1),
    low=st.sampled_from([-0.5, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_images_of_any_attack_are_rebuilt(pairs, share, low, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (4, 3, 5, 2)).astype(np.float32) / 255 + np.float32(low)
    sample = generator.integers(0, 4, pairs)
    changed = generator.random((pairs, 3, 5, 2)) < share
    levels = generator.integers(0, 256, changed.shape).astype(np.float32) / 255 + np.float32(low)
    adversarial = np.where(changed, levels, images[sample])
    target = generator.integers(0, 300, pairs)
    success, started = generator.random((2, pairs)) < 0.5
    probabilities = generator.random((pairs, 6)).astype(np.float32)
    outcome = records.AttackOutcome.from_images(
        images[sample],
        adversarial,
        sample,
        target,
        start=np.where(started, target, target + 1),
        end=target,
        success=success & ~started,
        probabilities=probabilities,
    )
    samples = records.Samples(
        images, np.arange(4), np.arange(4), {("net", "jsma_f"): outcome}, {"net": np.eye(4)}
    )
    content = page.of_samples(samples, ["other", "net"], (low, 1 + low)).content
    assert content is not None
    (entry,) = content["entries"]
    assert (entry["network"], entry["attack"]) == (1, "jsma_f")
    expected = np.rint(255 * (adversarial.astype(np.float64) - low))
    np.testing.assert_array_equal(rebuilt(content, entry), expected)
    _, _, rows, aims, shares, reached, _ = unpacked(entry)
    assert rows.tolist() == sample.tolist()
    assert aims.tolist() == target.tolist()
    assert reached.tolist() == np.where(started, 2, success).tolist()
    np.testing.assert_allclose(shares.reshape(pairs, 6) / 65535, probabilities, atol=1e-5)
    clean = inflated(content["probabilities"]["net"], "<u2").reshape(4, 4)
    np.testing.assert_array_equal(clean, 65535 * np.eye(4))


def test_features_of_large_images_are_found_too():
    images = np.zeros((1, 300, 300, 1), np.float32)
    adversarial = images.copy()
    adversarial[0, [0, 299], [5, 299]] = 1
    outcome = records.AttackOutcome.from_images(
        images,
        adversarial,
        np.array([0]),
        np.array([1]),
        start=np.array([0]),
        end=np.array([1]),
        success=np.array([True]),
    )
    samples = records.Samples(images, np.array([0]), np.array([0]), {("net", "jsma_f"): outcome})
    content = page.of_samples(samples, ["net"], (0.0, 1.0)).content
    assert content is not None
    (entry,) = content["entries"]
    assert not entry["short"]
    np.testing.assert_array_equal(rebuilt(content, entry), 255 * adversarial)


def test_without_outcomes_there_is_none(samples):
    nothing = dataclasses.replace(samples, outcomes={})
    assert page.of_samples(nothing, ["baseline"], (0.0, 1.0)) == page.Gallery(None, 0, [])


def test_samples_of_earlier_versions_have_no_probabilities(samples):
    content = page.of_samples(samples, ["baseline"], (0.0, 1.0)).content
    assert content is not None
    assert content["probabilities"] == {}
    assert [entry["classes"] for entry in content["entries"]] == [0]


def test_what_does_not_fit_is_left_out_and_named(samples):
    (outcome,) = samples.outcomes.values()
    several = dataclasses.replace(
        samples,
        outcomes={("baseline", attack): outcome for attack in ("jsma_z", "jsma_f", "jsma_f_exact")},
    )

    def kept(budget):
        found = page.of_samples(several, ["baseline"], (0.0, 1.0), budget)
        assert found.content is not None
        return [entry["attack"] for entry in found.content["entries"]], found.left_out

    everything = ["jsma_f", "jsma_f_exact", "jsma_z"]
    assert kept(page.BUDGET) == (everything, [])
    # The first is always shown, of one image at least.
    assert kept(0) == (everything[:1], everything[1:])
    one = page.of_samples(samples, ["baseline"], (0.0, 1.0)).content
    assert one is not None
    size = len(one["images"]) + len(one["entries"][0]["data"])
    two_fit = size + len(one["entries"][0]["data"]) + 1000
    assert kept(two_fit) == (everything[:2], everything[2:])


def test_of_too_many_images_the_first_are_shown(samples):
    everything = page.of_samples(samples, ["baseline"], (0.0, 1.0))
    assert everything.images == len(samples.images) == 10
    size = len(everything.content["images"]) + len(everything.content["entries"][0]["data"])
    found = page.of_samples(samples, ["baseline"], (0.0, 1.0), size // 2)
    assert 1 < found.images < 6
    assert found.content["shape"][0] == len(found.content["labels"]) == found.images
    (entry,) = found.content["entries"]
    assert entry["pairs"] == 9 * found.images
    adversarial = [
        samples.adversarial("baseline", "jsma_f", pair) for pair in range(entry["pairs"])
    ]
    np.testing.assert_array_equal(
        rebuilt(found.content, entry), np.rint(255 * np.stack(adversarial))
    )
    assert page.of_samples(samples, ["baseline"], (0.0, 1.0), 1).images == 1


@pytest.mark.parametrize("bad", [np.nan, 2.0, -1.0])
def test_probabilities_that_are_none_do_not_stop_the_page(samples, bad):
    (key, outcome), *_ = samples.outcomes.items()
    shares = np.full((len(outcome.target), 10), bad, np.float32)
    strange = {key: dataclasses.replace(outcome, probabilities=shares)}
    found = page.of_samples(
        dataclasses.replace(samples, outcomes=strange), ["baseline"], (0.0, 1.0)
    )
    assert found.content is not None
    assert set(unpacked(found.content["entries"][0])[4]) == {65535 if bad == 2.0 else 0}
