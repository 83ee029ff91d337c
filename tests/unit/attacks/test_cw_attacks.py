"""The attacks of Carlini & Wagner on networks whose nearest adversarial images are known."""

import keras
import numpy as np
import pytest

from ddefense import attacks

ATTACKS = {"cw_l2": attacks.cw_l2, "cw_l0": attacks.cw_l0, "cw_linf": attacks.cw_linf}
WEIGHTS = np.array([4.0, -2.0, 1.0, 0.5], np.float32)
QUICK = attacks.CarliniWagner(steps=400, search_steps=6)


def linear(weights=WEIGHTS, offset=0.0, scale=1.0):
    """Two classes on images of one row: z = scale * (0, weights @ x + offset)."""
    weights = np.asarray(weights, np.float32)
    images = keras.Input((1, len(weights), 1))
    network = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(images)))
    kernel = np.stack([np.zeros_like(weights), weights], axis=1)
    network.set_weights([scale * kernel, scale * np.array([0.0, offset], np.float32)])
    return attacks.classifier(network)


def as_images(rows):
    return np.asarray(rows, np.float32).reshape(len(rows), 1, -1, 1)


def predicted(attacked, images):
    return np.asarray(attacked(images)).argmax(axis=1)


def changes(made, images):
    return (made - images).reshape(len(images), -1)


@pytest.fixture
def middle():
    """An image in the middle of the box, of class 0, 2 in logits away from class 1."""
    attacked = linear(offset=-2.0 - WEIGHTS.sum() / 2)
    images = as_images([[0.5] * 4])
    assert np.asarray(attacked(images))[0, 1] == pytest.approx(-2.0)
    return attacked, images


def test_l2_finds_the_way_straight_to_the_boundary(middle):
    """The nearest point of a hyperplane is abs(margin) / ||w||_2 away, along w."""
    attacked, images = middle
    made = attacks.cw_l2(
        attacked, images, np.array([0]), np.array([1]), settings=attacks.CarliniWagner()
    )
    change = changes(made, images)[0]
    nearest = 2.0 / np.linalg.norm(WEIGHTS)
    assert predicted(attacked, made) == [1]
    assert nearest * 0.999 <= np.linalg.norm(change) <= nearest * 1.05
    np.testing.assert_allclose(change / np.linalg.norm(change), WEIGHTS / 21.25**0.5, atol=0.1)


def test_linf_spreads_the_change_over_every_feature(middle):
    """In L-infinity the nearest point is abs(margin) / ||w||_1 away, by that much in each."""
    attacked, images = middle
    made = attacks.cw_linf(
        attacked, images, np.array([0]), np.array([1]), settings=attacks.CarliniWagner()
    )
    largest = np.abs(changes(made, images)).max()
    nearest = 2.0 / np.abs(WEIGHTS).sum()
    assert predicted(attacked, made) == [1]
    # It gives up when 0.9 times what it has is out of reach.
    assert nearest * 0.999 <= largest <= nearest / 0.9 * 1.02


@pytest.mark.parametrize(
    ("margin", "expected"),
    # From 0.5 a feature moves by 0.5 at most: the first gives 2, the first two give 3.
    [(1.5, [0]), (2.8, [0, 1]), (3.4, [0, 1, 2])],
)
def test_l0_changes_the_fewest_features(margin, expected):
    attacked = linear(offset=-margin - WEIGHTS.sum() / 2)
    images = as_images([[0.5] * 4])
    made = attacks.cw_l0(
        attacked, images, np.array([0]), np.array([1]), settings=attacks.CarliniWagner()
    )
    assert predicted(attacked, made) == [1]
    assert np.flatnonzero(changes(made, images)[0]).tolist() == expected


@pytest.mark.parametrize("name", ATTACKS)
def test_kappa_is_a_margin_of_the_logits(name, middle):
    attacked, images = middle
    made = ATTACKS[name](
        attacked,
        images,
        np.array([0]),
        np.array([1]),
        settings=attacks.CarliniWagner(kappa=0.7, steps=400, search_steps=6),
    )
    logits = np.asarray(attacked(made))[0]
    assert logits[1] - logits[0] >= 0.7
    # No more than it takes.
    if name == "cw_l2":
        nearest = 2.7 / np.linalg.norm(WEIGHTS)
        assert np.linalg.norm(changes(made, images)) <= nearest * 1.05


@pytest.mark.parametrize("name", ATTACKS)
def test_untargeted_leaves_the_label(name, middle):
    attacked, images = middle
    made = ATTACKS[name](attacked, images, np.array([0]), settings=QUICK)
    assert predicted(attacked, made) == [1]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_target_out_of_reach_leaves_the_original(name):
    # All features at their best give WEIGHTS' positive part, 5.5.
    attacked = linear(offset=-6.0)
    images = as_images([[0.2, 0.4, 0.6, 0.8]])
    made = ATTACKS[name](attacked, images, np.array([0]), np.array([1]), settings=QUICK)
    np.testing.assert_array_equal(made, images)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_adversarial_already_stays_as_it_is(name):
    attacked = linear(offset=3.0)
    images = as_images([[0.2, 0.4, 0.6, 0.8]])
    made = ATTACKS[name](attacked, images, np.array([0]), np.array([1]), settings=QUICK)
    np.testing.assert_array_equal(made, images)


@pytest.mark.parametrize("name", ATTACKS)
def test_logits_of_any_scale_are_reached(name):
    """Softmax of these is 0 and 1 in float32, which an attack on logits does not see."""
    attacked = linear(offset=-2.0 - WEIGHTS.sum() / 2, scale=300.0)
    images = as_images([[0.5] * 4])
    made = ATTACKS[name](attacked, images, np.array([0]), np.array([1]), settings=QUICK)
    assert predicted(attacked, made) == [1]
    if name == "cw_l2":
        assert np.linalg.norm(changes(made, images)) <= 2.0 / np.linalg.norm(WEIGHTS) * 1.1


@pytest.fixture(scope="module")
def tiny(make_tiny_network):
    from ddefense import networks

    return attacks.classifier(networks.logits_of(make_tiny_network(seed=4)))


@pytest.fixture(scope="module")
def attempts(tiny, tiny_images):
    labels = predicted(tiny, tiny_images)
    return tiny_images, labels, (labels + 1 + np.arange(len(labels)) % 2) % 3


@pytest.mark.parametrize("name", ATTACKS)
def test_rows_keep_their_order_and_do_not_mind_their_company(name, tiny, attempts):
    images, labels, targets = attempts
    settings = attacks.CarliniWagner(steps=60, search_steps=4)
    together = ATTACKS[name](tiny, images, labels, targets, settings=settings, batch_size=10)
    few = ATTACKS[name](tiny, images, labels, targets, settings=settings, batch_size=3)
    again = ATTACKS[name](tiny, images, labels, targets, settings=settings, batch_size=3)
    np.testing.assert_array_equal(few, again)
    assert (predicted(tiny, together) == targets).any()
    np.testing.assert_array_equal(predicted(tiny, together), predicted(tiny, few))
    near, far = (np.linalg.norm(changes(made, images), axis=1) for made in (together, few))
    np.testing.assert_allclose(near, far, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)])
def test_images_stay_within_bounds_and_failures_are_originals(name, bounds, tiny, attempts):
    images, labels, targets = attempts
    settings = attacks.CarliniWagner(steps=60, search_steps=4)
    made = ATTACKS[name](tiny, images, labels, targets, bounds=bounds, settings=settings)
    assert made.dtype == np.float32
    assert made.min() >= bounds[0]
    assert made.max() <= bounds[1]
    failed = predicted(tiny, made) != targets
    np.testing.assert_array_equal(made[failed], images[failed])


def test_l2_keeps_the_nearest_of_all_it_met(tiny, attempts):
    """More searches never make it worse, because the best of any of them is kept."""
    images, labels, targets = attempts
    distances = [
        np.linalg.norm(
            changes(
                attacks.cw_l2(
                    tiny,
                    images,
                    labels,
                    targets,
                    settings=attacks.CarliniWagner(steps=60, search_steps=count, initial_c=10.0),
                ),
                images,
            ),
            axis=1,
        )
        for count in (1, 3)
    ]
    reached = distances[0] > 0
    assert reached.any()
    assert (distances[1][reached] <= distances[0][reached] + 1e-5).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_bad_input_is_refused_before_any_work(name, tiny, attempts):
    images, labels, targets = attempts
    attack = ATTACKS[name]
    for broken, expected in (
        ((images[:0], labels[:0], targets[:0]), "images: expected shape"),
        ((images[:, :3], labels, targets), "images: expected shape"),
        ((np.full_like(images, np.nan), labels, targets), "images: expected values within"),
        ((images + 1, labels, targets), "images: expected values within"),
        ((images, labels, labels), "targets: expected a class other than the label"),
        ((images, labels, np.full(len(labels), 3)), r"targets: expected 10 classes in 0..2"),
    ):
        with pytest.raises(ValueError, match=expected):
            attack(tiny, *broken, settings=QUICK)
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        attack(tiny, images, labels, targets, settings=QUICK, batch_size=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_probabilities_are_refused(name, make_tiny_network, attempts):
    attacked = attacks.classifier(make_tiny_network(), "probabilities")
    with pytest.raises(ValueError, match=f"{name}: expected a network that returns logits"):
        ATTACKS[name](attacked, *attempts, settings=QUICK)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kappa", -1.0),
        ("kappa", float("nan")),
        ("steps", 0),
        ("steps", 1.5),
        ("search_steps", 0),
        ("search_steps", True),
        ("learning_rate", 0.0),
        ("initial_c", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: expected .*received"):
        attacks.CarliniWagner(**{field: value})
