"""What a kernel may say, in Python: the twins of the device functions in `shim`, for Numba's simulator.

There each thread of a kernel is a thread of the host. `_thread()` is that one, a `simulator.Thread`; its launch holds
what the threads share.

A) A pointer is a `_View`, which checks every index: one outside its array is an error, as it would be a fault on a GPU.
B) Local and shared memory begin as NaN, so that reading before writing shows.
C) The lanes of a warp exchange their fragments through a list, and each computes its part of the product from all of
   them, in the layout that the hardware documents: so a fragment in the wrong lane is a wrong result here, too.

Rejected: the simulator's own arrays and intrinsics (each call of a device function costs it a tenth of a millisecond,
and it has no tensor cores).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..reference import random

__all__ = [
    "acquire",
    "advance",
    "anew",
    "any_lane",
    "block",
    "blocks",
    "copied",
    "copy16",
    "cos",
    "cuda",
    "device",
    "differ",
    "exp",
    "exp_fast",
    "expm1",
    "float32",
    "float_of",
    "give_up",
    "given",
    "group",
    "high_part",
    "int64",
    "late",
    "load",
    "load2_words",
    "load2_words_shared",
    "load4",
    "load4_shared",
    "load4_words",
    "load_bf16",
    "load_bool",
    "load_int64",
    "load_shared",
    "load_word",
    "log",
    "log1p",
    "look4",
    "look_sum",
    "mma_bf16",
    "mma_tf32",
    "pack_bf16",
    "pointer",
    "publish",
    "publish_sum",
    "quotient",
    "recall",
    "reciprocal_fast",
    "release_add",
    "remember",
    "round_tf32",
    "seal_bf16",
    "seal_float32",
    "seal_tf32",
    "shared_memory",
    "sin",
    "sqrt",
    "store",
    "store_bf16",
    "store_shared",
    "store_word",
    "sync",
    "tag_of",
    "tanh",
    "thread",
    "threads",
    "uint32",
    "uniform",
    "unsealed",
    "upper_halves",
    "word_as_float",
]

Function = Callable[..., Any]


float32, uint32, int64 = np.float32, np.uint32, np.int64


_asked = [0]  # floats of shared memory; Numba's simulator runs one launch at a time, too


@contextmanager
def shared_memory(size: int) -> Iterator[None]:
    """The bytes that each block of the launch has."""
    _asked.append(size // 4)
    try:
        yield
    finally:
        _asked.pop()


class _View:
    """A pointer: a flat array and an offset. An index outside is an error, as it would be a fault on a GPU."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    def at(self, index: Any) -> int:
        i = int(index)
        if not 0 <= i < self.array.size:
            raise IndexError(f"kernel: index {i} outside an array of {self.array.size}")
        return i


def pointer(array: Any) -> Any:
    """What a kernel takes for a flat device array (or None)."""
    return None if array is None else _View(array)


def _thread() -> Any:
    return threading.current_thread()


def device(function: Function) -> Function:
    """Marks a function that kernels call."""
    return function


def thread() -> Any:
    """The number of the thread in its block."""
    return _thread().threadIdx.x


def block() -> Any:
    """The number of the block in its grid."""
    return _thread().threadIdx.y


def blocks() -> Any:
    """The blocks of the grid."""
    return _thread().launch.block[1]


def group() -> Any:
    """The number of the block along the grid's second axis."""
    return _thread().threadIdx.z


def threads() -> Any:
    """The threads of a block."""
    return _thread().launch.block[0]


def sync() -> None:
    """All threads of the block wait for each other."""
    _thread().sync()


_lock = threading.Lock()


def _of_launch(key: Any, make: Callable[[], Any]) -> Any:
    """What the threads of a launch share under a key. No lock: to wait for one takes a turn of Python's threads."""
    held = _thread().launch.held
    found = held.get(key)
    return held.setdefault(key, make()) if found is None else found


def _shared(shape: int, dtype: Any, alignment: int = 4) -> Any:
    """The block's dynamic shared memory, which is asked for with size 0."""
    assert shape == 0
    return _of_launch(("shared", block(), group()), lambda: np.full(_asked[-1], np.nan, dtype))


def _local(shape: int, dtype: Any) -> Any:
    return np.full(shape, np.nan, dtype) if dtype is float32 else np.zeros(shape, dtype)


cuda: Any = SimpleNamespace(local=SimpleNamespace(array=_local), shared=SimpleNamespace(array=_shared))


def load(p: Any, i: Any) -> Any:
    """A float32."""
    return p.array[p.at(i)]


def store(p: Any, i: Any, value: Any) -> None:
    """Write a float32."""
    p.array[p.at(i)] = value


def advance(p: Any, i: Any, size: Any) -> Any:
    """The pointer to element i, which is of so many bytes."""
    assert p.array.itemsize == size
    return _View(p.array[p.at(i) :])


def quotient(a: Any, b: Any) -> Any:
    """``a // b`` of numbers below 2^31, in 32 bits."""
    assert 0 <= a < 2**31 and 0 < b < 2**31
    return a // b


def given(p: Any) -> Any:
    """Whether a pointer is to an array and not None."""
    return p is not None


def load_bf16(p: Any, i: Any) -> Any:
    """A bfloat16 as float32."""
    return np.uint32(int(p.array[p.at(i)]) << 16).view(np.float32)


def load_bool(p: Any, i: Any) -> Any:
    """A byte that is not zero."""
    return bool(p.array[p.at(i)])


def load_int64(p: Any, i: Any) -> Any:
    """An int64."""
    return int(p.array[p.at(i)])


def load4(p: Any, i: Any) -> Any:
    """Four float32 from an index that is a multiple of four, in one access."""
    start = p.at(i)
    assert start % 4 == 0
    p.at(i + 3)
    return tuple(p.array[start : start + 4])


def load2_words(p: Any, i: Any) -> Any:
    """Four bfloat16 from an index that is a multiple of four, as two words of two (the first in the low half)."""
    start = p.at(i)
    assert start % 4 == 0
    p.at(i + 3)
    a, b, c, d = (int(value) for value in p.array[start : start + 4])
    return np.uint32(a | b << 16), np.uint32(c | d << 16)


load4_words = load4  # the array says whether they are floats or words


def look4(p: Any, i: Any) -> Any:
    """The same of words that other blocks write meanwhile: each of them is old or new, by itself."""
    _let_others_run()
    return load4_words(p, i)


def publish(p: Any, i: Any, word: Any) -> None:
    """Write a word for other blocks: they see all of it or nothing, some time later, in any order with others."""
    p.array[p.at(i)] = word


def load_word(p: Any, i: Any) -> Any:
    """A word as an integer."""
    return int(p.array[p.at(i)])


def store_word(p: Any, i: Any, word: Any) -> None:
    """Write a word that no other block reads in this launch."""
    p.array[p.at(i)] = word


def look_sum(p: Any, i: Any) -> Any:
    """The word of a sum and its tag, of what `publish_sum` writes meanwhile."""
    _let_others_run()
    both = int(p.array[p.at(i)])
    return np.uint32(both & 0xFFFFFFFF), np.uint32(both >> 32)


def publish_sum(p: Any, i: Any, value: Any, tag: Any) -> None:
    """Write a float32 and its tag for other blocks, in one access."""
    p.array[p.at(i)] = int(np.float32(value).view(np.uint32)) | int(tag) << 32


def tag_of(turn: Any, mask: Any) -> Any:
    """The bits of a number that are a tag."""
    return np.uint32(turn & mask)


def _clean_bits(value: Any) -> int:
    """A float32's bits; the device's NaN for any NaN, or its tag would be all that is left of some."""
    return int(_DEVICE_NAN if np.isnan(value) else np.float32(value).view(np.uint32))


def seal_float32(value: Any, tag: Any) -> Any:
    """A float32 but for its last bit, where the tag is."""
    return np.uint32(_clean_bits(value) & 0xFFFFFFFE | int(tag))


def seal_tf32(value: Any, tag: Any) -> Any:
    """A float32 rounded to tf32, and a tag of up to 12 bits below."""
    return np.uint32(_clean_bits(round_tf32(value)) & 0xFFFFF000 | int(tag))


def seal_bf16(value: Any, tag: Any) -> Any:
    """A bfloat16 in the upper half of a word, and a tag in the lower."""
    return np.uint32(_round_bf16(value) << 16 | int(tag))


def word_as_float(word: Any) -> Any:
    """A word's bits as a float32."""
    return np.uint32(word).view(np.float32)


def unsealed(word: Any) -> Any:
    """What `seal_float32` kept."""
    return np.uint32(int(word) & 0xFFFFFFFE).view(np.float32)


def upper_halves(a: Any, b: Any) -> Any:
    """The upper halves of two words in one, a's in the lower half."""
    return np.uint32(int(a) >> 16 | int(b) & 0xFFFF0000)


def differ(found: Any, word: Any, tag: Any) -> Any:
    """`found`, and the bits in which a word is not like its tag."""
    return np.uint32(int(found) | int(word) ^ int(tag))


def late(found: Any, mask: Any) -> bool:
    """Whether the bits of tags are among those that differ."""
    return bool(int(found) & mask)


def any_lane(waits: Any) -> bool:
    """Whether a lane of the warp must look again. Here each looks for itself: warps do not meet at different counts."""
    return bool(waits)


def give_up() -> None:
    """End the launch with an error: another block has not come."""
    raise RuntimeError("a block waited in vain for the others of its group")


def store_bf16(p: Any, i: Any, value: Any) -> None:
    """Write a float32 as bfloat16, rounded to nearest even."""
    p.array[p.at(i)] = _round_bf16(value)


def _round_bf16(value: Any) -> int:
    if np.isnan(value):
        return 0x7FFF
    bits = int(np.float32(value).view(np.uint32))
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) & 0xFFFF


def pack_bf16(low: Any, high: Any) -> Any:
    """Two float32 as a word of two bfloat16."""
    return np.uint32(_round_bf16(low) | _round_bf16(high) << 16)


def high_part(x: Any) -> Any:
    """The part of a float32 that tf32 keeps: its upper 19 bits.

    The compiler must not move it out of a loop, where the result would take a register for good.
    """
    return (np.float32(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def anew(i: Any) -> Any:
    """The same integer, of which the compiler knows nothing: it does not unroll a loop that ends there."""
    return i


_DEVICE_NAN = np.uint32(0x7FFFFFFF)


def round_tf32(x: Any) -> Any:
    """A float32 rounded to the 19 bits that tf32 keeps, ties away from zero; or an array of them.

    A NaN is taken as the device's own, 0x7FFFFFFF, whose bits would overflow if they were rounded like a number's;
    NumPy's, 0x7FC00000, would not show it.
    """
    values = np.asarray(x, np.float32)
    numbers = ~np.isnan(values)
    bits = np.where(numbers, values.view(np.uint32), _DEVICE_NAN)
    bits = (bits + np.uint32(0x1000) * numbers) & np.uint32(0xFFFFE000)
    return bits.astype(np.uint32).view(np.float32)[()]


def _inside(shared: Any, i: Any, count: int = 1) -> int:
    """An index of shared memory: one outside would be a fault, or another's word, on a GPU."""
    if not 0 <= i <= shared.size - count:
        raise IndexError(f"kernel: index {i} outside shared memory of {shared.size} words")
    return int(i)


def load_shared(shared: Any, i: Any) -> Any:
    """A float32 of shared memory."""
    return shared[_inside(shared, i)]


def store_shared(shared: Any, i: Any, value: Any) -> None:
    """Write a float32 of shared memory."""
    shared[_inside(shared, i)] = value


def remember(shared: Any, i: Any, value: Any) -> None:
    """Keep an integer below 2^32 in shared memory."""
    shared.view(np.uint32)[_inside(shared, i)] = value


def recall(shared: Any, i: Any) -> Any:
    """What was kept, as int64, read anew.

    A loop's invariants that are computed from it are computed where they stand. The compiler would else keep all of
    them in registers across the loop's other half, two for each, and there are none to spare.
    """
    return int(shared.view(np.uint32)[_inside(shared, i)])


def load4_shared(shared: Any, i: Any) -> Any:
    """Four float32 of shared memory from an index that is a multiple of four, in one access."""
    assert i % 4 == 0
    start = _inside(shared, i, 4)
    a, b, c, d = shared[start : start + 4]
    return a, b, c, d


def load2_words_shared(shared: Any, i: Any) -> Any:
    """Two words of shared memory from an index that is even, in one access."""
    assert i % 2 == 0
    start = _inside(shared, i, 2)
    a, b = shared[start : start + 2].view(np.uint32)
    return a, b


def copy16(shared: Any, i: Any, p: Any, j: Any) -> None:
    """Begin to copy 16 bytes into shared memory, from word `j` of an array to word `i`, both multiples of four."""
    words = p.array.view(np.uint32)
    assert i % 4 == 0 and j % 4 == 0 and 0 <= j <= words.size - 4
    start = _inside(shared, i, 4)
    shared[start : start + 4].view(np.uint32)[...] = words[j : j + 4]


def copied() -> None:
    """What the thread has begun to copy is there; for other threads after a `sync`."""


def release_add(p: Any, i: Any) -> None:
    """Add 1 to an int32 counter; all earlier writes of the thread come before it."""
    with _lock:
        p.array[p.at(i)] += 1


def acquire(p: Any, i: Any) -> Any:
    """Read an int32 counter; all later reads of the block, after a `sync`, come after it."""
    _let_others_run()
    return int(p.array[p.at(i)])


def _let_others_run() -> None:
    """Who spins must, and end if one of them has failed."""
    time.sleep(0)
    _thread().go_on()


def exp_fast(x: Any) -> Any:
    """exp with a relative error of about 2^-21."""
    with np.errstate(all="ignore"):
        return np.exp(np.float32(x), dtype=np.float32)


def reciprocal_fast(x: Any) -> Any:
    """1 / x with a relative error of 2^-23."""
    with np.errstate(all="ignore"):
        return np.float32(1) / np.float32(x)


def float_of(bits: Any) -> Any:
    """The float32 whose bits an integer argument of a kernel holds: `bits_of` makes them."""
    return np.uint32(bits).view(np.float32)


def sqrt(x: Any) -> Any:
    """The square root, rounded correctly."""
    with np.errstate(all="ignore"):
        return np.sqrt(np.float32(x))


def exp(x: Any) -> Any:
    """exp to 2 ULP."""
    with np.errstate(all="ignore"):
        return np.exp(np.float32(x), dtype=np.float32)


def tanh(x: Any) -> Any:
    """tanh to 2 ULP."""
    return np.tanh(np.float32(x), dtype=np.float32)


def expm1(x: Any) -> Any:
    """exp(x) - 1 to 2 ULP."""
    return np.expm1(np.float32(x), dtype=np.float32)


def log(x: Any) -> Any:
    """The natural logarithm to 2 ULP."""
    return np.log(np.float32(x), dtype=np.float32)


def log1p(x: Any) -> Any:
    """log(1 + x) to 2 ULP."""
    return np.log1p(np.float32(x), dtype=np.float32)


def sin(x: Any) -> Any:
    """The sine to 2 ULP."""
    return np.sin(np.float32(x), dtype=np.float32)


def cos(x: Any) -> Any:
    """The cosine to 2 ULP."""
    return np.cos(np.float32(x), dtype=np.float32)


def uniform(seed: Any, layer: Any, stream: Any, step: Any, row: Any, unit: Any) -> Any:
    """A multiple of 2^-24 in [0, 1), a function of the six integers: `reference.random`."""
    return np.float32(random.uniform(random.mix(seed, layer, stream, step, row), unit)[()])


def quiet(function: Function) -> Function:
    """A kernel whose arithmetic does not warn of infinities and NaN: a GPU does not."""

    @functools.wraps(function)
    def silent(*arguments: Any) -> None:
        with np.errstate(all="ignore"):
            function(*arguments)

    return silent


class _Meeting:
    """Where the lanes of a warp put their fragments, and the product that the first of them made of all."""

    def __init__(self) -> None:
        self.number = 0
        self.lanes: list[Any] = [None] * 32
        self.product = np.empty((16, 8))


def _add_product(fragments: Any, sums: Any, multiply: Callable[[Any], Any]) -> tuple[Any, ...]:
    """A lane's four elements of the sums plus the warp's product, which `multiply` makes of the fragments [32, 6].

    Two meetings in turn: who comes to one has seen all lanes past the meeting before, and so past reading it.
    """
    number, me = thread(), _thread()
    warp, lane = number // 32, number % 32
    me.meetings = getattr(me, "meetings", 0) + 1
    meeting = _of_launch(("warp", block(), group(), warp, me.meetings % 2), _Meeting)
    meeting.lanes[lane] = fragments
    sync()
    if meeting.number != me.meetings:  # should two lanes come here at once, they make the same of the same
        with np.errstate(all="ignore"):
            meeting.product = multiply(np.array(meeting.lanes))
        meeting.number = me.meetings
    row, column = lane // 4, 2 * (lane % 4)
    mine = meeting.product[[row, row, row + 8, row + 8], [column, column + 1, column, column + 1]]
    with np.errstate(all="ignore"):
        return tuple((np.array(sums, np.float64) + mine).astype(np.float32))


_G, _T = np.arange(32) // 4, np.arange(32) % 4  # of each lane


def _product_tf32(lanes: Any) -> Any:
    kept = (lanes.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    a, b = np.empty((16, 8)), np.empty((8, 8))
    for q, (row, column) in enumerate(((0, 0), (8, 0), (0, 4), (8, 4))):
        a[_G + row, _T + column] = kept[:, q]
    for q in range(2):
        b[_T + 4 * q, _G] = kept[:, 4 + q]
    return a @ b


def _product_bf16(lanes: Any) -> Any:
    words = lanes.astype(np.uint32)
    a, b = np.empty((16, 16)), np.empty((16, 8))
    for half, bits in enumerate((words << np.uint32(16), words & np.uint32(0xFFFF0000))):
        part, k = bits.view(np.float32), 2 * _T + half
        for q, (row, column) in enumerate(((0, 0), (8, 0), (0, 8), (8, 8))):
            a[_G + row, k + column] = part[:, q]
        for q in range(2):
            b[k + 8 * q, _G] = part[:, 4 + q]
    return a @ b


def mma_tf32(a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    """A warp's 16 x 8 tile plus a [16, 8] b [8, 8], of whose elements tf32's upper 19 bits count.

    Lane 4 g + t holds a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4]; b[t, g], b[t + 4, g]; and c[g, 2 t],
    c[g, 2 t + 1], c[g + 8, 2 t], c[g + 8, 2 t + 1].
    """
    return _add_product((a0, a1, a2, a3, b0, b1), (c0, c1, c2, c3), _product_tf32)


def mma_bf16(a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    """A warp's 16 x 8 tile plus a [16, 16] b [16, 8] in bfloat16, two in a word.

    As `mma_tf32`, but each a or b is the pair of elements at 2 t and 2 t + 1 (or 8 further) along the inner axis.
    """
    return _add_product((a0, a1, a2, a3, b0, b1), (c0, c1, c2, c3), _product_bf16)
