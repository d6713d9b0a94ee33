"""Class weights, smoothing, soft targets, ignored ids, robust losses, masks of elements: PyTorch, and the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rnnfast import losses, reference

N, C = 40, 7
WEIGHTS = np.array([0.5, 0.0, 2.0, 1.0, 1.0, 0.1, 3.0])
OPTIONS = [
    {},
    {"class_weights": WEIGHTS},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"ignore_index": 3},
    {"ignore_index": -100},
    {"class_weights": WEIGHTS, "label_smoothing": 0.2},
    {"class_weights": WEIGHTS, "label_smoothing": 0.2, "ignore_index": 2},
    {"class_weights": WEIGHTS, "ignore_index": -100},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum"])


def problem(soft, ignored=None):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(N, C)) * 3
    target = rng.dirichlet(np.ones(C), N) if soft else rng.integers(0, C, N)
    if ignored is not None:
        target[::5] = ignored
    return logits, target


@each_option
@each_reduction
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_pytorchs(options, reduction, soft):
    torch = pytest.importorskip("torch")
    options = {name: value for name, value in options.items() if not (soft and name == "ignore_index")}
    logits, target = problem(soft, options.get("ignore_index"))
    z = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        z,
        torch.tensor(target),
        weight=torch.tensor(options["class_weights"]) if "class_weights" in options else None,
        label_smoothing=options.get("label_smoothing", 0.0),
        ignore_index=options.get("ignore_index", -100),
        reduction=reduction,
    )
    theirs.backward()
    loss, gradient = losses.softmax_cross_entropy(logits, target, reduction=reduction, **options)
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-10, atol=1e-14)


@each_option
@each_reduction
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_the_oracles_with_masks(options, reduction, soft, dtype):
    options = {name: value for name, value in options.items() if not (soft and name == "ignore_index")}
    logits, target = problem(soft, options.get("ignore_index"))
    logits = logits.astype(dtype)
    mask = np.random.default_rng(1).integers(0, 3, N)
    expected = reference.softmax_cross_entropy(logits, target, mask=mask, reduction=reduction, **options)
    logits[mask == 0] = np.nan
    target[mask == 0] = -5
    shapes = (5, 8)
    found, out = logits.reshape(*shapes, C), np.full((*shapes, C), np.nan, dtype)
    loss, gradient = losses.softmax_cross_entropy(
        found,
        target.reshape(*shapes, *target.shape[1:]),
        mask=mask.reshape(shapes),
        reduction=reduction,
        out=out,
        **options,
    )
    assert gradient is out
    assert loss == pytest.approx(expected[0], rel=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(
        gradient.reshape(N, C), expected[1], rtol=1e-4, atol=1e-6 if dtype == np.float32 else 1e-13
    )


def test_options_that_leave_the_loss_as_it_is():
    logits, ids = problem(False)
    loss, gradient = losses.softmax_cross_entropy(logits, ids)
    one_hot = np.eye(C)[ids]
    for options in ({"class_weights": np.ones(C)}, {"label_smoothing": 0.0}, {"ignore_index": -1}):
        again = losses.softmax_cross_entropy(logits, ids, **options)
        assert again[0] == loss
        np.testing.assert_array_equal(again[1], gradient)
    soft = losses.softmax_cross_entropy(logits, one_hot)
    assert soft[0] == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(soft[1], gradient, rtol=1e-12, atol=1e-15)


def test_classes_of_no_weight_are_not_read_and_impossible_ones_cost_nothing():
    logits, ids = problem(False)
    logits[ids == 1] = np.nan
    loss, gradient = losses.softmax_cross_entropy(logits, ids, class_weights=WEIGHTS)
    assert np.isfinite(loss)
    assert not gradient[ids == 1].any()
    logits, soft = problem(True)
    logits[:, 0], soft[:, 0] = -np.inf, 0
    assert np.isfinite(losses.softmax_cross_entropy(logits, soft)[0])
    assert losses.softmax_cross_entropy(logits, ids, class_weights=np.zeros(C))[0] == 0
    assert losses.softmax_cross_entropy(logits, np.full(N, 3), ignore_index=3)[0] == 0


@each_reduction
@pytest.mark.parametrize("name", ["mean_absolute_error", "huber", "mean_squared_error"])
@pytest.mark.parametrize("delta", [0.3, 1.0, 5.0])
def test_losses_of_differences_are_pytorchs(name, delta, reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    y, target = rng.normal(size=(2, 6, 4, 3)) * 2
    y[0] = target[0]
    x = torch.tensor(y, requires_grad=True)
    theirs = {
        "mean_absolute_error": torch.nn.functional.l1_loss,
        "mean_squared_error": torch.nn.functional.mse_loss,
        "huber": lambda *a, **o: torch.nn.functional.huber_loss(*a, delta=delta, **o),
    }[name](x, torch.tensor(target), reduction=reduction)
    theirs.backward()
    options = {"delta": delta} if name == "huber" else {}
    loss, gradient = getattr(losses, name)(y, target, reduction=reduction, **options)
    assert loss == pytest.approx(theirs.item(), rel=1e-13)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-12)
    mask = rng.integers(0, 3, y.shape)
    for weights in (mask, mask[..., 0], mask > 0):
        expected = getattr(reference, name)(y, target, mask=weights, reduction=reduction, **options)
        found = getattr(losses, name)(y, target, mask=weights, reduction=reduction, **options)
        assert found[0] == pytest.approx(expected[0], rel=1e-13)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-16)


@each_reduction
@pytest.mark.parametrize("shape", [(5,), (4, 5), (6, 4, 5), (2, 3, 4, 5)])
def test_masks_of_elements(shape, reduction):
    """What they hide is not read; a mask that is the same for all features is a mask of entries."""
    rng = np.random.default_rng(3)
    y, target = rng.normal(size=(2, *shape))
    mask = rng.random(shape) < 0.6
    for loss in (losses.mean_squared_error, losses.mean_absolute_error, losses.huber):
        expected = loss(np.where(mask, y, 0), np.where(mask, target, 0), reduction="sum")
        spoilt, out = [np.where(mask, one, np.nan) for one in (y, target)], np.full(shape, np.nan)
        found, gradient = loss(*spoilt, mask=mask, reduction=reduction, out=out)
        count = mask.sum() if reduction == "mean" else 1
        assert found == pytest.approx(expected[0] / count, rel=1e-13)
        np.testing.assert_allclose(gradient, expected[1] / count, rtol=1e-13)
        assert gradient is out
        entries = rng.integers(0, 3, shape[:-1]).astype(float)
        by_entry = loss(y, target, mask=entries, reduction=reduction)
        by_element = loss(y, target, mask=np.repeat(entries[..., None], 5, axis=-1), reduction=reduction)
        assert by_element[0] == pytest.approx(by_entry[0], rel=1e-13)
        np.testing.assert_allclose(by_element[1], by_entry[1], rtol=1e-12)
    if len(shape) == 3:
        lengths = np.array([6, 0, 3, 1])
        within = (np.arange(6)[:, None] < lengths)[..., None] & mask
        found = losses.mean_squared_error(y, target, mask=mask, lengths=lengths)
        np.testing.assert_array_equal(found[1], losses.mean_squared_error(y, target, mask=within)[1])


def test_probabilities_in_place_of_logits_are_a_warning():
    rng = np.random.default_rng(0)
    logits, ids = rng.normal(size=(6, 3, 4)), rng.integers(0, 4, (6, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for given in (p, p.astype(np.float32), p[:, :2]):
        with pytest.warns(UserWarning, match="expected logits, got what looks like probabilities") as found:
            losses.softmax_cross_entropy(given, ids[:, : given.shape[1]])
        assert found[0].filename == __file__
    mask = np.ones((6, 3), bool)
    mask[0, 1] = False
    spoilt = np.where(mask[..., None], p, np.nan)
    with pytest.warns(UserWarning, match="probabilities"):
        losses.softmax_cross_entropy(spoilt, ids, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (logits, np.abs(logits), np.log(p), p * 1.01, np.zeros((6, 3, 4)), p[..., :1] * 0 + 1):
            losses.softmax_cross_entropy(given, ids if given.shape[-1] == 4 else ids * 0)
        losses.softmax_cross_entropy(p[0, 0], ids[0, 0])  # one entry tells nothing


def test_bad_options():
    logits, ids = problem(False)
    soft = np.full((N, C), 1 / C)
    y = np.zeros((6, 4, 1))
    cases = [
        (lambda: losses.softmax_cross_entropy(logits, ids, class_weights=WEIGHTS[1:]), "class_weights: expected shape"),
        (lambda: losses.softmax_cross_entropy(logits, ids, class_weights=-WEIGHTS), "class_weights: expected finite"),
        (lambda: losses.softmax_cross_entropy(logits, ids, class_weights=WEIGHTS * np.nan), "class_weights: expected"),
        (lambda: losses.softmax_cross_entropy(logits, ids, label_smoothing=1.5), "label_smoothing: expected"),
        (lambda: losses.softmax_cross_entropy(logits, ids, ignore_index=1.0), "ignore_index: expected an integer"),
        (lambda: losses.softmax_cross_entropy(logits, soft, ignore_index=1), "ignore_index: expected None"),
        (lambda: losses.softmax_cross_entropy(logits, soft[:, 1:]), "ids: expected shape"),
        (lambda: losses.softmax_cross_entropy(logits, soft * 8), "ids: expected values in 0..1"),
        (lambda: losses.softmax_cross_entropy(logits, ids.astype(float)), "ids: expected integers"),
        (lambda: losses.softmax_cross_entropy(logits, ids[:, None]), "ids: expected shape"),
        (lambda: losses.softmax_cross_entropy(logits, np.eye(C, dtype=int)[ids]), "ids: expected shape"),
        (lambda: losses.mean_squared_error(y, y[..., 0]), r"target: expected .* target\[..., None\] has it"),
        (lambda: losses.huber(y[..., 0], y), r"target: expected shape \[6, 4\], got \[6, 4, 1\]; target\[..., 0\]"),
        (lambda: losses.mean_absolute_error(y, y[:, :1]), "target: expected shape"),
        (lambda: losses.huber(y, y, delta=0), "delta: expected a number above 0"),
        (lambda: losses.huber(y, y, mask=np.ones((6, 4, 2))), "mask: expected shape"),
    ]
    for call, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            call()
