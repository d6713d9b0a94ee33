"""From the values of one stage to instructions on few registers."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .program import OPERATIONS, Instruction, Place
from .schedule import Block
from .symbols import PASSES, Node

__all__ = ["lower"]


def lower(
    block: Block, own: set[Node], load: Callable[[Node], Place], store: Callable[[Hashable], Place]
) -> tuple[tuple[Instruction, ...], int]:
    """The instructions of a stage, and how many registers they use.

    What the stage is for comes in the order in which it was written or derived; loads, and what is computed again, come
    just before their first use. An instruction may write the register of an operand that is not used later.

    Parameters
    ----------
    block : Block
    own : set of Node
        What the stage is for, rather than computed again for that.
    load : callable
        The place that a node is loaded from.
    store : callable
        The place of whatever the block stores to.

    Returns
    -------
    code : tuple of Instruction
    registers : int
    """
    order: dict[Node, None] = {}

    def visit(root: Node) -> None:
        waiting = [root]
        while waiting:
            node = waiting[-1]
            missing = [] if node in block.loaded else [one for one in node.operands if one not in order]
            if node in order or not missing:
                order.setdefault(waiting.pop())
            else:
                waiting.extend(reversed(missing))

    for node in sorted(own, key=lambda node: node.index):
        visit(node)
    for node, _ in block.stores:
        visit(node)

    def value(node: Node) -> Node:
        """The node whose register holds it."""
        while node.op in PASSES and node not in block.loaded:
            (node,) = node.operands
        return node

    lines = [node for node in order if value(node) is node]
    operands = {node: () if node in block.loaded else tuple(value(one) for one in node.operands) for node in lines}
    stores = [(value(node), store(to)) for node, to in block.stores]
    last = {operand: number for number, node in enumerate(lines) for operand in operands[node]}
    last |= {node: len(lines) for node, _ in stores}

    registers: dict[Node, int] = {}
    free: list[int] = []
    count = 0
    code = []
    for number, node in enumerate(lines):
        read = tuple(registers[operand] for operand in operands[node])
        free += sorted({registers[one] for one in operands[node] if last[one] == number}, reverse=True)
        if not free:
            free.append(count)
            count += 1
        to = registers[node] = free.pop()
        if node in block.loaded:
            code.append(Instruction("load", to, place=load(node)))
        else:
            code.append(Instruction(node.op, to, read, node.value if OPERATIONS[node.op] == 0 else 0.0))
    code += [Instruction("store", -1, (registers[node],), place=place) for node, place in stores]
    return tuple(code), count
