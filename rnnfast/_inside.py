"""What a layer computes on its way: every gate and every state at every step, by name.

It is computed again, by the oracle (`rnnfast.reference`) in float64: the kernels keep what backward needs, which is not
the same, and not under these names. The loop over the steps is Python's, so it takes some ten microseconds a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checks, reference
from ._device import holder
from ._recurrence import Arguments, Recurrence
from .description.declarations import declared
from .reference.cells import named_values
from .reference.layer import with_biases

__all__ = ["inspect"]

Array = NDArray[np.float64]


def inspect(part: Any, call: Arguments, layer: Any, reverse: Any) -> dict[str, Array]:
    """`Recurrent.inspect`; `part` is the layer, or the layers on top of each other."""
    body: Recurrence = part._recurrence
    layout = body.layout
    chosen = _checks.integer("layer", layer, -layout.num_layers, layout.num_layers - 1) % layout.num_layers
    backwards = _checks.truth("reverse", reverse)
    if backwards and not part.bidirectional:
        raise ValueError("reverse: expected False for a layer of one direction, got True")
    arguments = [value if value is None else _on_host(value) for value in (call.x, call.state, call.reset_state)]
    call = call._replace(x=arguments[0], state=arguments[1], reset_state=arguments[2], given=_on_host(call.given))
    run = body.check(part.params.device.port(call.x), call, part, training=False)
    params = {name: np.asarray(_on_host(value)) for name, value in part.params.items()}
    y: Any = run.x
    for number in range(chosen + 1):
        results = []
        for direction in range(layout.directions):
            place = number * layout.directions + direction
            suffix = layout.suffixes[place]
            results.append(
                reference.forward(
                    part.cell,
                    {name.removesuffix(suffix): params[name] for name in _of_layer(part, suffix)},
                    y,
                    *(state[place] for state in run.state or ()),
                    lengths=run.lengths,
                    resets=run.resets,
                    reset_state=None if run.reset_state is None else [state[place] for state in run.reset_state],
                    skip=run.skip,
                    given=run.given,
                    reverse=part.reverse or direction == 1,
                )
            )
        y = np.concatenate([result.y for result in results], axis=2)
    result = results[backwards]
    found = _gates(result) | dict(zip((one.name for one in declared(part.cell).states), result.outputs, strict=True))
    views = {name: value if run.batched else value[:, 0] for name, value in found.items()}
    first = part.batch_first and run.batched
    return {name: value.swapaxes(0, 1).copy() if first else value for name, value in views.items()}


def _of_layer(part: Any, suffix: str) -> list[str]:
    """The parameters with a suffix: `_l0`, and not `_l0_reverse`."""
    return [name for name in part.params if name.endswith(suffix)]


def _gates(result: reference.Result) -> dict[str, Array]:
    """All that a step has a name for, at all steps at once; NaN where none was run."""
    steps, batch = result.y.shape[:2]
    run = [np.flatnonzero(~step.skip) for step in result.steps]
    places = [(np.full(len(own), step.t), step.rows[own]) for step, own in zip(result.steps, run, strict=True)]

    def joined(parts: list[Array], width: int) -> Array:
        return np.concatenate([np.zeros((0, width)), *parts])

    def rows_of(values: list[tuple[Array, ...]], widths: list[int]) -> tuple[Array, ...]:
        return tuple(
            joined([value[n][own] for value, own in zip(values, run, strict=True)], width)
            for n, width in enumerate(widths)
        )

    program = result.cell.program()
    x = joined([step.x[own] for step, own in zip(result.steps, run, strict=True)], result.input_size)
    before = rows_of([step.before for step in result.steps], [result.widths[one.domain] for one in program.states])
    sizes = [1 if one.domain is None else result.widths[one.domain] for one in program.given]
    given = rows_of([step.given for step in result.steps], sizes)
    complete = with_biases(program, result.params, result.widths)
    t, b = (np.concatenate([np.zeros(0, np.int64), *(place[axis] for place in places)]) for axis in (0, 1))
    found: dict[str, Array] = {}
    for name, rows in named_values(result.cell, complete, x, before, given, result.widths).items():
        found[name] = np.full((steps, batch, rows.shape[1]), np.nan)
        found[name][t, b] = rows
    return found


def _on_host(value: Any) -> Any:
    """A caller's array, or several, on the host."""
    if isinstance(value, dict):
        return {name: _on_host(one) for name, one in value.items()}
    if isinstance(value, tuple | list) and any(map(_checks.on_device, value)):
        return tuple(map(_on_host, value))
    return holder(value).to_host(value) if _checks.on_device(value) else value
