"""Sequences longer than memory: a kernel that keeps only some states and computes the rest again.

The tape of a long sequence is cut into segments. Forward keeps the states at which each segment begins. Backward takes
the segments from the last to the first: it runs forward over one again, which fills the memory of one segment, and then
backward. So a sequence costs one more forward, and the memory of one segment and of the states between them (Chen et
al. 2016, "Training deep nets with sublinear memory cost"). The segments of a segment do the same again: two levels cost
two more forwards (Gruslys et al. 2016, "Memory-efficient backpropagation through time").

A `Segmented` has a kernel's calls, so layers, directions, masks and devices need not know of it. So has a `Stack`, of
layers in one direction: their segments keep nothing of the sequence's length. Where directions meet between layers,
each layer has segments of its own, and what goes from layer to layer is kept. Bits: chunks of a sequence have the bits
of the whole. So have sums over segments, as long as these end where quarters of a section of the gradients' sums do
(`section_steps`), and hand on what the rounding of a quarter leaves.

Rejected: keeping every segment's output too (its memory grows with the sequence); the binomial schedule, which is
optimal for a given number of kept states (two levels reach any length that is met, with long calls of the kernel).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

from . import _checks
from ._call import BackwardCall, ForwardCall
from ._checks import Array
from .parameters import section_steps

__all__ = ["Segmented", "Stack", "levels", "round_up", "segmented"]

_ALIGNED = 64  # elements: what each array on a tape begins at a multiple of

Cut = tuple[int, int]
States = tuple[Array, ...]


def round_up(steps: int, batch: int) -> int:
    """The least number of steps, at least `steps`, that a segment may have.

    It is a quarter, a half, or whole sections of the gradients' sums, so that no section ends inside a segment that is
    shorter than one, counted from the segment's first step or from the sequence's.
    """
    section = section_steps(max(batch, 1))
    for part in (section // 4, section // 2):
        if steps <= part:
            return part
    return -(-steps // section) * section


class Segmented:
    """A kernel whose tape is one segment's, and the states between segments.

    Parameters
    ----------
    kernel : _core.Kernel, what a device has in its place, or a Segmented
    steps : int
        Of a segment.
    states : sequence of (int, float)
        Each state's width, and the number that a reset puts in where there is no `reset_state`.
    """

    def __init__(self, kernel: Any, steps: int, states: Sequence[tuple[int, float]]) -> None:
        self._kernel, self._steps, self._states = kernel, steps, states

    def tape_size(self, steps: int, batch: int) -> int:
        """As a kernel's."""
        longest = min(steps, self._steps)
        # The states between segments, and two to hand gradients over in.
        states = max(-(-steps // self._steps) - 1, 0) + 2 if steps > self._steps else 0
        return states * self._states_size(batch) + int(self._kernel.tape_size(longest, batch))

    def forward(self, call: ForwardCall) -> None:
        """As a kernel's, with a tape."""
        cuts, saved, _, memory = self._laid_out(call)
        before = call.state
        for cut, final in zip(cuts, [*saved, call.final_state], strict=True):
            part = _of_segment(call, cut)
            self._run_forward(part._replace(state=before, final_state=final), memory)
            self._restart(call, cut, final)
            before = final

    def backward(self, call: BackwardCall) -> None:
        """As a kernel's."""
        cuts, saved, handed, memory = self._laid_out(call)
        dfinal = call.dfinal
        for number in reversed(range(len(cuts))):
            first, last = number == 0, number == len(cuts) - 1
            part = _of_segment(call, cuts[number])
            part = part._replace(
                state=call.state if first else saved[number - 1],
                dfinal=dfinal,
                adds=call.adds or not last,
                dstate=call.dstate if first else handed[number % 2],
            )
            if not last:  # the last segment's is still on the tape
                self._run_forward(_again(part, saved[number]), memory)
                self._restart(call, cuts[number], saved[number])
            self._kernel.backward(part._replace(tape=self._own(memory, part)))
            if not first and cuts[number][call.reverse] % section_steps(max(call.x.shape[1], 1)) == 0:
                self.round(call.dpanels)
            if not first:
                self._send_back(call, cuts[number - 1], part.dstate)
            dfinal = part.dstate

    def round(self, dpanels: Any) -> None:
        """Drop what rounding has left of the gradients' sums: a section ends here."""
        if isinstance(self._kernel, Segmented | Stack):
            self._kernel.round(dpanels)
        else:
            dpanels[self._kernel.panel_size :] = 0

    def _restart(self, call: Any, cut: Cut, final: Any) -> None:
        """Put into the states with which one segment ends what a reset between it and the next one does."""
        rows = _between(call, cut)
        if rows is None:
            return
        values = call.reset_state or (None,) * len(final)
        for (_, initial), state, value in zip(self._states, final, values, strict=True):
            state[rows] = initial if value is None else value[rows]

    def _send_back(self, call: BackwardCall, cut: Cut, dstate: States) -> None:
        """The gradient of what a reset behind the segment `cut` has put in does not go on into it."""
        rows = _between(call, cut)
        if rows is None:
            return
        for total, one in zip(call.d_reset_state or (None,) * len(dstate), dstate, strict=True):
            if total is not None:
                total[rows] += one[rows]
            one[rows] = 0

    def _run_forward(self, part: ForwardCall, memory: Array) -> None:
        self._kernel.forward(part._replace(tape=self._own(memory, part)))

    def _own(self, memory: Array, part: Any) -> Array:
        """One segment's memory."""
        return memory[: self._kernel.tape_size(*part.x.shape[:2])]

    def _laid_out(self, call: Any) -> tuple[list[Cut], list[States], list[States], Array]:
        """Where the segments are, in the order in which they run; the states between them; two states for gradients;
        and the memory of a segment."""
        steps, batch = call.x.shape[:2]
        cuts = list(self._cuts(steps, reverse=call.reverse))
        if len(cuts) == 1:
            return cuts, [], [], call.tape
        size = self._states_size(batch)
        states = [self._states_at(call.tape[n * size :], batch) for n in range(len(cuts) + 1)]
        return cuts, states[2:], states[:2], call.tape[(len(cuts) + 1) * size :]

    def _cuts(self, steps: int, *, reverse: bool) -> Iterator[Cut]:
        """In the order in which they run; the last in time may be short."""
        starts = range(0, max(steps, 1), self._steps)
        for start in reversed(starts) if reverse else starts:
            yield start, min(start + self._steps, steps)

    def _states_size(self, batch: int) -> int:
        return sum(_aligned(batch * width) for width, _ in self._states)

    def _states_at(self, memory: Array, batch: int) -> States:
        start, states = 0, []
        for width, _ in self._states:
            states.append(memory[start : start + batch * width].reshape(batch, width))
            start += _aligned(batch * width)
        return tuple(states)


class Stack:
    """Layers of one direction on top of each other, as one kernel: what the segments of a stack are made of.

    Its calls have a tuple of each layer's panels in the place of panels, and all layers' states one after the other.

    Parameters
    ----------
    kernels : list
        The layers', the lowest first.
    features : int
        What a layer hands to the next.
    """

    def __init__(self, kernels: list[Any], features: int) -> None:
        self._kernels, self._features = kernels, features

    def tape_size(self, steps: int, batch: int) -> int:
        """As a kernel's."""
        return sum(self._sizes(steps, batch))

    def forward(self, call: ForwardCall) -> None:
        """As a kernel's, with a tape."""
        memory, between, _ = self._laid_out(call)
        x, last = call.x, len(self._kernels) - 1
        for layer, kernel in enumerate(self._kernels):
            own = self._of_layer(call, layer, ("panels", "state", "final_state", "reset_state"))
            y = call.y if layer == last else (between[layer], *(None,) * (self._states(call) - 1))
            kernel.forward(own._replace(x=x, y=y, tape=memory[layer]))
            x = between[layer] if layer != last else None

    def backward(self, call: BackwardCall) -> None:
        """As a kernel's."""
        memory, between, spare = self._laid_out(call)
        dy, last = call.dy, len(self._kernels) - 1
        names = ("panels", "panels_backward", "dpanels", "dfinal", "dstate", "state", "reset_state", "d_reset_state")
        for layer in reversed(range(last + 1)):
            dx = spare[layer % 2] if layer else call.dx
            own = self._of_layer(call, layer, names)
            own = own._replace(
                x=between[layer - 1] if layer else call.x,
                tape=memory[layer],
                dy=dy,
                dx=dx,
                dgiven=call.dgiven if layer == last else _like(call.dgiven),
            )
            self._kernels[layer].backward(own)
            if layer != last:
                _add(call.dgiven, own.dgiven)
            dy = (dx, *(None,) * (self._states(call) - 1))

    def round(self, dpanels: Any) -> None:
        """As of `Segmented`."""
        for kernel, own in zip(self._kernels, dpanels, strict=True):
            own[kernel.panel_size :] = 0

    def _states(self, call: Any) -> int:
        """Of a layer."""
        given: Any = call.final_state if isinstance(call, ForwardCall) else call.dstate
        return len(given) // len(self._kernels)

    def _of_layer(self, call: Any, layer: int, names: tuple[str, ...]) -> Any:
        """The call with one layer's parts of what is there of all layers."""
        count, found = self._states(call), {"layer": call.layer + layer}
        for name in names:
            whole = getattr(call, name)
            if name in ("panels", "panels_backward", "dpanels"):
                found[name] = whole[layer]
            else:
                found[name] = None if whole is None else whole[layer * count : (layer + 1) * count]
        return call._replace(**found)

    def _sizes(self, steps: int, batch: int) -> list[int]:
        """Each layer's memory, what goes from layer to layer, and two gradients of that."""
        above = len(self._kernels) - 1
        sequence = _aligned(steps * batch * self._features)
        own = [_aligned(int(kernel.tape_size(steps, batch))) for kernel in self._kernels]
        return [*own, *[sequence] * (above + min(above, 2))]

    def _laid_out(self, call: Any) -> tuple[list[Array], list[Array], list[Array]]:
        steps, batch = call.x.shape[:2]
        start, parts = 0, []
        for size in self._sizes(steps, batch):
            parts.append(call.tape[start : start + size])
            start += size
        count, shape = len(self._kernels), (steps, batch, self._features)
        memory = [part[: kernel.tape_size(steps, batch)] for part, kernel in zip(parts, self._kernels, strict=False)]
        sequences = [part[: math.prod(shape)].reshape(shape) for part in parts[count:]]
        spare = sequences[count - 1 :]
        return memory, sequences[: count - 1], [spare[0], spare[-1]]


def segmented(kernel: Any, steps: tuple[int, ...], states: Sequence[tuple[int, float]]) -> Any:
    """A kernel with the segments of `levels`, the longest first; see `Segmented`."""
    return reduce(lambda inner, own: Segmented(inner, own, states), reversed(steps), kernel)


def levels(
    recompute: Any, memory: Any, steps: int, batch: int, needed: Callable[[tuple[int, ...]], int]
) -> tuple[int, ...]:
    """The steps of segments of each level, the longest first; nothing where nothing is to be computed again.

    Parameters
    ----------
    recompute, memory
        The caller's.
    steps, batch : int
        T, B.
    needed : callable
        The bytes that a tape with these levels has.

    Returns
    -------
    tuple of int

    Raises
    ------
    TypeError, ValueError
        Arguments of the wrong kind or range, or not even two levels fit into `memory`.
    """
    if isinstance(recompute, str):
        if recompute != "auto":
            raise ValueError(f"recompute: expected an integer or 'auto', got {recompute!r}")
        if memory is None:
            raise ValueError("memory: expected the bytes that the tape may have with recompute='auto', got None")
        return _fitting(_checks.integer("memory", memory), steps, batch, needed)
    if memory is not None:
        raise ValueError(f"memory: expected None unless recompute='auto', got {_checks.describe(memory)}")
    if recompute is None:
        return ()
    own = round_up(_checks.integer("recompute", recompute), batch)
    return (own,) if own < steps else ()


def _fitting(memory: int, steps: int, batch: int, needed: Callable[[tuple[int, ...]], int]) -> tuple[int, ...]:
    """The levels with the longest segments that fit."""
    least = math.inf
    for chosen in _candidates(steps, batch):
        if (size := needed(chosen)) <= memory:
            return chosen
        least = min(least, size)
    raise ValueError(f"memory: expected at least {least} bytes for T={steps}, B={batch}, got {memory}")


def _candidates(steps: int, batch: int) -> Iterator[tuple[int, ...]]:
    """No level, one, two; segments getting shorter."""
    yield ()
    one = list(_parts(steps, batch))
    yield from [(own,) for own in one]
    yield from sorted(
        [(outer, inner) for outer in one for inner in _parts(outer, batch)], key=lambda pair: (-pair[1], -pair[0])
    )


def _parts(steps: int, batch: int) -> Iterator[int]:
    """Lengths that segments may have, shorter than `steps`; each at most four fifths of the one before."""
    section = section_steps(max(batch, 1))
    length = (steps - 1) // section * section
    while length > 0:
        yield length
        length = min(length * 4 // 5, length - section) // section * section
    yield from [part for part in (section // 2, section // 4) if part < steps]


def _of_segment(call: Any, cut: Cut) -> Any:
    """The call of the steps `[start, stop)`; states and tape are another matter."""
    start, stop = cut

    def part(array: Any) -> Any:
        if isinstance(array, tuple):
            return tuple([part(one) for one in array])
        return None if array is None else array[start:stop]

    names = ("x", "resets", "skip", "given", *(("y",) if isinstance(call, ForwardCall) else ("dy", "dx", "dgiven")))
    own = {name: part(getattr(call, name)) for name in names}
    lengths = None if call.lengths is None else (call.lengths - start).clip(0, stop - start)
    return call._replace(**own, lengths=lengths, first_step=call.first_step + start)


def _again(part: BackwardCall, final: States) -> ForwardCall:
    """The forward call of which `part` is the backward."""
    shared = {name: getattr(part, name) for name in ForwardCall._fields if name in BackwardCall._fields}
    return ForwardCall(**shared, y=None, final_state=final, training=True)


def _between(call: Any, cut: Cut) -> Array | None:
    """The rows [B] that a reset cuts off from the segment `cut` that has run before; None: none.

    Forwards in time a reset is at the first step of a segment, where the kernel sees it. Backwards in time it belongs
    to the last step of the segment before.
    """
    start, _ = cut
    if call.resets is None or not call.reverse or start == 0:
        return None
    rows: Array = call.resets[start]
    return rows if call.lengths is None else rows & (call.lengths > start)


def _add(totals: Any, more: Any) -> None:
    for total, one in zip(totals or (), more or (), strict=True):
        if total is not None:
            total += one


def _like(states: Any) -> Any:
    """Memory as that of some states."""
    return None if states is None else tuple([None if one is None else one.copy() for one in states])


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED
