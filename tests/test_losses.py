"""Losses: formulas in float64, 4th-order differences, masks over poison, shapes and layouts, bad input, PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnfast import losses

Array = np.ndarray[Any, np.dtype[Any]]


class Loss(NamedTuple):
    """A loss with what its tests need to know."""

    function: Callable[..., tuple[float, Array]]
    entry_losses: Callable[[Array, Array], Array]  # float64, [...] from [..., O]: the formula as in a book
    divides_by_features: bool
    ids: bool = False
    probabilities: bool = False
    options: dict[str, Any] = {}  # noqa: RUF012

    def __call__(self, prediction: Any, target: Any, **options: Any) -> tuple[float, Array]:
        return self.function(prediction, target, **self.options, **options)

    def data(self, shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        z = rng.normal(size=shape) * 2
        prediction = (1 / (1 + np.exp(-z)) if self.probabilities else z).astype(dtype)
        if self.ids:
            return prediction, rng.integers(0, max(shape[-1], 1), shape[:-1])
        return prediction, rng.random(shape).astype(dtype)

    def expected(self, prediction: Array, target: Array, weights: Array, reduction: str) -> float:
        values = self.entry_losses(prediction.astype(np.float64), target if self.ids else target.astype(np.float64))
        divisor = weights.sum() * (prediction.shape[-1] if self.divides_by_features else 1)
        return float((values * weights).sum() / (divisor if reduction == "mean" else 1))


def _cross_entropy(z: Array, ids: Array) -> Array:
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(p, ids[..., None], axis=-1)[..., 0])


def _bce(p: Array, target: Array) -> Array:
    return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(axis=-1)


def _huber(d: Array, delta: float) -> Array:
    return np.where(np.abs(d) <= delta, d * d / 2, delta * (np.abs(d) - delta / 2))


LOSSES = {
    "cross_entropy": Loss(losses.softmax_cross_entropy, _cross_entropy, False, ids=True),
    "mse": Loss(losses.mean_squared_error, lambda y, target: ((y - target) ** 2).sum(axis=-1), True),
    "mae": Loss(losses.mean_absolute_error, lambda y, target: np.abs(y - target).sum(axis=-1), True),
    "huber": Loss(losses.huber, lambda y, target: _huber(y - target, 0.7).sum(axis=-1), True, options={"delta": 0.7}),
    "bce": Loss(losses.binary_cross_entropy, _bce, True, probabilities=True),
    "bce_logits": Loss(
        losses.binary_cross_entropy, lambda z, t: _bce(1 / (1 + np.exp(-z)), t), True, options={"logits": True}
    ),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def numerical_gradient(f: Callable[[Array], float], array: Array, eps: float = 3e-4) -> Array:
    """4th-order central differences."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        values = []
        for offset in (-2, -1, 1, 2):
            moved = array.copy()
            moved[index] += offset * eps
            values.append(f(moved))
        gradient[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * eps)
    return gradient


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.max(np.abs(actual - expected), initial=0) / max(np.max(np.abs(expected), initial=0), 1e-30))


# --- values -----------------------------------------------------------------------------------------------------------


@each_loss
@each_dtype
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighting", [None, "bool", "real", "integer"])
@pytest.mark.parametrize("shape", [(5,), (1, 1), (7, 3), (6, 4, 5), (2, 3, 2, 17), (300, 8, 33)])
def test_formula(loss: Loss, dtype: Any, reduction: str, weighting: str | None, shape: tuple[int, ...]) -> None:
    prediction, target = loss.data(shape, dtype)
    rng = np.random.default_rng(1)
    weights = {
        None: np.ones(shape[:-1]),
        "bool": np.asarray(rng.random(shape[:-1]) < 0.6),
        "real": np.asarray(rng.random(shape[:-1]).astype(dtype)),
        "integer": np.asarray(rng.integers(0, 3, shape[:-1])),
    }[weighting]
    if not weights.any():
        weights = np.ones_like(weights)
    value, gradient = loss(prediction, target, mask=None if weighting is None else weights, reduction=reduction)
    assert type(value) is float
    assert gradient.dtype == dtype and gradient.shape == shape and gradient.flags.c_contiguous
    expected = loss.expected(prediction, target, weights.astype(np.float64), reduction)
    assert value == pytest.approx(expected, rel=1e-6 if dtype is np.float32 else 1e-12)
    _, exact = loss(
        prediction.astype(np.float64),
        target if loss.ids else target.astype(np.float64),
        mask=weights,
        reduction=reduction,
    )
    assert relative_error(gradient, exact) < (1e-6 if dtype is np.float32 else 1e-12)
    assert not gradient[weights == 0].any()


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_against_differences(loss: Loss, reduction: str) -> None:
    prediction, target = loss.data((3, 2, 4))
    if loss.probabilities:
        prediction = 0.2 + 0.6 * prediction  # away from the poles
    weights = np.array([[1.0, 0.0], [0.5, 2.0], [0.0, 1.5]])
    _, gradient = loss(prediction, target, mask=weights, reduction=reduction)
    numerical = numerical_gradient(lambda y: loss(y, target, mask=weights, reduction=reduction)[0], prediction)
    assert relative_error(gradient, numerical) < 1e-8


@each_dtype
def test_cross_entropy_at_any_magnitude(dtype: Any) -> None:
    z = np.array([[1e4, -1e4, 0], [-1e30, -1e30, -1e30], [1e30, 0, 0], [0, -np.inf, 0]], dtype)
    value, gradient = losses.softmax_cross_entropy(z, [0, 1, 0, 2], reduction="sum")
    assert value == pytest.approx(math.log(3) + math.log(2), rel=1e-6)
    expected = [[0, 0, 0], [1 / 3, -2 / 3, 1 / 3], [0, 0, 0], [0.5, 0, -0.5]]
    assert np.allclose(gradient, expected, rtol=1e-6, atol=1e-7)
    value, _ = losses.softmax_cross_entropy(z[:1], [1])
    assert value == 2e4


@each_dtype
def test_bce_of_logits_at_any_magnitude(dtype: Any) -> None:
    z = np.array([[1e4, -1e4, -40, 40, 1e30]], dtype)
    value, gradient = losses.binary_cross_entropy(z, [[0, 1, 0, 0.5, 1]], logits=True, reduction="sum")
    assert value == pytest.approx(2e4 + 20, rel=1e-6)
    assert np.allclose(gradient, [[1, -1, math.exp(-40), 0.5, 0]], rtol=1e-6, atol=0)
    # A confident and right answer has a small loss, not none.
    for logit in (-10.0, -20.0, -40.0):
        value, _ = losses.binary_cross_entropy(np.array([logit], dtype), [0], logits=True)
        assert value == pytest.approx(math.log1p(math.exp(logit)), rel=1e-6)
        value, _ = losses.binary_cross_entropy(np.array([math.exp(logit)], dtype), [0])
        assert value == pytest.approx(-math.log1p(-math.exp(logit)), rel=1e-6)


@each_dtype
def test_bce_of_certainties(dtype: Any) -> None:
    p = np.array([0, 1, 0, 1], dtype)
    value, gradient = losses.binary_cross_entropy(p, np.array([0, 1, 1, 0]), reduction="sum")
    assert value == 200
    assert np.allclose(gradient, [0, 0, -1e12, 1e12], rtol=1e-6)


@each_loss
@each_dtype
def test_non_finite_predictions_give_no_warning(loss: Loss, dtype: Any) -> None:
    prediction, target = loss.data((4, 3), dtype)
    prediction[1, 2] = np.nan
    value, gradient = loss(prediction, target)
    assert math.isnan(value)
    assert np.isnan(gradient[1]).any() and np.isfinite(gradient[[0, 2, 3]]).all()


def test_squares_do_not_overflow_in_float32() -> None:
    value, gradient = losses.mean_squared_error(np.array([1e25], np.float32), [0.0])
    assert value == pytest.approx(1e50) and gradient[0] == np.float32(2e25)


# --- masks ------------------------------------------------------------------------------------------------------------


@each_loss
@each_dtype
@pytest.mark.parametrize("shape", [(9, 5, 4), (300, 8, 33)])
def test_masked_entries_are_not_read(loss: Loss, dtype: Any, shape: tuple[int, ...]) -> None:
    prediction, target = loss.data(shape, dtype)
    mask = np.random.default_rng(2).random(shape[:-1]) < 0.5
    mask[: shape[0] // 3] = False
    mask[-shape[0] // 3 :] = True
    value, gradient = loss(prediction, target, mask=mask)
    compact_value, compact = loss(prediction[mask], target[mask])
    assert value == pytest.approx(compact_value, rel=1e-14)
    assert np.array_equal(gradient[mask], compact) and not gradient[~mask].any()
    for poison in (np.nan, np.inf, -7.0):
        prediction[~mask] = poison
        target[~mask] = -(10**9) if loss.ids else poison
        poisoned_value, poisoned = loss(prediction, target, mask=mask)
        assert poisoned_value == value
        assert np.array_equal(poisoned, gradient)


@each_loss
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_lengths_are_a_mask(loss: Loss, batch_first: bool, weighted: bool) -> None:
    T, B = 6, 4
    shape = (B, T, 3) if batch_first else (T, B, 3)
    prediction, target = loss.data(shape)
    lengths = [3, 0, 6, 1]
    within = np.arange(T)[:, None] < lengths
    within = within.T if batch_first else within
    weights = np.random.default_rng(3).random(within.shape) + 0.1
    expected_value, expected = loss(prediction, target, mask=within * weights if weighted else within)
    prediction[~within] = np.nan
    target[~within] = 99
    weights[~within] = np.nan
    value, gradient = loss(
        prediction, target, lengths=lengths, mask=weights if weighted else None, batch_first=batch_first
    )
    assert value == expected_value and np.array_equal(gradient, expected)


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", [{"mask": np.zeros((3, 2), bool)}, {"mask": np.zeros((3, 2))}, {"lengths": [0, 0]}])
def test_all_masked(loss: Loss, reduction: str, options: dict[str, Any]) -> None:
    prediction, target = loss.data((3, 2, 4), np.float32)
    out = np.full_like(prediction, np.nan)
    value, gradient = loss(prediction, target, reduction=reduction, out=out, **options)
    assert value == 0.0 and gradient is out and not out.any()


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 3, 4), (3, 0, 4), (0, 0, 0)])
def test_empty(loss: Loss, reduction: str, shape: tuple[int, ...]) -> None:
    if loss.ids and shape == (0,):
        with pytest.raises(ValueError, match="ids: expected values"):
            loss(np.zeros(shape), 0)
        return
    target = np.zeros(shape[:-1] if loss.ids else shape, int)
    value, gradient = loss(np.zeros(shape, np.float32), target, reduction=reduction)
    assert value == 0.0 and gradient.shape == shape and gradient.dtype == np.float32


def test_no_classes_masked_away() -> None:
    value, gradient = losses.softmax_cross_entropy(np.zeros((3, 0)), [0, 1, 2], mask=[False] * 3)
    assert value == 0.0 and gradient.shape == (3, 0)


@given(
    shape=st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
    name=st.sampled_from(sorted(LOSSES)),
)
def test_loss_is_the_weighted_mean_of_its_entries(
    shape: tuple[int, int, int], seed: int, dtype: Any, name: str
) -> None:
    loss = LOSSES[name]
    prediction, target = loss.data(shape, dtype, seed)
    weights = np.random.default_rng(seed).integers(0, 4, shape[:-1]) / 2
    value, gradient = loss(prediction, target, mask=weights)
    singly = [(loss(prediction[i], target[i]), weights[i]) for i in np.ndindex(weights.shape)]
    total = weights.sum() or 1.0
    assert value == pytest.approx(sum(one * w for (one, _), w in singly) / total, rel=1e-6, abs=1e-12)
    for index, ((_, row), w) in zip(np.ndindex(weights.shape), singly, strict=True):
        assert np.allclose(gradient[index], row * (w / total), rtol=1e-5, atol=1e-7)
    if loss.ids:
        assert np.abs(gradient.sum(axis=-1)).max(initial=0) < 1e-6


# --- blocks, layouts, dtypes, out -------------------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("block", [1, 50, 10**9])
def test_gradient_does_not_depend_on_blocks(loss: Loss, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, target = loss.data((40, 3, 10), np.float32)
    mask = np.random.default_rng(4).random((40, 3)) < 0.8
    value, gradient = loss(prediction, target, mask=mask)
    monkeypatch.setattr(losses, "_BLOCK", block)
    other_value, other = loss(prediction, target, mask=mask)
    assert other_value == pytest.approx(value, rel=1e-13) and np.array_equal(gradient, other)


def _layouts(array: Array) -> dict[str, Array]:
    padded = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    padded[..., 1:-2] = array
    unaligned = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    backward = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    return {
        "fortran": np.asfortranarray(array),
        "transposed": np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1),
        "sliced": padded[..., 1:-2],
        "backward": backward,
        "unaligned": unaligned,
        "swapped": array.astype(array.dtype.newbyteorder(">")),
        "read-only": np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    }


@each_loss
@each_dtype
@pytest.mark.parametrize("masked", [False, True])
def test_layouts(loss: Loss, dtype: Any, masked: bool) -> None:
    prediction, target = loss.data((5, 3, 4), dtype)
    mask = np.arange(15).reshape(5, 3) % 3 > 0 if masked else None
    value, gradient = loss(prediction, target, mask=mask)
    for prediction_layout in _layouts(prediction).values():
        for target_layout in _layouts(target).values():
            other_value, other = loss(prediction_layout, target_layout, mask=mask)
            assert other_value == value and np.array_equal(other, gradient)
            assert other.dtype == dtype and other.dtype.isnative and other.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int8, np.uint64, bool])
def test_other_real_dtypes_become_float64(dtype: Any) -> None:
    prediction = np.array([[1, 0], [1, 1]], dtype)
    value, gradient = losses.mean_squared_error(prediction, [[0.5, 0.5], [0.5, 0.5]])
    assert value == 0.25 and gradient.dtype == np.float64
    value, gradient = losses.mean_squared_error([[1, 2]], np.array([[0, 0]], dtype))
    assert value == 2.5 and gradient.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_ids_of_any_integer_dtype(dtype: Any) -> None:
    z, ids = LOSSES["cross_entropy"].data((4, 3, 120), np.float32)
    value, gradient = losses.softmax_cross_entropy(z, ids)
    other_value, other = losses.softmax_cross_entropy(z, ids.astype(dtype))
    assert other_value == value and np.array_equal(other, gradient)


@each_loss
def test_out(loss: Loss) -> None:
    prediction, target = loss.data((5, 3, 4), np.float32)
    before = prediction.copy()
    _, gradient = loss(prediction, target)
    out = np.full_like(prediction, np.nan)
    _, written = loss(prediction, target, out=out)
    assert written is out and np.array_equal(out, gradient)
    assert np.array_equal(prediction, before)


@each_loss
def test_out_that_does_not_fit(loss: Loss) -> None:
    prediction, target = loss.data((5, 3, 4), np.float32)
    read_only = np.zeros_like(prediction)
    read_only.flags.writeable = False
    for out, kind, message in (
        ([0.0], TypeError, "out: expected a NumPy array"),
        (np.zeros((5, 3, 4)), TypeError, "out: expected dtype float32, got float64"),
        (np.zeros((5, 3, 5), np.float32), ValueError, r"out: expected shape \[5, 3, 4\], got \[5, 3, 5\]"),
        (read_only, ValueError, "out: .*writeable"),
        (np.zeros((3, 5, 4), np.float32).swapaxes(0, 1), ValueError, "out: .*contiguous"),
        (prediction, ValueError, "out: .* shares with"),
    ):
        with pytest.raises(kind, match=message):
            loss(prediction, target, out=out)


def test_nothing_is_written_on_an_error() -> None:
    out = np.full((2, 3), 7.0)
    with pytest.raises(ValueError, match="ids"):
        losses.softmax_cross_entropy(np.zeros((2, 3)), [0, 3], out=out)
    with pytest.raises(ValueError, match="prediction"):
        losses.binary_cross_entropy(np.full((2, 3), 1.5), np.zeros((2, 3)), out=out)
    assert (out == 7.0).all()


# --- bad input --------------------------------------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"reduction": "none"}, ValueError, "reduction: expected one of 'mean', 'sum', got 'none'"),
        ({"reduction": 1}, TypeError, "reduction"),
        ({"batch_first": 1}, TypeError, "batch_first"),
        ({"mask": np.ones((3, 2))}, ValueError, r"mask: expected shape \[2, 3\], got \[3, 2\]"),
        ({"mask": np.ones((2, 3, 4, 1))}, ValueError, "mask: expected shape"),
        ({"mask": np.ones((2, 3, 5))}, ValueError, "mask: expected shape"),
        ({"mask": np.ones((2, 3), complex)}, TypeError, "mask"),
        ({"mask": [["a"] * 3] * 2}, TypeError, "mask"),
        (
            {"mask": [[1, 1, 1], [1, -0.5, 1]]},
            ValueError,
            r"mask: expected weights of at least 0, got -0.5 at \[1, 1\]",
        ),
        ({"mask": [[1, np.nan, 1], [1, 1, 1]]}, ValueError, r"mask: .* got nan at \[0, 1\]"),
        ({"mask": [[1, np.inf, 1], [1, 1, 1]]}, ValueError, "mask: expected weights with a finite sum"),
        ({"mask": np.full((2, 3), 1e308)}, ValueError, "mask: expected weights with a finite sum"),
        ({"lengths": [1, 2]}, ValueError, "lengths: expected shape"),
        ({"lengths": [1, 2, 3]}, ValueError, "lengths: expected values in 0..T, 0..2, got 3"),
        ({"lengths": [1, 2, -1]}, ValueError, "lengths: expected values"),
        ({"lengths": [1.0, 2.0, 1.0]}, TypeError, "lengths"),
        ({"lengths": [1, 2, 3], "batch_first": True}, ValueError, "lengths: expected shape"),
    ],
)
def test_bad_options(loss: Loss, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    prediction, target = loss.data((2, 3, 4))
    with pytest.raises(kind, match=message):
        loss(prediction, target, **options)


@each_loss
@pytest.mark.parametrize(
    "prediction", [1j * np.ones((2, 3)), np.full((2, 3), "a"), np.full((2, 3), None), [[1], [1, 2]]]
)
def test_bad_predictions(loss: Loss, prediction: Any) -> None:
    name = "logits" if loss.ids else "prediction"
    with pytest.raises(TypeError, match=f"{name}: expected an array of real numbers"):
        loss(prediction, [0, 0])


@each_loss
def test_a_number_is_no_prediction(loss: Loss) -> None:
    with pytest.raises(ValueError, match="expected at least one axis"):
        loss(0.5, 0)


@each_loss
def test_lengths_need_three_axes(loss: Loss) -> None:
    prediction, target = loss.data((4, 3))
    with pytest.raises(ValueError, match=r"lengths: expected .* 3 axes"):
        loss(prediction, target, lengths=[1, 2, 3])


@each_loss
def test_targets_are_not_broadcast(loss: Loss) -> None:
    name = "ids" if loss.ids else "target"
    with pytest.raises(ValueError, match=rf"{name}: expected shape \[5(, 1)?\], got \[1(, 5)?\]"):
        loss(np.full((5, 1), 0.5), np.zeros(1 if loss.ids else (1, 5), int))


@pytest.mark.parametrize("ids", [[0.0, 1.0], [True, False], ["a", "b"], [None, 1]])
def test_ids_are_integers(ids: Any) -> None:
    with pytest.raises(TypeError, match="ids"):
        losses.softmax_cross_entropy(np.zeros((2, 3)), ids)


@pytest.mark.parametrize(("bad", "dtype"), [(-1, np.int64), (4, np.int64), (4, np.uint8), (2**64 - 1, np.uint64)])
def test_ids_out_of_range_are_named(bad: int, dtype: Any) -> None:
    ids = np.zeros((3, 2), dtype)
    ids[1, 1] = ids[2, 0] = bad
    with pytest.raises(ValueError, match=rf"ids: expected values in 0\.\.3, got {bad} at \[1, 1\]"):
        losses.softmax_cross_entropy(np.zeros((3, 2, 4)), ids)
    with pytest.raises(ValueError, match=rf"ids: .* got {bad} at \[2, 0\]"):
        losses.softmax_cross_entropy(np.zeros((3, 2, 4)), ids, lengths=[3, 1])
    assert losses.softmax_cross_entropy(np.zeros((3, 2, 4)), ids, lengths=[2, 1])[0] == pytest.approx(math.log(4))


def test_probabilities_and_targets_out_of_range_are_named() -> None:
    half, bad = np.full((3, 2), 0.5, np.float32), np.full((3, 2), 0.5, np.float32)
    bad[1, 0] = 1.25
    with pytest.raises(ValueError, match=r"prediction: expected values in 0\.\.1, got 1\.25 at \[1, 0\]"):
        losses.binary_cross_entropy(bad, half)
    for logits in (False, True):
        with pytest.raises(ValueError, match=r"target: expected values in 0\.\.1, got 1\.25 at \[1, 0\]"):
            losses.binary_cross_entropy(half, bad, logits=logits)
    with pytest.raises(TypeError, match="logits: expected True or False"):
        losses.binary_cross_entropy(half, half, logits=1)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@each_loss
@each_dtype
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pytorch(loss: Loss, dtype: Any, reduction: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    functional = torch.nn.functional
    prediction, target = loss.data((6, 5), dtype)
    if loss.probabilities:
        prediction[0, :4] = target[0, :2] = 0
        prediction[0, 1::2] = target[0, 2:4] = 1
    theirs = {
        losses.softmax_cross_entropy: functional.cross_entropy,
        losses.mean_squared_error: functional.mse_loss,
        losses.mean_absolute_error: functional.l1_loss,
        losses.huber: lambda *a, **options: functional.huber_loss(*a, delta=0.7, **options),
        losses.binary_cross_entropy: (
            functional.binary_cross_entropy if loss.probabilities else functional.binary_cross_entropy_with_logits
        ),
    }[loss.function]
    leaf = torch.tensor(prediction, requires_grad=True)
    expected = theirs(leaf, torch.tensor(target), reduction=reduction)
    expected.backward()
    value, gradient = loss(prediction, target, reduction=reduction)
    rel = 1e-6 if dtype is np.float32 else 1e-13
    assert value == pytest.approx(expected.item(), rel=rel)
    # PyTorch's 1e-12 is a float32, also in float64.
    assert np.allclose(gradient, leaf.grad.numpy(), rtol=max(10 * rel, 1e-8 if loss.probabilities else 0), atol=rel)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_floating_point_errors_for_a_caller_who_wants_exceptions(dtype):
    z = np.array([[800.0, -800.0, 0.0], [90.0, -90.0, 1e-30]], dtype)
    with np.errstate(all="raise"):
        for loss, dz in (
            losses.softmax_cross_entropy(z, [0, 1]),
            losses.mean_squared_error(z * np.finfo(dtype).eps, z),
            losses.binary_cross_entropy(z, np.zeros_like(z), logits=True),
            losses.binary_cross_entropy(np.array([0, 1, np.finfo(dtype).tiny], dtype), np.ones(3)),
        ):
            assert np.isfinite(loss)
            assert np.isfinite(dz).all()
