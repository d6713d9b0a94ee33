"""What programs look like: those of the six cells line by line, and what holds for all."""

from __future__ import annotations

import time

import pytest
from description.descriptions import DESCRIPTIONS

from rnnfast import reference
from rnnfast.description import assembly
from rnnfast.description.program import OPERATIONS, Program


def at(place):
    if place is None:
        return "0"
    numbers = f"{place.index}.{place.slot}" if place.space == "slot" else place.index
    return f"{place.space} {numbers}"


def terms(found, program):
    return " + ".join(
        f"slot {t.region}.{t.first}+{t.count} * {program.parameters[t.parameter].name}{list(t.blocks)}" for t in found
    )


def code(stage):
    """The instructions, as an expression for each store: what is loaded or stored shows by its place."""
    values: dict[int, str] = {}
    for line in stage.code:
        operands = [values[number] for number in line.operands]
        if line.op == "store":
            yield f"{at(line.place)} = {operands[0]}"
        else:
            value = {"load": at(line.place), "const": f"{line.value:g}"}.get(line.op)
            values[line.to] = value or f"{line.op}({', '.join(operands)})"


def listing(program: Program) -> str:
    """A program in words, without the obvious."""
    lines = [f"regions {[(region.domain, region.slots) for region in program.regions]} scratch {program.scratch}"]
    for number, p in enumerate(program.products):
        sides = [f"{program.parameters[m.parameter].name}[{m.block}]" for m in (p.x_bias, p.u_bias, p.x, p.u) if m]
        lines.append(f"product {number}: slot {p.region}.{p.first}+{p.count} = {' '.join(sides)} of {at(p.left)}")
    for name in ("inference", "forward", "backward"):
        for number, stage in enumerate(getattr(program, name)):
            lines.append(f"{name} {number}: products {list(stage.products)}")
            lines += [f"  {at(b.target)} = {at(b.start)} + {terms(b.terms, program)}" for b in stage.back_products]
            lines += [f"  {line}" for line in code(stage)]
    lines += [f"{at(b.target)} = {at(b.start)} + {terms(b.terms, program)}" for b in program.state_products]
    lines.append(f"x = {terms(program.input_terms, program)}")
    return "\n".join(lines)


LISTINGS = {
    "elman_relu": """\
regions [(0, 1)] scratch ()
product 0: slot 0.0+1 = bias_ih[0] bias_hh[0] weight_ih[0] weight_hh[0] of before 0
inference 0: products [0]
  after 0 = relu(slot 0.0)
forward 0: products [0]
  after 0 = relu(slot 0.0)
backward 0: products []
  slot 0.0 = where(after 0, gradient 0, 0)
gradient 0 = 0 + slot 0.0+1 * weight_hh[0]
x = slot 0.0+1 * weight_ih[0]""",
    "lstm": """\
regions [(0, 4), (0, 1)] scratch ()
product 0: slot 0.0+4 = bias_ih[0] bias_hh[0] weight_ih[0] weight_hh[0] of before 0
inference 0: products [0]
  after 0 = mul(sigmoid(slot 0.3), tanh(fma(sigmoid(slot 0.1), before 1, mul(sigmoid(slot 0.0), tanh(slot 0.2)))))
  after 1 = fma(sigmoid(slot 0.1), before 1, mul(sigmoid(slot 0.0), tanh(slot 0.2)))
forward 0: products [0]
  after 0 = mul(sigmoid(slot 0.3), tanh(fma(sigmoid(slot 0.1), before 1, mul(sigmoid(slot 0.0), tanh(slot 0.2)))))
  after 1 = fma(sigmoid(slot 0.1), before 1, mul(sigmoid(slot 0.0), tanh(slot 0.2)))
  slot 0.0 = sigmoid(slot 0.0)
  slot 0.1 = sigmoid(slot 0.1)
  slot 0.2 = tanh(slot 0.2)
  slot 0.3 = sigmoid(slot 0.3)
  slot 1.0 = tanh(fma(sigmoid(slot 0.1), before 1, mul(sigmoid(slot 0.0), tanh(slot 0.2))))
backward 0: products []
  slot 0.3 = mul(mul(gradient 0, slot 1.0), d_sigmoid(slot 0.3))
  slot 0.2 = mul(mul(fma(mul(gradient 0, slot 0.3), d_tanh(slot 1.0), gradient 1), slot 0.0), d_tanh(slot 0.2))
  slot 0.1 = mul(mul(fma(mul(gradient 0, slot 0.3), d_tanh(slot 1.0), gradient 1), before 1), d_sigmoid(slot 0.1))
  slot 0.0 = mul(mul(fma(mul(gradient 0, slot 0.3), d_tanh(slot 1.0), gradient 1), slot 0.2), d_sigmoid(slot 0.0))
  gradient 1 = mul(fma(mul(gradient 0, slot 0.3), d_tanh(slot 1.0), gradient 1), slot 0.1)
gradient 0 = 0 + slot 0.0+4 * weight_hh[0, 1, 2, 3]
x = slot 0.0+4 * weight_ih[0, 1, 2, 3]""",
    "gru_after": """\
regions [(0, 4)] scratch (0,)
product 0: slot 0.0+1 = bias_hh[2] weight_hh[2] of before 0
product 1: slot 0.1+2 = bias_ih[0] bias_hh[0] weight_ih[0] weight_hh[0] of before 0
product 2: slot 0.3+1 = bias_ih[2] weight_ih[2] of 0
inference 0: products [0, 1, 2]
  after 0 = lerp(sigmoid(slot 0.2), before 0, tanh(fma(sigmoid(slot 0.1), slot 0.0, slot 0.3)))
forward 0: products [0, 1, 2]
  after 0 = lerp(sigmoid(slot 0.2), before 0, tanh(fma(sigmoid(slot 0.1), slot 0.0, slot 0.3)))
  slot 0.1 = sigmoid(slot 0.1)
  slot 0.2 = sigmoid(slot 0.2)
  slot 0.3 = tanh(fma(sigmoid(slot 0.1), slot 0.0, slot 0.3))
backward 0: products []
  slot 0.0 = mul(mul(mul(gradient 0, sub(1, slot 0.2)), d_tanh(slot 0.3)), slot 0.1)
  slot 0.3 = mul(mul(gradient 0, sub(1, slot 0.2)), d_tanh(slot 0.3))
  slot 0.2 = mul(mul(gradient 0, sub(before 0, slot 0.3)), d_sigmoid(slot 0.2))
  slot 0.1 = mul(mul(mul(mul(gradient 0, sub(1, slot 0.2)), d_tanh(slot 0.3)), slot 0.0), d_sigmoid(slot 0.1))
  scratch 0 = mul(gradient 0, slot 0.2)
gradient 0 = scratch 0 + slot 0.0+3 * weight_hh[2, 0, 1]
x = slot 0.1+3 * weight_ih[0, 1, 2]""",
    "gru_before": """\
regions [(0, 3), (0, 1)] scratch (0, 0)
product 0: slot 0.0+2 = bias_ih[0] bias_hh[0] weight_ih[0] weight_hh[0] of before 0
product 1: slot 0.2+1 = bias_ih[2] bias_hh[2] weight_ih[2] weight_hh[2] of slot 1.0
inference 0: products [0]
  slot 0.1 = sigmoid(slot 0.1)
  slot 1.0 = mul(sigmoid(slot 0.0), before 0)
inference 1: products [1]
  after 0 = lerp(slot 0.1, before 0, tanh(slot 0.2))
forward 0: products [0]
  slot 0.1 = sigmoid(slot 0.1)
  slot 1.0 = mul(sigmoid(slot 0.0), before 0)
  slot 0.0 = sigmoid(slot 0.0)
forward 1: products [1]
  after 0 = lerp(slot 0.1, before 0, tanh(slot 0.2))
  slot 0.2 = tanh(slot 0.2)
backward 0: products []
  slot 0.2 = mul(mul(gradient 0, sub(1, slot 0.1)), d_tanh(slot 0.2))
  slot 0.1 = mul(mul(gradient 0, sub(before 0, slot 0.2)), d_sigmoid(slot 0.1))
  scratch 0 = mul(gradient 0, slot 0.1)
backward 1: products []
  scratch 1 = 0 + slot 0.2+1 * weight_hh[2]
  slot 0.0 = mul(mul(scratch 1, before 0), d_sigmoid(slot 0.0))
  scratch 0 = fma(scratch 1, slot 0.0, scratch 0)
gradient 0 = scratch 0 + slot 0.0+2 * weight_hh[0, 1]
x = slot 0.0+3 * weight_ih[0, 1, 2]""",
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listing(name):
    assert listing(reference.CELLS[name].program()) == LISTINGS[name]


def test_lstm_keeps_gates_and_tanh_c_and_c_as_a_state():
    """Backward reads i, f, g, o from their gates' slots, tanh(c) from one of its own, and neither c nor a raw sum."""
    program = reference.CELLS["lstm"].program()
    (forward,), (backward,) = program.forward, program.backward
    stored = [line for line in code(forward) if line.startswith("slot")]
    assert [line.split("(")[0] for line in sorted(stored)] == [
        "slot 0.0 = sigmoid",
        "slot 0.1 = sigmoid",
        "slot 0.2 = tanh",
        "slot 0.3 = sigmoid",
        "slot 1.0 = tanh",
    ]
    loads = {at(line.place) for line in backward.code if line.op == "load"}
    assert loads == {"slot 0.0", "slot 0.1", "slot 0.2", "slot 0.3", "slot 1.0", "before 1", "gradient 0", "gradient 1"}


def test_a_peephole_reads_the_new_state():
    """What equals a new state is read from there, never stored a second time."""
    program = DESCRIPTIONS["projected"].program()
    stored = {at(line.place) for stage in program.forward for line in stage.code if line.op == "store"}
    assert "after 1" in stored
    loads = {at(line.place) for stage in program.backward for line in stage.code if line.op == "load"}
    assert "before 1" in loads and "after 0" not in loads


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_what_holds_for_all(name, bias):
    program = DESCRIPTIONS[name].program(bias)
    slots = [(region, slot) for region, found in enumerate(program.regions) for slot in range(found.slots)]
    written: list[str] = []
    for products in ("inference", "forward"):
        stages = getattr(program, products)
        order = [number for stage in stages for number in stage.products]
        assert sorted(order) == list(range(len(program.products)))
        stored: list[str] = []
        for stage in stages:
            for number in stage.products:
                left = program.products[number].left
                if left is not None and left.space == "slot":
                    assert at(left) in stored and program.regions[left.index].slots == 1
            stored += [at(line.place) for line in stage.code if line.op == "store"]
        assert {f"after {state}" for state in range(len(program.states))} <= set(stored)
    for stage in (*program.inference, *program.forward, *program.backward):
        ops = [line.op for line in stage.code]
        assert ops == sorted(ops, key=lambda op: op == "store"), "stores come last"
        live: set[int] = set()
        for line in stage.code:
            assert len(line.operands) == OPERATIONS[line.op] and live.issuperset(line.operands)
            live |= {line.to} - {-1}
        assert live == set(range(stage.registers)) and stage.registers <= 40
    for product in program.products:
        assert 1 <= product.count <= 4
        written += [f"slot {product.region}.{product.first + number}" for number in range(product.count)]
    assert len(set(written)) == len(written), "each sum has a slot of its own"
    stores = [at(line.place) for stage in program.backward for line in stage.code if line.op == "store"]
    assert set(written) <= set(stores), "each sum's gradient is stored"
    targets = [at(product.target) for product in program.state_products]
    assert sorted(targets + [s for s in stores if s.startswith("gradient")]) == sorted(
        f"gradient {state}" for state in range(len(program.states))
    )
    last = max(number for number, stage in enumerate(program.backward) if stage.code)
    for stage in program.backward[:last]:
        assert not any(line.op == "store" and line.place.space == "gradient" for line in stage.code)
    vectors = [n for n, parameter in enumerate(program.parameters) if parameter.kind == "vector"]
    assert [n for n, _ in program.vector_gradients] == vectors
    for _, place in program.vector_gradients:
        assert at(place) in stores and at(place) not in written and (place.index, place.slot) in slots
    assert [n for n, _ in program.given_gradients] == list(range(len(program.given)))


def test_a_trace_takes_a_moment():
    cell = reference.CELLS["lstm"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assembly.program_of(cell, True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
