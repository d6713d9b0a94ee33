"""Long series in windows, and the steps at which episodes begin."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks
from .._checks import Array
from .sequences import checked_sequence

__all__ = ["from_dones", "windows"]


def windows(
    series: ArrayLike, steps: int, *, horizon: int = 1, stride: int = 1, batch_first: bool = False
) -> tuple[Array, Array]:
    """Cut a long series into windows, each with what comes next.

    Parameters
    ----------
    series : array_like, shape [N] or [N, ...]
        One number or more at each time.
    steps : int
        T: the steps of a window.
    horizon : int, optional
        The steps after each window that are to be forecast; 0 for windows alone.
    stride : int, optional
        The steps from one window to the next.
    batch_first : bool, optional

    Returns
    -------
    x : ndarray, shape [T, B, ...], or [B, T, ...]
        The windows. A series [N] has an axis of one feature here, [T, B, 1].
    y : ndarray, shape [horizon, B, ...], or [B, horizon, ...]
        What follows them.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range, or the series is shorter than `steps + horizon`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.data import windows
    >>> x, y = windows(np.arange(6.0), 3)
    >>> x[:, :, 0].T
    array([[0., 1., 2.],
           [1., 2., 3.],
           [2., 3., 4.]])
    >>> y[0, :, 0]
    array([3., 4., 5.])

    To forecast at every step of a window, and not only after it, shift it by one:

    >>> whole, _ = windows(np.arange(6.0), 4, horizon=0)
    >>> x, target = whole[:-1], whole[1:]
    """
    array = checked_sequence("series", series)
    if array.ndim == 1:
        array = array[:, None]
    count, ahead = _checks.integer("steps", steps), _checks.integer("horizon", horizon, 0)
    apart, first = min(_checks.integer("stride", stride), len(array) + 1), _checks.truth("batch_first", batch_first)
    if len(array) < count + ahead:
        raise ValueError(f"series: expected at least steps + horizon = {count + ahead} steps, got {len(array)}")
    starts = np.arange(0, len(array) - count - ahead + 1, apart)
    index = starts[:, None] + np.arange(count + ahead)
    index = index if first else index.T
    return (array[index[:, :count]], array[index[:, count:]]) if first else (array[index[:count]], array[index[count:]])


def from_dones(
    terminated: ArrayLike,
    truncated: ArrayLike | None = None,
    *,
    before: ArrayLike | None = None,
    autoreset: str = "same_step",
    batch_first: bool = False,
) -> NDArray[np.bool_]:
    """Where episodes begin, from the flags that say where they end.

    The flags of step t come with the reward of the action at t: the episode ends *after* step t. A layer's `resets` say
    that one begins *before* a step. So the flags of one step are the resets of the next.

    Parameters
    ----------
    terminated, truncated : array_like of bool, shape [T, B] or [T]
        What Gymnasium's `step` returned at each step. One array of both together will do.
    before : array_like of bool, shape [B] (or [2, B], see below), optional
        The flags of the step before the first, which is in the rollout before. By default the first step goes on with
        the state that the layer is given.
    autoreset : {"same_step", "next_step"}, optional
        "same_step": the observation after the end is the next episode's first one. So it is with `AutoresetMode
        .SAME_STEP`, and in a loop that calls `reset` itself. "next_step": one step lies between them, in which the
        last episode's last observation comes, the action does nothing, and the environment is reset: Gymnasium's
        default for vector environments since 1.1. The episode then begins one step later, and `before` has the flags
        of the last two steps, [2, B] or [2]. (Leave the step between out of the loss: its index has the flag set one
        step earlier.)
    batch_first : bool, optional
        The flags are [B, T].

    Returns
    -------
    ndarray of bool
        Of the shape of the flags, for `resets=`.

    Raises
    ------
    TypeError, ValueError
        The flags are not booleans, or their shapes differ.

    Examples
    --------
    >>> from rnnfast.data import from_dones
    >>> from_dones([False, True, False, False], [False, False, False, True]).tolist()
    [False, False, True, False]
    """
    delay = 1 if _checks.choice("autoreset", autoreset, ("same_step", "next_step")) == "same_step" else 2
    first = _checks.truth("batch_first", batch_first)
    done = _checks.numbers("terminated", terminated)
    if done.ndim not in (1, 2):
        raise ValueError(f"terminated: expected [T, B] or [T], got {_checks.describe(done)}")
    done = np.asarray(_checks.flags("terminated", terminated, done.shape, "[T, B]"))
    if truncated is not None:
        done = done | np.asarray(_checks.flags("truncated", truncated, done.shape, "[T, B]"))
    if first and done.ndim == 2:
        done = done.T
    earlier = np.zeros((delay, *done.shape[1:]), np.bool_)
    if before is not None:
        expected = earlier.shape if delay > 1 else earlier.shape[1:]
        flags = np.asarray(_checks.flags("before", before, expected, "[2, B]" if delay > 1 else "[B]"))
        earlier = flags.reshape(earlier.shape)
    resets = np.concatenate([earlier, done])[: len(done)]
    return resets.T.copy() if first and resets.ndim == 2 else resets
