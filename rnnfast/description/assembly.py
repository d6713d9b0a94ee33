"""A cell's program, from its trace, its derivative, its schedules and its layout."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .declarations import Declared, declared
from .derivative import BackFrom, differentiate
from .lower import lower
from .program import (
    INPUT,
    BackProduct,
    Given,
    Matrix,
    Mean,
    Parameter,
    Place,
    Product,
    Program,
    Stage,
    State,
    Term,
)
from .schedule import RANDOM, At, Schedule, backward_schedule, forward_schedule, start_of
from .slots import Layout, ScratchRow, scratch_places
from .symbols import SOURCES, Node
from .trace import Chain, trace

__all__ = ["program_of"]

_WIDEST = 4  # a product's results


def program_of(cell: Any, bias: bool) -> Program:
    """Traces a cell.

    Parameters
    ----------
    cell : Cell
    bias : bool
        Whether it has biases.

    Returns
    -------
    Program

    Raises
    ------
    TypeError, ValueError
        If its declarations or its step are not as they should be.
    """
    return _Assembly(cell, declared(cell), bias).program()


class _Assembly:
    """The parts of one program while it is put together."""

    def __init__(self, cell: Any, found: Declared, bias: bool) -> None:
        self.cell = cell
        self.declared = found
        self.parameters = _parameters(found, bias)
        self.numbers = {parameter.name: number for number, parameter in enumerate(self.parameters)}
        self.state_domains = tuple(found.domain(state.width) for state in found.states)
        self.trace = trace(cell, found, training=True)
        self.nodes = list(self.trace.graph.nodes)
        self.adjoints = differentiate(self.trace, self.state_domains)
        self.backward = backward_schedule(self.trace, self.adjoints)
        kept = self._kept()
        self.forward = forward_schedule(self.trace, self.nodes, kept)
        self.layout = Layout(self.trace)
        self.layout.place_training(self.forward, self.backward, self.adjoints, kept)
        self.places = self.layout.places
        self.products = self._products()
        self.outputs = _numbered(self.trace.outputs)

    def _kept(self) -> list[Node]:
        """What forward stores for backward alone; raw sums too, where they outlive their slots."""
        places = {*self.trace.outputs, *(row for node in self.trace.sums for row in node.operands)}
        kept = []
        for node, stage in self.backward.last_read.items():
            if node.op == "sum":
                if stage > self.backward.stages[self.adjoints.sums[node]]:
                    kept.append(node)
            elif node.index < self.adjoints.first and node.op not in SOURCES and node not in places:
                kept.append(node)
        return sorted(kept, key=lambda node: node.index)

    def program(self) -> Program:
        found = self.declared
        forward = self._forward(self.forward)
        inference = self._inference()
        backward = _Backward(self)
        return Program(
            name=self.cell.name,
            domains=found.domains,
            states=tuple(
                State(state.name, domain, float(state.initial))
                for state, domain in zip(found.states, self.state_domains, strict=True)
            ),
            parameters=self.parameters,
            given=tuple(Given(one.name, None if one.width is None else found.domain(one.width)) for one in found.given),
            regions=tuple(self.layout.regions),
            scalars=self.layout.scalars,
            products=tuple(product for product, _ in self.products),
            inference=inference,
            forward=forward,
            backward=backward.stages,
            state_products=backward.state_products,
            input_terms=self.terms([node for node in self.layout.sums if _chain(node).x is not None], "x"),
            scratch=backward.scratch,
            vector_gradients=tuple(
                sorted(
                    ((self.numbers[node.value], self.places["vector", node]) for node in self.adjoints.vectors),
                    key=lambda pair: pair[0],
                )
            ),
            given_gradients=backward.given_gradients,
        )

    # Forward

    def _products(self) -> list[tuple[Product, At]]:
        """Neighbouring sums of the same source, in at most `_WIDEST` neighbouring blocks, are one product."""
        groups: list[list[Node]] = []
        for node in self.layout.sums:
            if groups and len(groups[-1]) < _WIDEST and self._follows(groups[-1][-1], node):
                groups[-1].append(node)
            else:
                groups.append([node])
        return [(self._product(group), self.forward.home(group[0])) for group in groups]

    @staticmethod
    def _follows(one: Node, other: Node) -> bool:
        a, b = _chain(one), _chain(other)
        if a.product or b.product or one.operands != other.operands:
            return False
        return all(
            (left is None) == (right is None) and (left is None or right == left + 1)
            for left, right in ((a.x, b.x), (a.h, b.h))
        )

    def _product(self, group: list[Node]) -> Product:
        chain, place = _chain(group[0]), self.places[group[0]]
        left = None
        if group[0].operands:
            (operand,) = group[0].operands
            left = Place("before", operand.value) if operand.op == "before" else self.places[operand]
        x, x_bias, u, u_bias = self._matrices(chain)
        return Product(place.index, place.slot, len(group), x, x_bias, left, u, u_bias)

    def _matrices(self, chain: Chain) -> tuple[Matrix | None, ...]:
        if chain.product is not None:
            own = chain.product
            return None, None, self._matrix(own.weight, 0), self._matrix(own.bias, 0)
        sides = (("weight_ih", chain.x), ("bias_ih", chain.x), ("weight_hh", chain.h), ("bias_hh", chain.h))
        return tuple(self._matrix(name, block) for name, block in sides)

    def _matrix(self, name: str | None, block: int | None) -> Matrix | None:
        return None if block is None or name not in self.numbers else Matrix(self.numbers[name], block)

    def _forward(self, schedule: Schedule) -> tuple[Stage, ...]:
        means: dict[At, list[Mean]] = {}
        for node, stage in schedule.stages.items():
            if node.op == "mean":
                domain = node.operands[0].domain
                assert domain is not None
                rows = tuple(self.load(row) if row.op == "before" else self.places[row] for row in node.operands)
                means.setdefault((stage, domain), []).append(Mean(rows, domain, self.places[node].index))
        stages = []
        for at in sorted({*schedule.blocks, *means}):
            block = schedule.block(at)
            own = {node for node in block.computed if schedule.stages[node] == at[0]}
            code, registers = lower(block, own, self.load, self._target)
            products = tuple(number for number, (_, home) in enumerate(self.products) if home == at)
            stages.append(Stage(at[1], products, (), tuple(means.get(at, ())), code, registers))
        return tuple(stages)

    def _target(self, to: Hashable) -> Place:
        """Where a store goes."""
        return Place("after", to[1]) if isinstance(to, tuple) and to[0] == "after" else self.places[to]

    def load(self, node: Node) -> Place:
        """Where a value lies."""
        if node.op in ("before", "given", "gradient"):
            return Place(node.op, node.value)  # type: ignore[arg-type]
        if node.op == "vector":
            return Place("vector", self.numbers[node.value])
        if node in self.outputs and node.op not in SOURCES:
            return Place("after", self.outputs[node])
        return self.places[node]

    def terms(self, sums: list[Node], side: str) -> tuple[Term, ...]:
        """Transposed products with one side's weights: neighbouring slots of one parameter are one term."""
        found: list[Term] = []
        for node in sums:
            chain, place = _chain(node), self.places[node]
            block = (chain.x if side == "x" else chain.h) or 0
            own = None if chain.product is None else chain.product.weight
            number = self.numbers[own or ("weight_ih" if side == "x" else "weight_hh")]
            last = found[-1] if found else None
            if last and (last.region, last.first + last.count, last.parameter) == (place.index, place.slot, number):
                found[-1] = replace(last, count=last.count + 1, blocks=(*last.blocks, block))
            else:
                found.append(Term(place.index, place.slot, 1, number, (block,)))
        return tuple(found)

    def _inference(self) -> tuple[Stage, ...]:
        """Forward without what is for backward; traced by itself if training draws random numbers."""
        if not any(node.op in RANDOM for node in self.nodes):
            return self._forward(forward_schedule(self.trace, self.nodes, []))
        inference = trace(self.cell, self.declared, training=False)
        schedule = forward_schedule(inference, inference.graph.nodes, [])
        homes = {_chain(node).name: schedule.home(node) for node in inference.sums}
        if homes != {_chain(node).name: self.forward.home(node) for node in self.trace.sums}:
            raise ValueError(
                f"{self.declared.where}.step: expected the same products in training and inference, got others"
            )
        self.layout.place_inference(inference, self.trace, schedule)
        self.outputs |= _numbered(inference.outputs)
        return self._forward(schedule)


class _Backward:
    """The backward half of a program."""

    def __init__(self, forward: _Assembly) -> None:
        self.assembly = forward
        self.schedule, self.adjoints, self.places = forward.backward, forward.adjoints, forward.places
        for node, d in self.adjoints.sums.items():
            self.places.setdefault(d, self.places[node])
        self.finals = list(self._finals())
        self.given = [(node, self.schedule.stages[d], d.domain or 0) for node, d in self.adjoints.given.items()]
        places, self.scratch = scratch_places(list(self._scratch_rows()))
        self.places.update(places)
        self.state_products = tuple(self._back_product(Place("gradient", i), d, sums) for i, d, sums in self.finals)
        means, self.given_gradients = self._means()
        self.stages = self._stages(means)

    def _finals(self) -> Iterator[tuple[int, Node | None, list[Node]]]:
        """The states whose gradients come through `state_products`, with what these start from, and whom they read.

        The others are stored in the last stage, where they are rows of its domain.
        """
        schedule, found, domains = self.schedule, self.adjoints.states, self.assembly.state_domains
        readers = [
            [
                node
                for node in self.assembly.layout.sums
                if [(one.op, one.value) for one in node.operands] == [("before", i)]
            ]
            for i in range(len(found))
        ]
        for d, domain, sums in zip(found, domains, readers, strict=True):
            if sums and d is not None:
                start_of(schedule, d, domain, math.inf)
        others = [(i, d) for i, d in enumerate(found) if not readers[i]]
        last = max([*schedule.blocks, *((schedule.stages[d], domains[i]) for i, d in others if d is not None)])
        for i, d in others:
            if domains[i] == last[1]:
                schedule.store(self.adjoints.zero if d is None else d, last, ("gradient", i))
            elif d is not None:
                start_of(schedule, d, domains[i], math.inf)
        for i, d in enumerate(found):
            if readers[i] or domains[i] != last[1]:
                yield i, d, readers[i]

    def _scratch_rows(self) -> Iterator[ScratchRow]:
        """Times within a step, four a stage: products, reads of means and products, loads, stores."""
        schedule, first = self.schedule, self.adjoints.first
        for (stage, domain), block in schedule.blocks.items():
            for node, to in block.stores:
                read = 4 * schedule.last_read.get(node, 0) + 2
                if isinstance(to, tuple):
                    if to[0] == "given":
                        yield ScratchRow(to, domain, 4 * stage + 3, math.inf)
                    elif to[0] == "start":
                        yield ScratchRow(to, domain, 4 * stage + 3, read)
                elif isinstance(to, Node) and to.index >= first:
                    yield ScratchRow(to, domain, 4 * stage + 3, read)
        for node, last in schedule.last_read.items():
            if node.op == "back":
                yield ScratchRow(node, schedule.home(node)[1], 4 * schedule.stages[node], 4 * last + 2)

    def _means(self) -> tuple[dict[At, list[Mean]], tuple[tuple[int, Place], ...]]:
        """The means by stage, and the given inputs' gradients; those of numbers are totals, one stage later."""
        layout, means = self.assembly.layout, defaultdict[At, list[Mean]](list)
        for node in self.schedule.last_read:
            if node.op == "mean" and node.index >= self.adjoints.first:
                layout.scalar(node)
                at = self.schedule.home(node)
                means[at].append(Mean((self.places[node.operands[0]],), at[1], self.places[node].index))
        gradients = []
        for node, stage, domain in self.given:
            place = self.places["given", node]
            if node.domain is None:
                layout.scalar(("total", node))
                row, place = place, self.places["total", node]
                means[stage + 1, domain].append(Mean((row,), domain, place.index, total=True))
            gradients.append((int(node.value), place))
        return means, tuple(sorted(gradients, key=lambda pair: pair[0]))

    def _stages(self, means: Mapping[At, list[Mean]]) -> tuple[Stage, ...]:
        schedule, backs = self.schedule, defaultdict[At, list[BackProduct]](list)
        for node in schedule.last_read:
            if node.op == "back":
                backs[schedule.home(node)].append(self._of_row(node))
        stages = []
        for at in sorted({*schedule.blocks, *means, *backs}):
            block = schedule.block(at)
            own = {node for node in block.computed if node.index >= self.adjoints.first}
            code, registers = lower(block, own, self._load, self._target)
            stages.append(Stage(at[1], (), tuple(backs.get(at, ())), tuple(means.get(at, ())), code, registers))
        return tuple(stages)

    def _load(self, node: Node) -> Place:
        return self.places.get(("copy", node)) or self.assembly.load(node)

    def _target(self, to: Hashable) -> Place:
        return Place("gradient", to[1]) if isinstance(to, tuple) and to[0] == "gradient" else self.places[to]

    def _of_row(self, node: Node) -> BackProduct:
        """What flows to a computed row."""
        of: BackFrom = node.value
        sums = [one for one in self.assembly.layout.sums if of.row in one.operands]
        return self._back_product(self.places[node], node.operands[0] if of.direct else None, sums)

    def _back_product(self, target: Place, start: Node | None, sums: list[Node]) -> BackProduct:
        place = None if start is None else self.places[start if start.op == "back" else ("start", start)]
        return BackProduct(target, place, self.assembly.terms(sums, "h"))


def _parameters(found: Declared, bias: bool) -> tuple[Parameter, ...]:
    """All parameters, in their order."""
    x = sum(gate.x for gate in found.gates)
    h = sum(gate.h is not False for gate in found.gates)
    recurrent = found.domain(found.recurrent.width)
    parameters = [
        Parameter("weight_ih", 0, x, INPUT),
        Parameter("weight_hh", 0, h, recurrent, heads=found.heads),
        Parameter("bias_ih", 0, x, kind="bias"),
        Parameter("bias_hh", 0, h, kind="bias"),
    ]
    for product in found.products:
        to, of = found.domain(product.to), found.domain(product.of)
        parameters.append(Parameter(str(product.weight), to, 1, of))
        if product.bias is not None:
            parameters.append(Parameter(product.bias, to, 1, kind="bias"))
    parameters += [Parameter(vector.name, found.domain(vector.width), kind="vector") for vector in found.vectors]
    return tuple(one for one in parameters if one.blocks and (bias or one.kind != "bias"))


def _chain(node: Node) -> Chain:
    assert isinstance(node.value, Chain)
    return node.value


def _numbered(outputs: tuple[Node, ...]) -> dict[Node, int]:
    """Each new state's number; of states that are one value, the first."""
    return {node: outputs.index(node) for node in outputs}
