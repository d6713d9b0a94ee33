# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""One-pass loops over flat, contiguous float32 and float64 buffers: what optimisers and gradient clipping are made of.

All parameters of a model lie in one buffer, its gradients in another of the same layout, so an optimiser step is one
loop that reads every number once and writes it once. The functions here check only what keeps memory safe (dtype,
size, alignment, writeable); what a step *means* is in `optim.py`.

A) Scalars arrive as doubles and are rounded to the buffer's type once, before the loop; float32 stays float32 in it.
B) Conditions that do not change inside a loop are written inside it: the compiler makes a loop of each combination.
C) Sums go into `LANES` independent float64 accumulators (element i into lane i mod LANES), combined in one fixed tree:
   the order depends on the size alone, and still fills vectors.
D) GCC puts square roots into vectors only with -fno-math-errno, which makes Adam four times as fast. No other option
   that changes arithmetic is needed, and every element's result is the same bits with or without vectors.
E) Denormals count as zeros inside the loops, and the caller's mode is put back. An average over many zero gradients
   would else fall to a denormal and stay there for ever, and arithmetic on denormals is up to 100 times as slow.

Rejected: NumPy expressions (six to ten passes and temporaries per step); threads (the loops are memory-bound, and sums
would depend on the number of threads); the NumPy C headers (typed memoryviews do all that is needed); loops per
instruction set (without fused multiply-add the results would be the same bits, and the time is spent on memory);
comparing with the smallest normal number instead of a mode of the processor (a second operation per element, and what
the comparison lets through can still become a denormal).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython cimport floating
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport ceil, fabs, isfinite, pow, sqrt, sqrtf
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <immintrin.h>
    typedef unsigned arithmetic_mode;
    static inline void set_mode(arithmetic_mode mode) { _mm_setcsr(mode); }
    static inline arithmetic_mode flush_denormals(void) {
        const arithmetic_mode caller = _mm_getcsr();
        set_mode(caller | 0x8040);
        return caller;
    }
    #elif defined(__aarch64__)
    #include <stdint.h>
    typedef uint64_t arithmetic_mode;
    static inline void set_mode(arithmetic_mode mode) { __asm__ volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
    static inline arithmetic_mode flush_denormals(void) {
        arithmetic_mode caller;
        __asm__ volatile("mrs %0, fpcr" : "=r"(caller));
        set_mode(caller | (arithmetic_mode)1 << 24);
        return caller;
    }
    #else
    typedef int arithmetic_mode;
    static inline void set_mode(arithmetic_mode mode) { (void)mode; }
    static inline arithmetic_mode flush_denormals(void) { return 0; }
    #endif
    """
    ctypedef unsigned long long arithmetic_mode
    arithmetic_mode flush_denormals() noexcept nogil  # the mode before, to be put back
    void set_mode(arithmetic_mode mode) noexcept nogil


cdef enum:
    LANES = 8


cdef class Flushed:
    """A compiled function, as NumPy's ufuncs are, that takes denormals for zeros in this thread's arithmetic.

    The mode is the caller's again when the function returns. Signal handlers written in Python run between two lines of
    Python, of which there is none inside, so they find the caller's mode, too.

    Rejected: one change of mode around several lines, which a handler would find in the midst of them; a `with` block,
    whose exit an exception (Ctrl-C is one) can forestall, so that the mode would be set for ever.
    """

    cdef object call

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments, **options):
        cdef arithmetic_mode caller = flush_denormals()
        try:
            return self.call(*arguments, **options)
        finally:
            set_mode(caller)


cdef inline floating smallest(floating a) noexcept nogil:
    """The smallest normal number of the type of `a`."""
    if floating is float:
        return FLT_MIN
    else:
        return DBL_MIN


cdef inline floating normal(double a, floating like) noexcept nogil:
    """A number > 0 of the type of `like` that is not flushed; 0 stays 0."""
    return smallest(like) if 0 < a < smallest(like) else <floating>a


cdef inline floating root(floating a) noexcept nogil:
    if floating is float:
        return sqrtf(a)
    else:
        return sqrt(a)


cdef const floating* data(str name, const floating[::1] array, Py_ssize_t size) except? NULL:
    """The address of the first element, after the checks; NULL for None."""
    if array is None:
        return NULL
    if array.shape[0] != size:
        raise ValueError(f"{name}: expected {size} elements, got {array.shape[0]}")
    cdef const floating* first = &array[0]
    if <uintptr_t>first % sizeof(floating) != 0:
        raise ValueError(f"{name}: expected an aligned array, got one that starts inside an element")
    return first


def padding(memory, Py_ssize_t alignment):
    """How many bytes lie between the start of `memory` and the next address that `alignment` divides."""
    cdef Py_buffer view
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
    cdef uintptr_t address = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return (alignment - address % alignment) % alignment


def run(calls):
    """Make all calls, with no line of Python in between."""
    for call in calls:
        call()


def commit(call, *assignments):
    """Call, then make the assignments (object, attribute, value), with no line of Python in between.

    Ctrl-C and other signals are heard between two lines of Python, so they can't part what is done here.
    """
    call()
    for target, name, value in assignments:
        setattr(target, name, value)


# --- optimisers -------------------------------------------------------------------------------------------------------


cdef void sgd_loop(
    Py_ssize_t size, floating* p, const floating* g, floating* velocity,
    floating lr, floating momentum, bint nesterov, floating weight_decay,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating d, v
    if velocity == NULL:
        for i in range(size):
            d = g[i] + weight_decay * p[i]
            p[i] -= lr * d
        return
    for i in range(size):
        d = g[i] + weight_decay * p[i]
        v = momentum * velocity[i] + d
        velocity[i] = v
        if nesterov:
            p[i] -= lr * (d + momentum * v)
        else:
            p[i] -= lr * v


def sgd(
    floating[::1] params not None, const floating[::1] gradients not None, floating[::1] momentum_buffer, *,
    double lr, double momentum, bint nesterov, double weight_decay,
):
    """Step of stochastic gradient descent; a `momentum_buffer` of None is plain descent."""
    cdef Py_ssize_t size = params.shape[0]
    cdef floating* p = <floating*>data("params", params, size)
    cdef const floating* g = data("gradients", gradients, size)
    cdef floating* velocity = <floating*>data("momentum_buffer", momentum_buffer, size)
    cdef arithmetic_mode caller
    with nogil:
        caller = flush_denormals()
        sgd_loop(size, p, g, velocity, <floating>lr, <floating>momentum, nesterov, <floating>weight_decay)
        set_mode(caller)


cdef void rmsprop_loop(
    Py_ssize_t size, floating* p, const floating* g, floating* square, floating* mean, floating* velocity,
    floating lr, floating alpha, floating one_minus_alpha, floating eps, floating momentum, floating weight_decay,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating d, s, m
    for i in range(size):
        d = g[i] + weight_decay * p[i]
        s = alpha * square[i] + one_minus_alpha * d * d
        square[i] = s
        if mean != NULL:
            m = alpha * mean[i] + one_minus_alpha * d
            mean[i] = m
            s = s - m * m
            s = 0 if s < 0 else s  # a variance that rounding made negative; NaN stays
        d = d / (root(s) + eps)
        if velocity != NULL:
            d = momentum * velocity[i] + d
            velocity[i] = d
        p[i] -= lr * d


def rmsprop(
    floating[::1] params not None, const floating[::1] gradients not None, floating[::1] square_avg not None,
    floating[::1] grad_avg, floating[::1] momentum_buffer, *,
    double lr, double alpha, double eps, double momentum, double weight_decay,
):
    """Step of RMSprop; `grad_avg` is None unless centred, `momentum_buffer` is None without momentum."""
    cdef Py_ssize_t size = params.shape[0]
    cdef floating* p = <floating*>data("params", params, size)
    cdef const floating* g = data("gradients", gradients, size)
    cdef floating* square = <floating*>data("square_avg", square_avg, size)
    cdef floating* mean = <floating*>data("grad_avg", grad_avg, size)
    cdef floating* velocity = <floating*>data("momentum_buffer", momentum_buffer, size)
    cdef floating safe = normal[floating](eps, 0)
    cdef arithmetic_mode caller
    with nogil:
        caller = flush_denormals()
        rmsprop_loop(
            size, p, g, square, mean, velocity, <floating>lr, <floating>alpha, <floating>(1 - alpha), safe,
            <floating>momentum, <floating>weight_decay,
        )
        set_mode(caller)


cdef void adam_loop(
    Py_ssize_t size, floating* p, const floating* g, floating* mean, floating* square,
    floating beta1, floating one_minus_beta1, floating beta2, floating one_minus_beta2,
    floating step_size, floating scale, floating eps, floating weight_decay, floating keep,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating d, m, v
    for i in range(size):
        d = g[i] + weight_decay * p[i]
        m = beta1 * mean[i] + one_minus_beta1 * d
        v = beta2 * square[i] + one_minus_beta2 * d * d
        mean[i] = m
        square[i] = v
        p[i] = keep * p[i] - step_size * (m / (root(v) * scale + eps))


def adam(
    floating[::1] params not None, const floating[::1] gradients not None, floating[::1] exp_avg not None,
    floating[::1] exp_avg_sq not None, *,
    long long step, double lr, double beta1, double beta2, double eps, double weight_decay, bint decoupled,
):
    """Step number `step` (the first is 1) of Adam, or of AdamW where the weight decay is `decoupled`."""
    if step < 1:
        raise ValueError(f"step: expected at least 1, got {step}")
    cdef Py_ssize_t size = params.shape[0]
    cdef floating* p = <floating*>data("params", params, size)
    cdef const floating* g = data("gradients", gradients, size)
    cdef floating* mean = <floating*>data("exp_avg", exp_avg, size)
    cdef floating* square = <floating*>data("exp_avg_sq", exp_avg_sq, size)
    cdef double step_size = lr / (1 - pow(beta1, step))
    cdef double scale = 1 / sqrt(1 - pow(beta2, step))
    cdef double keep = 1 - lr * weight_decay if decoupled else 1
    cdef double coupled = 0 if decoupled else weight_decay
    cdef floating safe = normal[floating](eps, 0)
    cdef arithmetic_mode caller
    with nogil:
        caller = flush_denormals()
        adam_loop(
            size, p, g, mean, square, <floating>beta1, <floating>(1 - beta1), <floating>beta2, <floating>(1 - beta2),
            <floating>step_size, <floating>scale, safe, <floating>coupled, <floating>keep,
        )
        set_mode(caller)


# --- dropout ----------------------------------------------------------------------------------------------------------


cdef inline uint64_t scramble(uint64_t x) noexcept nogil:
    """One step of splitmix64, as in `reference/random.py` and `csrc/simd/functions.h`."""
    x += <uint64_t>0x9E3779B97F4A7C15U
    x = (x ^ x >> 30) * <uint64_t>0xBF58476D1CE4E5B9U
    x = (x ^ x >> 27) * <uint64_t>0x94D049BB133111EBU
    return x ^ x >> 31


cdef void dropout_row(Py_ssize_t units, floating* out, uint64_t key, uint32_t least, floating scale) noexcept nogil:
    """`scale` where `random.uniform(key, unit)` is at least 2^-24 times `least`, else 0."""
    cdef uint32_t low = <uint32_t>key, high = <uint32_t>(key >> 32), x
    cdef uint32_t one = 0x7FEB352D, two = <uint32_t>0x846CA68BU, three = <uint32_t>0x85EBCA6BU
    cdef uint32_t four = <uint32_t>0xC2B2AE35U
    cdef Py_ssize_t unit
    for unit in range(units):
        x = <uint32_t>unit + low
        x = (x ^ x >> 16) * one
        x = (x ^ x >> 15) * two
        x = x ^ x >> 16 ^ high
        x = (x ^ x >> 16) * three
        x = (x ^ x >> 13) * four
        x = (x ^ x >> 16) >> 8
        out[unit] = scale if x >= least else 0


def seed_of(uint64_t seed, uint64_t place):
    """The seed, in 0..2**63-1, of what draws at a place of a model: the first has the model's own."""
    return scramble(scramble(seed) ^ place) >> 1 if place else seed


def dropout(
    floating[:, :, ::1] out not None, uint64_t seed, uint64_t layer, uint64_t stream, uint64_t first_step, double p
):
    """Fill [T, B, units] with 0, with the probability `p`, or 1 / (1 - p): a function of all but the array."""
    cdef uint64_t whole = scramble(scramble(scramble(seed) ^ layer) ^ stream), step
    cdef uint32_t least = <uint32_t>ceil(p * 16777216.0)
    cdef floating scale = <floating>(1 / (1 - p)) if p < 1 else 0
    cdef Py_ssize_t t, b
    if out.shape[0] == 0 or out.shape[1] == 0 or out.shape[2] == 0:
        return
    with nogil:
        for t in range(out.shape[0]):
            step = scramble(whole ^ (first_step + <uint64_t>t))
            for b in range(out.shape[1]):
                dropout_row(out.shape[2], &out[t, b, 0], scramble(step ^ <uint64_t>b), least, scale)


# --- sums and clipping ------------------------------------------------------------------------------------------------


cdef double sum_of_squares_loop(Py_ssize_t size, const floating* a, double unit) noexcept nogil:
    """Of a[i] / unit."""
    cdef double lane[LANES]
    cdef double d
    cdef Py_ssize_t k, _, rest = size % LANES
    cdef bint divides = unit != 1
    for k in range(LANES):
        lane[k] = 0
    for _ in range(size // LANES):
        for k in range(LANES):
            d = a[k] / unit if divides else a[k]
            lane[k] += d * d
        a += LANES
    for k in range(rest):
        d = a[k] / unit if divides else a[k]
        lane[k] += d * d
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]))


cdef double largest_loop(Py_ssize_t size, const floating* a) noexcept nogil:
    """The largest magnitude; NaN counts as 0."""
    cdef Py_ssize_t i
    cdef double largest = 0
    for i in range(size):
        largest = max(largest, fabs(a[i]))
    return largest


cdef double norm_of(Py_ssize_t size, const floating* a) noexcept nogil:
    """The L2 norm. Where the squares overflow or vanish, which only those of float64 do, of multiples of the largest."""
    cdef double squares = sum_of_squares_loop(size, a, 1)
    cdef double largest
    if squares > 0 and isfinite(squares) or squares != squares:
        return sqrt(squares)
    largest = largest_loop(size, a)
    if largest == 0 or not isfinite(largest):
        return largest
    return largest * sqrt(sum_of_squares_loop(size, a, largest))


cdef void scale_loop(Py_ssize_t size, floating* a, floating factor) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        a[i] *= factor


def scale_to_norm(floating[::1] array not None, double max_norm):
    """Scale in place so that the L2 norm is at most `max_norm` (infinity only measures); the norm before.

    The sum is in float64, in an order that depends on the size alone. If the norm is not finite, nothing is scaled.
    A factor that would be flushed goes in two steps.
    """
    cdef Py_ssize_t size = array.shape[0]
    cdef floating* a = <floating*>data("array", array, size)
    cdef arithmetic_mode caller
    cdef double norm, factor
    with nogil:
        caller = flush_denormals()
        norm = norm_of(size, a)
        factor = max_norm / (norm + 1e-6)
        if isfinite(norm) and factor < smallest[floating](0):
            factor = sqrt(max_norm) / sqrt(norm + 1e-6)
            scale_loop(size, a, <floating>factor)
            scale_loop(size, a, <floating>factor)
        elif isfinite(norm) and factor < 1:
            scale_loop(size, a, <floating>factor)
        set_mode(caller)
    return norm


cdef void clamp_loop(Py_ssize_t size, floating* a, floating bound) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating d
    for i in range(size):
        d = a[i]
        d = bound if d > bound else d
        d = -bound if d < -bound else d
        a[i] = d


def clamp(floating[::1] array not None, double bound):
    """Clamp to `[-bound, bound]` in place; NaN stays NaN."""
    cdef Py_ssize_t size = array.shape[0]
    cdef floating* a = <floating*>data("array", array, size)
    cdef arithmetic_mode caller
    with nogil:
        caller = flush_denormals()
        clamp_loop(size, a, <floating>bound)
        set_mode(caller)


# --- rows of a matrix -------------------------------------------------------------------------------------------------


cdef void add_rows_loop(
    Py_ssize_t count, Py_ssize_t width, floating* target, const int64_t* ids, const int64_t* order,
    const floating* rows, double* total,
) noexcept nogil:
    cdef Py_ssize_t i = 0, k
    cdef int64_t id
    cdef const floating* row
    cdef floating* own
    while i < count:
        id = ids[order[i]]
        for k in range(width):
            total[k] = 0
        while i < count and ids[order[i]] == id:
            row = rows + order[i] * width
            for k in range(width):
                total[k] += row[k]
            i += 1
        own = target + id * width
        for k in range(width):
            own[k] = <floating>(own[k] + total[k])


def add_rows(
    floating[:, ::1] target not None, const int64_t[::1] ids not None, const int64_t[::1] order not None,
    const floating[:, ::1] rows not None, double[::1] total not None,
):
    """Add each row to the target's row of its id; `order` sorts the ids, so that equal ones are neighbours.

    The rows of one id are summed in that order, in float64. `total` is memory for one row.
    """
    cdef Py_ssize_t count = ids.shape[0], width = target.shape[1], i
    if order.shape[0] != count or rows.shape[0] != count or rows.shape[1] != width or total.shape[0] != width:
        raise ValueError("add_rows: expected as many ids, rows and places, and rows as wide as the target's")
    for i in range(count):
        if not 0 <= ids[i] < target.shape[0] or not 0 <= order[i] < count:
            raise ValueError(f"ids: expected ids in 0..{target.shape[0] - 1} and an order of them, got {ids[i]}")
    if not count or not width:
        return
    cdef arithmetic_mode caller
    with nogil:
        caller = flush_denormals()
        add_rows_loop(count, width, &target[0, 0], &ids[0], &order[0], &rows[0, 0], &total[0])
        set_mode(caller)


# --- traces: how states depend on parameters --------------------------------------------------------------------------


cdef enum:
    MOST_STATES = 8  # of a cell


cdef void advance_rows(
    int states, Py_ssize_t width, Py_ssize_t between, floating* trace, const floating* handed, const floating* direct,
    const floating* source, floating error, floating* gradient,
) noexcept nogil:
    """One unit's row of one parameter, of all states; `handed` is [from][to]."""
    cdef floating old[MOST_STATES]
    cdef floating a, b, total
    cdef floating* other = trace + between
    cdef Py_ssize_t j
    cdef int k, m
    if states == 1:
        for j in range(width):
            trace[j] = handed[0] * trace[j] + direct[0] * source[j]
    elif states == 2:
        for j in range(width):
            a = trace[j]
            b = other[j]
            trace[j] = handed[0] * a + handed[2] * b + direct[0] * source[j]
            other[j] = handed[1] * a + handed[3] * b + direct[1] * source[j]
    else:
        for j in range(width):
            for m in range(states):
                old[m] = trace[m * between + j]
            for k in range(states):
                total = direct[k] * source[j]
                for m in range(states):
                    total = total + handed[m * states + k] * old[m]
                trace[k * between + j] = total
    if gradient != NULL:
        for j in range(width):
            gradient[j] = gradient[j] + error * trace[j]


def advance_traces(
    floating[:, :, :, :, ::1] traces not None, const floating[:, :, :, ::1] handed not None,
    const floating[:, :, :, ::1] direct not None, const floating[:, :, ::1] source not None,
    const floating[:, ::1] error, floating[:, :, ::1] gradient,
):
    """One step of the traces of one parameter: d(state)/d(weight) for each state, row, block, unit and column.

    ``traces[k] = sum_m handed[m, k] * traces[m] + direct[k] * source``, and ``gradient += error * traces[0]``, summed
    over rows. `traces` is [S, B, blocks, H, C]; `handed` [S, S, B, H]; `direct` [S, B, blocks, H]; `source`
    [B, heads, C], of which unit u reads the row of its head; `error` [B, H] and `gradient` [blocks, H, C], or neither.
    """
    cdef Py_ssize_t states = traces.shape[0], rows = traces.shape[1], blocks = traces.shape[2]
    cdef Py_ssize_t hidden = traces.shape[3], width = traces.shape[4], heads = source.shape[1]
    cdef bint learns = error is not None
    if (
        states > MOST_STATES or heads < 1 or hidden % heads
        or (handed.shape[0], handed.shape[1], handed.shape[2], handed.shape[3]) != (states, states, rows, hidden)
        or (direct.shape[0], direct.shape[1], direct.shape[2], direct.shape[3]) != (states, rows, blocks, hidden)
        or (source.shape[0], source.shape[2]) != (rows, width)
        or learns != (gradient is not None)
    ):
        raise ValueError("advance_traces: expected arrays that fit together")
    if learns and ((error.shape[0], error.shape[1]) != (rows, hidden)
                   or (gradient.shape[0], gradient.shape[1], gradient.shape[2]) != (blocks, hidden, width)):
        raise ValueError("advance_traces: expected an error and a gradient that fit the traces")
    if not rows or not width:
        return
    cdef Py_ssize_t between = rows * blocks * hidden * width, b, g, u
    cdef int k, m
    cdef floating own[MOST_STATES * MOST_STATES]
    cdef floating added[MOST_STATES]
    cdef arithmetic_mode caller
    with nogil:
        caller = flush_denormals()
        for b in range(rows):
            for g in range(blocks):
                for u in range(hidden):
                    for k in range(<int>states):
                        added[k] = direct[k, b, g, u]
                        for m in range(<int>states):
                            own[m * states + k] = handed[m, k, b, u]
                    advance_rows(
                        <int>states, width, between, &traces[0, b, g, u, 0], own, added,
                        &source[b, u // (hidden // heads), 0], error[b, u] if learns else <floating>0,
                        &gradient[g, u, 0] if learns else <floating*>NULL,
                    )
        set_mode(caller)
