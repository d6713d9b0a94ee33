"""Classes that choose a cell of the catalogue by their name, and its options by their arguments.

`named` gives such a class its constructor, its signature and its documentation: the cell's own, which says the formula,
the source and the parameters, with what all layers have. The types of the options are here for type checkers.

Rejected: constructors written out (each option would stand in three places: the cell's function, the layer, the step).
"""

from __future__ import annotations

import inspect
from typing import Any, TypedDict, TypeVar

from numpy.typing import DTypeLike

from . import _checks
from ._words import DeviceName, Precision
from .description import Cell
from .description.cells import LAYERS
from .description.declarations import declared
from .init import Init

__all__ = [
    "CellOptions",
    "GRUCellOptions",
    "GRULayerOptions",
    "LSTMCellOptions",
    "LSTMLayerOptions",
    "LayerOptions",
    "RNNCellOptions",
    "RNNLayerOptions",
    "named",
]

_Class = TypeVar("_Class", bound=type)


class CellOptions(TypedDict, total=False):
    """What all recurrent parts take."""

    bias: bool
    zoneout: Any
    recurrent_dropout: float
    forget_bias: float | None
    dtype: DTypeLike
    rng: Any
    init: Init
    device: DeviceName
    precision: Precision


class LayerOptions(CellOptions, total=False):
    """What all layers take."""

    batch_first: bool
    dropout: float
    bidirectional: bool
    reverse: bool
    sparse: bool


class _RNN(TypedDict, total=False):
    nonlinearity: Any
    leak: float


class _LSTM(TypedDict, total=False):
    proj_size: int
    peephole: bool
    coupled: bool
    cell_clip: float | None
    proj_clip: float | None
    layer_norm: bool
    heads: int
    activations: Any


class _GRU(TypedDict, total=False):
    reset_after: bool
    layer_norm: bool
    heads: int
    activations: Any


class RNNLayerOptions(_RNN, LayerOptions, total=False):
    """What `RNN` takes."""


class RNNCellOptions(_RNN, CellOptions, total=False):
    """What `RNNCell` takes."""


class LSTMLayerOptions(_LSTM, LayerOptions, total=False):
    """What `LSTM` takes."""


class LSTMCellOptions(_LSTM, CellOptions, total=False):
    """What `LSTMCell` takes."""


class GRULayerOptions(_GRU, LayerOptions, total=False):
    """What `GRU` takes."""


class GRUCellOptions(_GRU, CellOptions, total=False):
    """What `GRUCell` takes."""


def named(cls: _Class) -> _Class:
    """Give a class derived from `Recurrent` or `RecurrentCell` the catalogue's cell of its name.

    Parameters
    ----------
    cls : type
        Named as a key of `LAYERS`, perhaps with "Cell" behind it.

    Returns
    -------
    type
        The same.
    """
    make = LAYERS[cls.__name__.removesuffix("Cell")]
    base: Any = cls.__mro__[1]
    wrappers = ("zoneout", "recurrent_dropout")  # of every cell, and the base's business
    own = {name: one for name, one in inspect.signature(make).parameters.items() if name not in wrappers}

    def __init__(self: Any, input_size: int, hidden_size: int, *arguments: Any, **options: Any) -> None:
        _checks.options(cls.__name__, options, cls.__signature__.parameters)  # type: ignore[attr-defined]
        chosen = {name: options.pop(name) for name in own if name in options}
        vars(self).update({name: chosen.get(name, one.default) for name, one in own.items()})
        base.__init__(self, make(**chosen), input_size, hidden_size, *arguments, **options)

    shared = [one for name, one in inspect.signature(base).parameters.items() if name != "cell"]
    kinds = inspect.Parameter.KEYWORD_ONLY
    first = [one for one in shared if one.kind is not kinds]
    options = [one.replace(kind=kinds) for one in own.values()]
    setattr(cls, "__init__", __init__)  # noqa: B010 - plain to type checkers
    cls.__signature__ = inspect.Signature([*first, *options, *(one for one in shared if one.kind is kinds)])  # type: ignore[attr-defined]
    cls._cell_options = {name: one.default for name, one in own.items()}  # type: ignore[attr-defined]
    cls.__doc__ = _documentation(cls, base, own, make())
    return cls


def _documentation(cls: type, base: type, own: dict[str, Any], cell: Cell) -> str:
    """The class's first line, an example, the cell's documentation, and the base's sections with the cell's options."""
    text, sections = inspect.cleandoc(type(cell).__doc__ or ""), inspect.cleandoc(base.__doc__ or "")
    _, _, sections = sections.partition("Parameters\n----------\n")
    _, _, sections = sections.partition("input_size : int\n")  # without the cell itself
    defaults = ", ".join(repr(one.default) for one in own.values())
    options = f"{', '.join(own)} : optional\n    The cell's options, see above; by default {defaults}.\n" if own else ""
    parameters, title, rest = sections.partition("\nAttributes\n")
    parameters = f"Parameters\n----------\ninput_size : int\n{parameters.rstrip()}\n{options}"
    _, _, text = text.partition("\n\n")  # the class says the first line in its own words
    example = _example(cls.__name__, cell, layer=not cls.__name__.endswith("Cell"))
    sections, _, _ = f"{title}{rest}".partition("\nExamples\n")
    return f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{example}\n\n{text}\n\n{parameters}{sections}"


def _example(name: str, cell: Cell, *, layer: bool) -> str:
    """How it is made and called."""
    found = declared(cell)
    axes = (20, 3) if layer else (3,)
    shapes = {one.name: (*axes, *((found.widths[one.width],) if one.width else ())) for one in found.given}
    zeros = [f"{key!r}: np.zeros({shape})" for key, shape in shapes.items()]
    given = f", given={{{', '.join(zeros)}}}" if zeros else ""
    made, x = "layer" if layer else "cell", f"np.zeros({(*axes, 8)})"
    width = {"hidden": 16, **found.widths}[found.states[0].width]
    lines = [f">>> {made} = rnnfast.{name}(8, 16, rng=0)"]
    if layer:
        lines += [f">>> y, state = layer({x}{given})  # 20 steps of 3 rows", ">>> y.shape", f"{(*axes, width)}"]
    else:
        several = len(found.states) > 1
        lines += [f">>> state = cell({x}{given})  # 3 rows", f">>> state{'[0]' * several}.shape", f"{(3, width)}"]
    return "\n".join(lines)
