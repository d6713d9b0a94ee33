"""The pointwise part of a program's stages, written out as kernels.

A described cell's step is data (`rnnfast.description.program`): stages of products, means and instructions on rows. The
products are the library's; a stage's instructions become the text of one kernel, in which every register is a variable
and a thread has one unit of one row. What stands around the instructions is the same for all cells:

A) Forward, a *turn* ends a step: the states after it become the running ones and go to y, resets are applied for the
   step that follows, and what that step's products read is stored. Backward, it begins one: what arrived at the step
   before is cut off where a reset lies between, and dLoss/dy is added. Rows that do not run (they have ended, or skip
   the step) keep their states, and leave zeros wherever a product over the whole sequence will read.
B) A turn is part of the kernel of the last stage (backward: the first, and the last one's finish), for the states that
   are as wide as that stage; other widths have a kernel of the turn alone.
C) A slot that a product has summed in holds the sum without its biases: they are added where it is loaded. Which slots
   those are is known when the text is written, because stores come in one order.
D) A *walk* is the same kernel with a loop over all steps in it, for cells without a product of their states: then a
   thread needs nothing of any other.
E) A number of a row (`Mean`) is summed by one block of threads, each unit's thread in the units' order and then the
   threads in theirs, so that it is the same bits every time.

Rejected: an interpreter on the device (each operation would be a switch and its registers memory); one kernel for a
whole step of several products (blocks would have to wait for each other, as in `persistent`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..description.program import Instruction, Mean, Place, Program, Stage
from . import cells, elements, shim
from .plan import WALK, engine_of

__all__ = ["Bound", "Pointwise", "Written", "lefts", "pointwise", "runs_of"]

_MEAN_THREADS = 4 if shim.SIMULATED else 64
_BINARY = {"add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}"}
_EXPRESSIONS = _BINARY | {
    "fma": "{0} * {1} + {2}",
    "fnma": "{2} - {0} * {1}",
    "neg": "-{0}",
    "abs": "abs({0})",
    "relu": "ZERO if {0} < ZERO else {0}",  # a NaN stays one
    "d_sigmoid": "{0} * (ONE - {0})",
    "d_tanh": "ONE - {0} * {0}",
    "lerp": "{2} + {0} * ({1} - {2})",
    "where": "{1} if {0} > ZERO else {2}",
}
_CALLS = ("sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh")
_ZERO, _ONE = np.float32(0), np.float32(1)


@shim.device
def _minimum(a: Any, b: Any) -> Any:
    return a if a < b or a != a else b  # a NaN of either stays


@shim.device
def _maximum(a: Any, b: Any) -> Any:
    return a if a > b or a != a else b


@shim.device
def _sign(x: Any) -> Any:
    if x > _ZERO:
        return _ONE
    return -_ONE if x < _ZERO else x * _ZERO


@shim.device
def _softplus(x: Any) -> Any:
    return shim.log1p(shim.exp(-abs(x))) + _maximum(x, _ZERO)


_SCOPE: dict[str, Any] = {
    "__name__": __name__,
    "shim": shim,
    "ZERO": _ZERO,
    "ONE": _ONE,
    "cuda": shim.cuda,
    "float32": shim.float32,
    "int64": shim.int64,
    "first": elements.first,
    "stride": elements.stride,
    "active": elements.active,
    "restarts": elements.restarts,
    "runs_at": elements.runs,
    "minimum": _minimum,
    "maximum": _maximum,
    "sign": _sign,
    "softplus": _softplus,
    "sigmoid": cells.sigmoid,
}
_NUMBERS = itertools.count()


def lefts(program: Program) -> tuple[Place, ...]:
    """What products multiply besides x: states before the step, and stored rows."""
    return tuple(dict.fromkeys(product.left for product in program.products if product.left is not None))


def runs_of(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours: (first position, count) of each run of numbers that rise by one."""
    found: list[tuple[int, int]] = []
    for position, block in enumerate(blocks):
        if found and block == blocks[position - 1] + 1:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((position, 1))
    return found


@dataclass(frozen=True)
class Bound:
    """A kernel with all its arguments but the step's.

    Attributes
    ----------
    launch : callable
        ``launch(t, other, count, stream)``: `other` is the step that follows (backward: the one done before), -1 for
        none; `count` the steps of a walk.
    """

    launch: Callable[[int, int, int, int], None]


@dataclass(frozen=True)
class Written:
    """A kernel that was written out.

    Attributes
    ----------
    kernel : object
        With `launch`; see `shim.kernel`.
    domain : int
        Of its elements.
    pointers, numbers : tuple of str
        The names of its arguments, in order; the numbers after t, other and count.
    rows : bool
        Whether a block of threads has a row, and not a thread an element.
    source : str
    """

    kernel: Any
    domain: int
    pointers: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: bool
    source: str

    def bind(self, memory: Mapping[str, Any], numbers: Mapping[str, int]) -> Bound:
        """With the arrays (or None) and numbers of a call, by name."""
        pointers = tuple(
            shim.pointer(None if memory[name] is None else memory[name].reshape(-1)) for name in self.pointers
        )
        rest = tuple(numbers[name] for name in self.numbers)
        if self.rows:
            grid, block, shared = numbers["B"], _MEAN_THREADS, 4 * _MEAN_THREADS
        else:
            (grid, block), shared = elements.grid(numbers["B"] * numbers[f"W{self.domain}"]), 0

        def launch(t: int, other: int, count: int, stream: int) -> None:
            self.kernel.launch(grid, block, (*pointers, t, other, count, *rest), shared=shared, stream=stream)

        return Bound(launch)


class _Text:
    """The text of one kernel, and the arguments that it turns out to need."""

    def __init__(self, domain: int) -> None:
        self.domain = domain
        self.lines: list[str] = []
        self.scope = dict(_SCOPE)
        self._pointers: dict[str, None] = {}
        self._numbers: dict[str, None] = {}

    def pointer(self, name: str) -> str:
        self._pointers.setdefault(name)
        return name

    def number(self, name: str) -> str:
        self._numbers.setdefault(name)
        return name

    def constant(self, value: float) -> str:
        name = f"K{len(self.scope)}"
        self.scope[name] = np.float32(value)
        return name

    def add(self, indent: int, *lines: str) -> None:
        self.lines += ["    " * indent + line for line in lines]

    def written(self, name: str, *, rows: bool = False) -> Written:
        """Compiled from text; the simulator runs the same."""
        pointers, numbers = tuple(self._pointers), tuple(self._numbers)
        arguments = ", ".join([*pointers, "t", "other", "count", *numbers])
        source = "\n".join([f"def {name}({arguments}):", *self.lines, ""])
        exec(compile(source, f"<{name} {next(_NUMBERS)}>", "exec"), self.scope)
        types = "p" * len(pointers) + "i" * (3 + len(numbers))
        kernel = shim.kernel(types)(self.scope[name])
        return Written(kernel, self.domain, pointers, numbers, rows, source)


class Pointwise:
    """All kernels of a program, in one precision.

    Parameters
    ----------
    program : Program
    bfloat16 : bool
        Whether what products read is stored a second time, in bfloat16.

    Attributes
    ----------
    inference, forward, backward : sequence of (tuple of Written, Written or None)
        By stage: its means, and its instructions.
    begin : tuple of Written
        The turn alone, by domain, before the first step.
    turn : tuple of Written
        Forward: the turns that no stage does.
    arrive, finish : tuple of Written
        Backward: before the first stage and after the last one, what they do not do.
    end : tuple of Written
        Backward: `arrive` for all domains, after the last step.
    walk : tuple of Written or None
        Inference, forward and backward of all steps in one launch; None for a cell that has products of its own rows.
    """

    def __init__(self, program: Program, *, bfloat16: bool) -> None:
        self.program, self._bfloat16 = program, bfloat16
        self._lefts = lefts(program)
        self._sums = {
            (product.region, product.first + number): (product, number)
            for product in program.products
            for number in range(product.count)
        }
        self.loads_before = _states_loaded(program.backward, "before")
        self.loads_after = _states_loaded(program.backward, "after")
        domains = range(len(program.domains))
        with_states = [domain for domain in domains if any(state.domain == domain for state in program.states)]
        self.begin = tuple(self._turn_alone(domain) for domain in with_states)
        self.end = tuple(self._arrive_alone(domain) for domain in with_states)
        self._raw: set[tuple[int, int]] = set()
        self.inference, self.turn = self._forward(program.inference)
        self.forward, _ = self._forward(program.forward)
        self.backward = self._backward()
        self.walk = self._walks(set(self._raw_after_forward)) if engine_of(program) == WALK else None

    # Stages

    def _forward(self, stages: Sequence[Stage]) -> tuple[list[tuple[tuple[Written, ...], Written | None]], Any]:
        self._raw = set(self._sums)
        found, fused = [], None
        for number, stage in enumerate(stages):
            means = tuple(self._mean(mean, backward=False) for mean in stage.means)
            last = number == len(stages) - 1
            written = None
            if stage.code:
                written = self._stage(stage, f"forward_{number}", turn=last)
                fused = stage.domain if last else fused
            found.append((means, written))
        self._raw_after_forward = set(self._raw)
        return found, tuple(one for one in self.begin if one.domain != fused)

    def _backward(self) -> list[tuple[tuple[Written, ...], Written | None]]:
        stages = self.program.backward
        self._raw = set(self._raw_after_forward)
        found: list[tuple[tuple[Written, ...], Written | None]] = []
        arrived = finished = None
        for number, stage in enumerate(stages):
            means = tuple(self._mean(mean, backward=True) for mean in stage.means)
            opens = number == 0 and not stage.means and not stage.back_products
            closes = number == len(stages) - 1
            written = None
            if stage.code:
                written = self._stage_backward(stage, f"backward_{number}", opens=opens, closes=closes)
                arrived = stage.domain if opens else arrived
                finished = stage.domain if closes else finished
            found.append((means, written))
        self.arrive = tuple(one for one in self.end if one.domain != arrived)
        domains = [domain for domain in range(len(self.program.domains)) if domain != finished]
        numbers = finished is None
        self.finish = tuple(
            self._finish_alone(domain, numbers and domain == 0) for domain in domains if self._finishes(domain, numbers)
        )
        return found

    def _stage(self, stage: Stage, name: str, *, turn: bool, walk: bool = False) -> Written:
        text, pad = _Text(stage.domain), 2 + walk
        self._open(text, walk="forward" if walk else "")
        text.add(pad, f"runs = {self._runs(text)}")
        self._code(text, pad, stage, backward=False)
        if turn:
            self._turn(text, pad, stage.domain)
        return text.written(name)

    def _stage_backward(self, stage: Stage, name: str, *, opens: bool, closes: bool, walk: bool = False) -> Written:
        text, pad = _Text(stage.domain), 2 + walk
        self._open(text, walk="backward" if walk else "")
        if opens:
            self._arrive(text, pad, stage.domain)
        text.add(pad, f"runs = {self._runs(text)}")
        self._code(text, pad, stage, backward=True)
        if closes:
            self._finish(text, pad, stage.domain, numbers=True)
        return text.written(name)

    def _walks(self, raw_after: set[tuple[int, int]]) -> tuple[Written, Written, Written]:
        program = self.program
        self._raw = set(self._sums)
        inference = self._stage(program.inference[0], "walk_inference", turn=True, walk=True)
        self._raw = set(self._sums)
        forward = self._stage(program.forward[0], "walk_forward", turn=True, walk=True)
        self._raw = raw_after
        backward = self._stage_backward(program.backward[0], "walk_backward", opens=True, closes=True, walk=True)
        return inference, forward, backward

    def _turn_alone(self, domain: int) -> Written:
        text = _Text(domain)
        self._open(text)
        text.add(2, f"runs = t >= 0 and {self._runs(text)}")
        self._turn(text, 2, domain)
        return text.written(f"turn_{domain}")

    def _arrive_alone(self, domain: int) -> Written:
        text = _Text(domain)
        self._open(text)
        self._arrive(text, 2, domain)
        return text.written(f"arrive_{domain}")

    def _finish_alone(self, domain: int, numbers: bool) -> Written:
        text = _Text(domain)
        self._open(text)
        text.add(2, f"runs = {self._runs(text)}")
        self._finish(text, 2, domain, numbers=numbers)
        return text.written(f"finish_{domain}")

    def _open(self, text: _Text, walk: str = "") -> None:
        """A thread's element, and the loop of a walk."""
        width, batch = text.number(f"W{text.domain}"), text.number("B")
        text.number("T")
        text.number("reverse")
        for name in ("lengths", "resets", "skip"):
            text.pointer(name)
        if walk:
            text.add(1, "begin = t")
        text.add(1, f"for i in range(first(), {batch} * {width}, stride()):")
        text.add(2, f"b = shim.quotient(i, {width})", f"u = i - b * {width}")
        if walk:
            sign = "1 - 2 * reverse" if walk == "forward" else "2 * reverse - 1"
            text.add(2, "for step in range(count):")
            text.add(3, f"t = begin + step * ({sign})")
            other = (f"t + {sign}", "step + 1 < count") if walk == "forward" else (f"t - ({sign})", "step > 0")
            text.add(3, f"other = {other[0]} if {other[1]} else -1")

    @staticmethod
    def _runs(text: _Text) -> str:
        return f"runs_at({text.pointer('lengths')}, {text.pointer('skip')}, t, b, {text.number('B')})"

    def _code(self, text: _Text, pad: int, stage: Stage, *, backward: bool) -> None:
        """The instructions, for a row that runs; else zeros where products over the sequence will read."""
        stored = [one.place for one in stage.code if one.op == "store" and one.place is not None]
        text.add(pad, "if runs:")
        for instruction in stage.code:
            self._instruction(text, pad + 1, instruction, backward)
        cleared = [place for place in stored if place.space == "slot" and (backward or place in self._lefts)]
        if cleared:
            text.add(pad, "else:")
            for place in cleared:
                self._store(text, pad + 1, place, "ZERO", backward)
        for place in stored:
            if place.space == "slot":
                self._raw.discard((place.index, place.slot))

    def _instruction(self, text: _Text, pad: int, one: Instruction, backward: bool) -> None:
        operands = [f"r{number}" for number in one.operands]
        if one.op == "store":
            assert one.place is not None
            self._store(text, pad, one.place, operands[0], backward)
            return
        if one.op == "load":
            assert one.place is not None
            value = self._load(text, one.place, backward)
        elif one.op == "const":
            value = text.constant(one.value)
        elif one.op.startswith("random"):
            at = f"t + {text.number('first_step')}" if one.op == "random_step" else "-1"
            seed, layer = text.number("seed"), text.number("layer")
            value = f"shim.uniform({seed}, {layer}, {int(one.value)}, {at}, b, u)"
        elif one.op in _EXPRESSIONS:
            value = _EXPRESSIONS[one.op].format(*operands)
        else:
            name = {"min": "minimum", "max": "maximum"}.get(one.op, one.op)
            value = f"{'shim.' if name in _CALLS else ''}{name}({', '.join(operands)})"
        text.add(pad, f"r{one.to} = {value}")

    # Places

    def _row(self, text: _Text, name: str, size: str) -> str:
        """The first index of row b in an array that has all steps or one: `at_NAME` is 1 or 0."""
        return f"(t * {text.number('at_' + name)} * {text.number('B')} + b) * {size}"

    def _slot(self, text: _Text, name: str, place: Place) -> str:
        region = self.program.regions[place.index]
        width = text.number(f"W{region.domain}")
        return f"{self._row(text, name, f'{region.slots} * {width}')} + {place.slot} * {width} + u"

    def _is_number(self, place: Place) -> bool:
        return place.space == "scalar" or (place.space == "given" and self.program.given[place.index].domain is None)

    def _load(self, text: _Text, place: Place, backward: bool) -> str:
        program, index, element = self.program, place.index, f"b * {text.number(f'W{text.domain}')} + u"
        if place.space == "slot":
            name = f"region{index}"
            value = f"shim.load({text.pointer(name)}, {self._slot(text, name, place)})"
            return value + self._biases(text, place)
        if place.space == "vector":
            return f"shim.load({text.pointer(f'param{index}')}, u)"
        if place.space == "scalar":
            return f"shim.load({text.pointer('scalars')}, {self._row(text, 'scalars', str(program.scalars))} + {index})"
        if place.space == "given":
            row = f"t * {text.number('B')} + b"
            at = row if self._is_number(place) else f"({row}) * {text.number(f'W{text.domain}')} + u"
            return f"shim.load({text.pointer(f'given{index}')}, {at})"
        if place.space == "after" or (place.space == "before" and backward):
            name = f"{place.space}{index}"
            row = self._row(text, name, text.number(f"W{text.domain}"))
            return f"shim.load({text.pointer(name)}, {row} + u)"
        name = {"before": "state"}.get(place.space, place.space)
        return f"shim.load({text.pointer(f'{name}{index}')}, {element})"

    def _biases(self, text: _Text, place: Place) -> str:
        """What a sum lacks, if the slot holds one."""
        key = place.index, place.slot
        if key not in self._raw:
            return ""
        product, number = self._sums[key]
        width = text.number(f"W{text.domain}")
        return "".join(
            f" + shim.load({text.pointer(f'param{bias.parameter}')}, {bias.block + number} * {width} + u)"
            for bias in (product.x_bias, product.u_bias)
            if bias is not None
        )

    def _store(self, text: _Text, pad: int, place: Place, value: str, backward: bool) -> None:
        index = place.index
        if place.space == "slot":
            name = f"region{index}"
            text.add(pad, f"shim.store({text.pointer(name)}, {self._slot(text, name, place)}, {value})")
            if self._bfloat16 and (place in self._lefts or (backward and (index, place.slot) in self._sums)):
                name = f"shadow{index}"
                text.add(pad, f"shim.store_bf16({text.pointer(name)}, {self._slot(text, name, place)}, {value})")
        elif place.space == "after":
            name = f"after{index}"
            row = self._row(text, name, text.number(f"W{text.domain}"))
            text.add(pad, f"shim.store({text.pointer(name)}, {row} + u, {value})")
        else:
            element = f"b * {text.number(f'W{text.domain}')} + u"
            text.add(pad, f"shim.store({text.pointer(f'{place.space}{index}')}, {element}, {value})")

    # What stands around the instructions

    def _states(self, domain: int) -> Iterable[tuple[int, Any]]:
        return ((index, state) for index, state in enumerate(self.program.states) if state.domain == domain)

    def _turn(self, text: _Text, pad: int, domain: int) -> None:
        """Forward: from the states after step t (-1: the first ones) to those that step `other` (-1: none) reads."""
        batch, width = text.number("B"), text.number(f"W{domain}")
        for index, state in self._states(domain):
            running, element = text.pointer(f"state{index}"), f"b * {width} + u"
            after = f"after{index}"
            text.add(pad, f"s = shim.load({running}, {element})")
            row = self._row(text, after, width)
            text.add(pad, "if runs:", f"    s = shim.load({text.pointer(after)}, {row} + u)")
            y, by_t, by_b = text.pointer(f"y{index}"), text.number(f"y{index}_t"), text.number(f"y{index}_b")
            text.add(pad, f"if t >= 0 and shim.given({y}):")
            text.add(
                pad + 1,
                f"shim.store({y}, t * {by_t} + b * {by_b} + u, s if active(lengths, t, b) else ZERO)",
            )
            reset, initial = text.pointer(f"reset{index}"), text.constant(state.initial)
            text.add(pad, f"if other >= 0 and restarts(lengths, resets, reverse, other, b, T, {batch}):")
            text.add(pad + 1, f"s = {initial}", f"if shim.given({reset}):", f"    s = shim.load({reset}, {element})")
            text.add(pad, f"shim.store({running}, {element}, s)")
            before, shadow = text.pointer(f"before{index}"), f"left{index}"
            row = f"((other * {text.number(f'at_before{index}')} * {batch} + b) * {width} + u"
            text.add(pad, f"if other >= 0 and shim.given({before}):")
            text.add(pad + 1, f"shim.store({before}, {row}), s if active(lengths, other, b) else ZERO)")
            if self._bfloat16 and Place("before", index) in self._lefts:
                row = row.replace(f"at_before{index}", text.number(f"at_left{index}"))
                text.add(pad, "if other >= 0:")
                text.add(
                    pad + 1,
                    f"shim.store_bf16({text.pointer(shadow)}, {row}), s if active(lengths, other, b) else ZERO)",
                )

    def _arrive(self, text: _Text, pad: int, domain: int) -> None:
        """Backward: resets before step `other` (-1: none), which has been done, and dLoss/dy of step t (-1: none)."""
        batch, width = text.number("B"), text.number(f"W{domain}")
        text.add(pad, f"cut = other >= 0 and restarts(lengths, resets, reverse, other, b, T, {batch})")
        for index, _ in self._states(domain):
            gradient, element = text.pointer(f"gradient{index}"), f"b * {width} + u"
            text.add(pad, f"g = shim.load({gradient}, {element})")
            reset = text.pointer(f"d_reset{index}")
            text.add(pad, "if cut:", f"    if shim.given({reset}):")
            text.add(pad + 2, f"shim.store({reset}, {element}, shim.load({reset}, {element}) + g)")
            text.add(pad + 1, "g = ZERO")
            dy, by_t, by_b = text.pointer(f"dy{index}"), text.number(f"dy{index}_t"), text.number(f"dy{index}_b")
            text.add(pad, f"if t >= 0 and shim.given({dy}) and active(lengths, t, b):")
            text.add(pad + 1, f"g += shim.load({dy}, t * {by_t} + b * {by_b} + u)")
            text.add(pad, f"shim.store({gradient}, {element}, g)")

    def _finishes(self, domain: int, numbers: bool) -> bool:
        """Whether there is anything to do for a domain after the last stage."""
        rows = any(self.program.states[one.target.index].domain == domain for one in self.program.state_products)
        extra = [self.program.given[index].domain for index, _ in self.program.given_gradients]
        return rows or domain in extra or (numbers and domain == 0 and None in extra)

    def _finish(self, text: _Text, pad: int, domain: int, *, numbers: bool) -> None:
        """Backward: what does not come through a matrix to the states before the step; the extra inputs' gradients."""
        batch, width = text.number("B"), text.number(f"W{domain}")
        element = f"b * {width} + u"
        for product in self.program.state_products:
            if self.program.states[product.target.index].domain == domain:
                value = "ZERO" if product.start is None else self._load(text, product.start, True)
                text.add(pad, "if runs:")
                gradient = text.pointer(f"gradient{product.target.index}")
                text.add(pad + 1, f"shim.store({gradient}, {element}, {value})")
        for index, place in self.program.given_gradients:
            own = self.program.given[index].domain
            out, row = f"dgiven{index}", f"t * {batch} + b"
            if own is None and numbers:
                text.add(pad, f"if u == 0 and shim.given({text.pointer(out)}):")
                value = self._load(text, place, True)
                text.add(pad + 1, "g = ZERO", "if runs:", f"    g = {value}", f"shim.store({out}, {row}, g)")
            elif own == domain:
                text.add(pad, f"if shim.given({text.pointer(out)}):")
                value = self._load(text, place, True)
                text.add(pad + 1, "g = ZERO", "if runs:", f"    g = {value}")
                text.add(pad + 1, f"shim.store({out}, ({row}) * {width} + u, g)")

    def _mean(self, mean: Mean, *, backward: bool) -> Written:
        """A number of each row, of all units of some rows."""
        text = _Text(mean.domain)
        width = text.number(f"W{mean.domain}")
        text.add(1, "partial = cuda.shared.array(0, float32, 16)", "b, total = int64(shim.block()), ZERO")
        text.add(1, f"if {self._runs(text)}:", "    u = int64(shim.thread())", f"    while u < {width}:")
        numbers = [place for place in mean.rows if self._is_number(place)]
        for place in mean.rows:
            value = self._load(text, place, backward)
            if place in numbers:
                text.add(3, "if u == 0:", f"    total += {value}")
            else:
                text.add(3, f"total += {value}")
        text.add(3, "u += shim.threads()")
        text.add(1, "shim.store_shared(partial, shim.thread(), total)", "shim.sync()", "if shim.thread() == 0:")
        text.add(2, "total = ZERO", "for n in range(shim.threads()):", "    total += shim.load_shared(partial, n)")
        if not mean.total:
            count = f"{len(mean.rows) - len(numbers)} * {width} + {len(numbers)}"
            text.add(2, f"total /= float32({count})")
        at = f"{self._row(text, 'scalars', str(self.program.scalars))} + {mean.scalar}"
        text.add(2, f"shim.store({text.pointer('scalars')}, {at}, total)")
        return text.written(f"mean_{mean.scalar}", rows=True)


def _states_loaded(stages: Sequence[Stage], space: str) -> frozenset[int]:
    """The states that stages load from before or after the step."""
    places = [one.place for stage in stages for one in stage.code if one.op == "load"]
    places += [place for stage in stages for mean in stage.means for place in mean.rows]
    return frozenset(place.index for place in places if place is not None and place.space == space)


@functools.lru_cache(maxsize=256)
def pointwise(program: Program, bfloat16: bool) -> Pointwise:
    """The kernels of a program; written at the first call."""
    return Pointwise(program, bfloat16=bfloat16)
