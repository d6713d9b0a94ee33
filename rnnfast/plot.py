"""Pictures of training and of what a layer does: needs matplotlib, ``pip install "rnnfast[plot]"``.

Each function draws into the axes that it is given, or into a new figure of pyplot's, and returns the axes, for titles,
limits and `savefig` (``ax.figure.savefig("curve.png")``). None calls `show`, and none changes matplotlib's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _checks
from ._checks import Array
from .training import History

__all__ = ["confusion_matrix", "gates", "gradient_norm_by_distance", "loss_curves"]


def loss_curves(history: Any, *, ax: Any = None) -> Any:
    """Training and validation loss by epoch, with the best epoch marked.

    Parameters
    ----------
    history : History, or mapping from str to array_like of shape [epochs]
        From `rnnfast.fit`; or curves by their names.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> from rnnfast import plot
    >>> ax = plot.loss_curves({"training": [1.0, 0.5, 0.4], "validation": [1.1, 0.8, 0.9]})
    >>> len(ax.lines)
    2
    """
    if isinstance(history, History):
        curves: Mapping[str, Any] = {"training": history.loss, "validation": history.validation_loss}
    else:
        curves = _checks.mapping("history", history)
    values = {str(name): _vector(f"history[{name!r}]", curve) for name, curve in curves.items()}
    axes = _axes(ax)
    for name, curve in values.items():
        if not np.isnan(curve).all():
            axes.plot(np.arange(1, len(curve) + 1), curve, ".-", label=name)
    if isinstance(history, History) and history.best_epoch >= 0:
        axes.axvline(history.best_epoch + 1, color="grey", linestyle=":", label="best epoch")
    axes.set(xlabel="epoch", ylabel="loss")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return axes


def gradient_norm_by_distance(norms: Any, *, ax: Any = None) -> Any:
    """How far back in time gradients reach, on a logarithmic scale: a straight line down is one that vanishes.

    Parameters
    ----------
    norms : array_like of shape [T], or mapping from str to such arrays
        From `rnnfast.diagnostics.gradient_norm_by_distance`; several by their names.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or shape.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> from rnnfast import plot
    >>> from rnnfast.diagnostics import gradient_norm_by_distance
    >>> x, dy = np.ones((30, 1, 2)), np.ones((1, 8))
    >>> layers = {"RNN": rnnfast.RNN(2, 8, rng=0), "LSTM": rnnfast.LSTM(2, 8, rng=0)}
    >>> ax = plot.gradient_norm_by_distance(
    ...     {name: gradient_norm_by_distance(layer, x, dy) for name, layer in layers.items()}
    ... )
    >>> ax.get_yscale()
    'log'
    """
    named = norms if isinstance(norms, Mapping) else {"": norms}
    values = {str(name): _vector("norms" + (f"[{name!r}]" if name else ""), one) for name, one in named.items()}
    axes = _axes(ax)
    for name, one in values.items():
        axes.plot(np.where(one > 0, one, np.nan), label=name)
    axes.set(xlabel="steps back in time", ylabel="norm of the gradient", yscale="log")
    if any(values):
        axes.legend()
    return axes


def gates(
    activations: Mapping[str, ArrayLike],
    names: Sequence[str] | None = None,
    *,
    row: int = 0,
    batch_first: bool = False,
    axes: Any = None,
) -> Array:
    """Gates and states of one row as heat maps: time to the right, units down.

    Parameters
    ----------
    activations : mapping from str to array_like, shape [T, B, width] or [T, width]
        From `layer.inspect`.
    names : sequence of str, optional
        What to draw; by default all but the sums, whose names have a dot.
    row : int, optional
        Which row of the batch.
    batch_first : bool, optional
        The arrays are [B, T, width].
    axes : sequence of matplotlib.axes.Axes, optional
        As many as there are names.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape [names]
        What lies in 0..1 has colours for 0..1; all else has one colour for each sign.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind, shape or range.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnfast
    >>> from rnnfast import plot
    >>> seen = rnnfast.GRU(3, 4, rng=0).inspect(np.ones((10, 2, 3)))
    >>> axes = plot.gates(seen, ["r", "z", "h"])
    >>> [ax.get_title() for ax in axes]
    ['r', 'z', 'h']
    """
    known = _checks.mapping("activations", activations)
    chosen = [name for name in known if "." not in name] if names is None else list(names)
    if not chosen or any(name not in known for name in chosen):
        raise ValueError(f"names: expected some of {', '.join(known)}; got {', '.join(map(str, chosen)) or 'none'}")
    first = _checks.truth("batch_first", batch_first)
    pictures = {name: _of_row(name, known[name], row, first) for name in chosen}
    drawn = _several(axes, len(chosen))
    for ax, (name, picture) in zip(drawn, pictures.items(), strict=True):
        finite = picture[np.isfinite(picture)]
        if ((finite >= 0) & (finite <= 1)).all():
            colours = {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0}
        else:
            largest = float(np.abs(finite).max())
            colours = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
        image = ax.imshow(picture.T, aspect="auto", interpolation="nearest", **colours)
        ax.set(title=name, ylabel="unit")
        ax.figure.colorbar(image, ax=ax)
    drawn[-1].set_xlabel("step")
    return drawn


def confusion_matrix(
    target: ArrayLike,
    prediction: ArrayLike,
    *,
    labels: Sequence[Any] | None = None,
    normalize: bool = False,
    ax: Any = None,
) -> Any:
    """How often each class (down) was taken for each (to the right).

    Parameters
    ----------
    target, prediction : array_like of int, shape [...]
        The classes, and those that were predicted.
    labels : sequence, optional
        The classes' names by their numbers; by default the numbers up to the largest that occurs.
    normalize : bool, optional
        Whether to show each class's shares in place of numbers.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind, shape or range.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> from rnnfast import plot
    >>> ax = plot.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], labels=["walk", "run"])
    >>> [text.get_text() for text in ax.texts]
    ['1', '1', '0', '2']
    """
    wanted, found = _checks.integers("target", target), _checks.integers("prediction", prediction)
    _checks.shape("prediction", found, wanted.shape)
    both = np.concatenate([wanted.ravel(), found.ravel()])
    count = int(both.max(initial=-1)) + 1 if labels is None else len(labels)
    if both.size and (both.min() < 0 or both.max() >= count):
        raise ValueError(
            f"target, prediction: expected classes in 0..{count - 1}, got some in {both.min()}..{both.max()}"
        )
    if not count:
        raise ValueError("target: expected at least one class, got none")
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (wanted.ravel(), found.ravel()), 1)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes = _axes(ax)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (y, x), share in np.ndenumerate(shares):
        text = f"{share:.2f}" if _checks.truth("normalize", normalize) else str(table[y, x])
        axes.text(x, y, text, ha="center", va="center", color="white" if share > 0.5 else "black")
    shown = [str(label) for label in (range(count) if labels is None else labels)]
    axes.set(xlabel="predicted", ylabel="class", xticks=range(count), yticks=range(count))
    axes.set_xticklabels(shown, rotation=45 if max(map(len, shown)) > 2 else 0)
    axes.set_yticklabels(shown)
    return axes


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('rnnfast.plot needs matplotlib: pip install "rnnfast[plot]"') from error
    return pyplot


def _axes(ax: Any) -> Any:
    """The caller's axes, or those of a new figure."""
    if ax is None:
        return _pyplot().subplots(layout="constrained")[1]
    if not hasattr(ax, "imshow"):
        raise TypeError(f"ax: expected matplotlib's Axes or None, got {_checks.describe(ax)}")
    return ax


def _several(axes: Any, count: int) -> Array:
    """So many axes, of the caller's or of a new figure."""
    if axes is None:
        size = (8.0, 1.0 + 1.5 * count)
        _, made = _pyplot().subplots(count, sharex=True, squeeze=False, figsize=size, layout="constrained")
        return np.asarray(made[:, 0])
    drawn = np.atleast_1d(np.asarray(axes, object)).ravel()
    if len(drawn) != count or not all(hasattr(ax, "imshow") for ax in drawn):
        raise ValueError(f"axes: expected {count} of matplotlib's Axes, one for each name, got {len(drawn)} things")
    return drawn


def _vector(name: str, values: ArrayLike) -> Array:
    array = _checks.numbers(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got {_checks.describe(array)}")
    return array


def _of_row(name: str, values: ArrayLike, row: int, batch_first: bool) -> Array:
    """[T, width] of one row."""
    array = _checks.numbers(f"activations[{name!r}]", values)
    if array.ndim == 3:
        rows: Array = array if batch_first else array.swapaxes(0, 1)
        return np.asarray(rows[_checks.integer("row", row, 0, len(rows) - 1)])
    if array.ndim != 2:
        raise ValueError(f"activations[{name!r}]: expected [T, B, width] or [T, width], got {_checks.describe(array)}")
    return array
