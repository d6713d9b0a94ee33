"""What a traced cell comes to: a list of stages, the contract between the trace and everything that runs it.

A *program* is plain data: no function of the user's is in it any more. The C++ interpreter, the CUDA engine and the
NumPy interpreter in `rnnfast.reference` run it; `trace` and `derivative` make it.

A *domain* is a width that rows have: "hidden" (number 0), or another one, such as the size of a projection. A *place*
says where a row of one batch row at one step lies. Rows of one step, the residuals that backward reads included, lie in
*regions*: so many slots of one domain, interleaved in blocks of 16 units. A product's results stand in neighbouring
slots of one region; forward finds its sums there, backward leaves their gradients in the same slots.

A step runs stage by stage. A stage is: products of x, of a state or of a row that an earlier stage stored; means over
the units of rows; then pointwise instructions on registers, each register a row of the stage's domain. Stores come
last, so a slot may be loaded and overwritten in one stage.

Backward is a program of the same form. It finds the gradients of the states after the step in `gradient` places
(dLoss/dy is in them already) and the activations in the slots. It leaves: the gradients of all products' sums in their
slots, the gradients of vectors and of given inputs in the places that `vector_gradients` and `given_gradients` name,
and, after the last products (`state_products`), the gradients of the states before the step in the `gradient` places.

Rejected: one function per stage as source code (needs a compiler where the program runs); a tape of operations per call
(the same step is traced once for all).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "INPUT",
    "OPERATIONS",
    "BackProduct",
    "Given",
    "Instruction",
    "Matrix",
    "Mean",
    "Parameter",
    "Place",
    "Product",
    "Program",
    "Region",
    "Stage",
    "State",
    "Term",
]

INPUT = -1
"""As a number of columns: the input's features."""

Space = Literal["slot", "before", "after", "vector", "given", "scalar", "gradient", "scratch"]

OPERATIONS: dict[str, int] = {
    # name: operands. `value` is the constant of "const" and the stream's number of the two random ones.
    "load": 0,  # of `place`; a scalar or a given number is spread over the units
    "store": 1,  # to `place`
    "const": 0,
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,
    "fma": 3,  # a * b + c, one rounding
    "fnma": 3,  # c - a * b, one rounding
    "neg": 1,
    "min": 2,
    "max": 2,
    "abs": 1,
    "sign": 1,
    "sqrt": 1,
    "exp": 1,
    "expm1": 1,
    "log": 1,
    "log1p": 1,
    "sin": 1,
    "cos": 1,
    "sigmoid": 1,
    "tanh": 1,
    "relu": 1,
    "softplus": 1,
    "d_sigmoid": 1,  # of the result y: y * (1 - y)
    "d_tanh": 1,  # of the result y: fma(-y, y, 1)
    "lerp": 3,  # (z, a, b) -> fma(z, a - b, b): b at z = 0, a at z = 1
    "where": 3,  # (c, a, b) -> a where c > 0, else b; what is not taken may be NaN
    "random_step": 0,  # uniform in [0, 1), a function of (seed, layer, stream, step, row, unit)
    "random_sequence": 0,  # the same number at every step
}
"""The operations of the interpreters and how many registers each reads."""


@dataclass(frozen=True)
class Place:
    """Where a row lies.

    Attributes
    ----------
    space : str
        "slot": slot `slot` of region `index`. "before", "after": state `index` before and after the step. "vector": the
        learned vector that is parameter `index`. "given": the extra input `index`. "scalar": a number per row, made by
        a `Mean`. Backward alone: "gradient": of state `index`; "scratch": a row of `Program.scratch`, kept for one
        step.
    index, slot : int
    """

    space: Space
    index: int
    slot: int = 0


@dataclass(frozen=True)
class Instruction:
    """One pointwise operation on registers.

    Attributes
    ----------
    op : str
        A key of `OPERATIONS`.
    to : int
        The register that is written; -1 for "store".
    operands : tuple of int
        Registers.
    value : float
        See `OPERATIONS`.
    place : Place or None
        Of "load" and "store".
    """

    op: str
    to: int
    operands: tuple[int, ...] = ()
    value: float = 0.0
    place: Place | None = None


@dataclass(frozen=True)
class State:
    """A state: its name, its domain, and the number it starts from where none is given (and after a reset)."""

    name: str
    domain: int
    initial: float = 0.0


@dataclass(frozen=True)
class Parameter:
    """A learned array: a matrix [blocks * rows, columns], a bias [blocks * rows], or a vector [rows].

    Attributes
    ----------
    name : str
        Without the suffix of layer and direction.
    domain : int
        Its rows.
    blocks : int
        How many blocks of rows are stacked, one per gate; 1 for vectors.
    columns : int or None
        `INPUT`, a domain, or None for biases and vectors.
    kind : {"weight", "bias", "vector"}
    heads : int
        A block-diagonal matrix has columns / heads columns: row u of a block belongs to head u // (rows / heads), and
        reads that head's part of the source.
    """

    name: str
    domain: int
    blocks: int = 1
    columns: int | None = None
    kind: Literal["weight", "bias", "vector"] = "weight"
    heads: int = 1


@dataclass(frozen=True)
class Given:
    """An extra input per step: its name, and its domain; None is a number per row."""

    name: str
    domain: int | None


@dataclass(frozen=True)
class Region:
    """Slots of one domain, interleaved in blocks of 16 units."""

    domain: int
    slots: int


@dataclass(frozen=True)
class Matrix:
    """Neighbouring blocks of a parameter, from `block` on; as many as the product has results."""

    parameter: int
    block: int = 0


@dataclass(frozen=True)
class Product:
    """Sums of one chain each: the biases, then x's features, then the units of `left`.

    Attributes
    ----------
    region, first, count : int
        Where the `count` (1..4) sums stand: neighbouring slots of a region.
    x, x_bias : Matrix or None
        The input's side; a bias that the layer does not have is None.
    left : Place or None
        The other factor: "before" a state, or a "slot" of a region with one slot, stored by an earlier stage.
    u, u_bias : Matrix or None
        Its weights.
    """

    region: int
    first: int
    count: int
    x: Matrix | None = None
    x_bias: Matrix | None = None
    left: Place | None = None
    u: Matrix | None = None
    u_bias: Matrix | None = None


@dataclass(frozen=True)
class Mean:
    """A number per row, in scalar `scalar`: the mean over all units of some rows of `domain`; `total`: their sum."""

    rows: tuple[Place, ...]
    domain: int
    scalar: int
    total: bool = False


@dataclass(frozen=True)
class Term:
    """A transposed product: the gradients in `count` neighbouring slots times the blocks of a parameter.

    K runs over blocks of 16 units, in each over the slots in order, in each over the units. `blocks[i]` is the
    parameter's block of rows that slot first + i is the gradient of.
    """

    region: int
    first: int
    count: int
    parameter: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class BackProduct:
    """What flows back through matrices to one source: chains from `start` (None: zero) over the terms in order."""

    target: Place
    start: Place | None
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Stage:
    """Products, then means, then instructions.

    Attributes
    ----------
    domain : int
        Of the instructions' registers.
    products : tuple of int
        Forward: numbers of `Program.products`. Backward: empty.
    back_products : tuple of BackProduct
        Backward: run first. Forward: empty.
    means : tuple of Mean
        In order; of rows that earlier stages stored, or that this stage's products left.
    code : tuple of Instruction
        Stores last.
    registers : int
        How many registers the code uses.
    """

    domain: int
    products: tuple[int, ...] = ()
    back_products: tuple[BackProduct, ...] = ()
    means: tuple[Mean, ...] = ()
    code: tuple[Instruction, ...] = ()
    registers: int = 0


@dataclass(frozen=True)
class Program:
    """A cell's step, forward and backward.

    Attributes
    ----------
    name : str
    domains : tuple of str
        Names of the widths; domains[0] is "hidden".
    states : tuple of State
        The first is the one that y shows.
    parameters : tuple of Parameter
        In their order in `layer.params`, and in that in which a kernel's pack takes them.
    given : tuple of Given
    regions : tuple of Region
    scalars : int
        Numbers per row and step, beside the regions.
    products : tuple of Product
    inference, forward, backward : tuple of Stage
        `forward` is for training: it also stores what backward reads. Both have the same products in the same stages.
    state_products : tuple of BackProduct
        After the last backward stage: the targets are "gradient" places.
    input_terms : tuple of Term
        dLoss/dx.
    scratch : tuple of int
        Domains of the backward step's scratch rows.
    vector_gradients : tuple of (int, Place)
        A parameter, and the place ("slot") of dLoss/dvector of each row and step.
    given_gradients : tuple of (int, Place)
        An extra input, and the place ("scratch" or "scalar") of its gradient.
    """

    name: str
    domains: tuple[str, ...]
    states: tuple[State, ...]
    parameters: tuple[Parameter, ...]
    given: tuple[Given, ...]
    regions: tuple[Region, ...]
    scalars: int
    products: tuple[Product, ...]
    inference: tuple[Stage, ...]
    forward: tuple[Stage, ...]
    backward: tuple[Stage, ...]
    state_products: tuple[BackProduct, ...]
    input_terms: tuple[Term, ...]
    scratch: tuple[int, ...]
    vector_gradients: tuple[tuple[int, Place], ...]
    given_gradients: tuple[tuple[int, Place], ...]
