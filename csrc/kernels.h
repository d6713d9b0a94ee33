// What a kernel is told, and the table through which it is reached. Nothing here depends on an instruction set or on
// Python.
//
// Every pointer's shape stands beside it. Null means: not given. Strides count elements. Nothing aliases, except
// that backward overwrites the tape. docs/dev/glossary.md says what T, B, I, H, G are, and
// rnnfast/reference/layer.py what lengths and resets mean.
#pragma once

#include <cstdint>

#include "index.h"
#include "parallel/denormals.h"

namespace rnnfast {

constexpr int most_states = 8, most_given = 8, most_domains = 4, most_parameters = 32;

// The fused kinds have a hand-written cell each. A described cell is run by the interpreter from `Sizes::program`.
enum Kind {
    elman_tanh,
    elman_relu,
    elman_sigmoid,
    lstm,
    gru_after,
    gru_before,
    fused_kinds,
    described = fused_kinds,
    kinds
};
constexpr const char *kind_names[kinds] = {"elman_tanh", "elman_relu", "elman_sigmoid", "lstm",
                                           "gru_after",  "gru_before", "described"};

// A way to stop a long call. The calling thread polls every so often; the others look at the flag.
struct Interrupt {
    bool (*poll)(void *) = nullptr;
    void *context = nullptr;
    int stop = 0;                                 // atomic access only
    const std::uint64_t mode = arithmetic_mode(); // the caller's, in which `poll` runs the caller's signal handlers
};

struct Program; // csrc/program/program.h
enum class Op : std::uint8_t;

struct Sizes {
    index input, hidden;
    index widths[most_domains] = {};  // described cells: of each domain; widths[0] is `hidden`
    const Program *program = nullptr; // described cells alone
};

template <class T> struct Strided { // [T, B, features], unit stride in the features
    T *data = nullptr;
    index t = 0, b = 0;
    T *at(index step, index row) const { return data + step * t + row * b; }
};

// Parameters in the kernel's order; a missing one is null. Fused kinds: weight_ih [G*H, I], weight_hh [G*H, H],
// bias_ih [G*H], bias_hh [G*H], of which the biases may be missing.
template <class T> struct Weights {
    T *data[most_parameters] = {};
};

template <class T> struct Sequence { // what forward and backward both need
    Kind kind;
    index steps, batch;
    Sizes sizes;
    bool reverse;
    int threads;
    Interrupt *interrupt;
    Strided<const T> x;                 // [T, B, I]; data null: ids
    Strided<const std::int64_t> ids;    // [T, B], each in 0 .. I-1 where the row is active
    const std::int64_t *lengths;        // [B], each in 0 .. T
    Strided<const std::uint8_t> resets; // [T, B]
    const T *state[most_states];        // [B, width of the state]; null: zeros
    const T *reset_state[most_states];  // the same
    const T *panels;                    // panel_size()
    T *tape;                            // tape_size(); null: inference

    // Described cells alone:
    Strided<const std::uint8_t> skip;   // [T, B]: 1 where the states pass through untouched
    Strided<const T> given[most_given]; // further inputs of each step, [T, B, width]; [T, B] where the width is 1
    std::uint64_t seed;                 // of the random masks
    index first_step, layer;            // where the call's first step and its layer are in the masks' count
    bool training;
};

template <class T> struct Forward : Sequence<T> {
    Strided<T> y[most_states];   // [T, B, width of the state]; null: not wanted. Fused kinds: the first alone
    T *final_state[most_states]; // [B, width of the state]; may be `state`

    const std::uint32_t *pairs = nullptr; // pairs_size(): weights in bfloat16 in place of those in the panels
    void *memory = nullptr;               // forward_bytes(), 64-byte aligned; null: the call takes its own
    index calls = 0;                      // rises from call to call of a stream: its steps alternate in direction
};

template <class T> struct Backward : Sequence<T> {
    const T *panels_backward;
    Strided<const T> dy[most_states];
    const T *dfinal[most_states];
    Strided<T> dx;                 // [T, B, I]; written
    Strided<T> dgiven[most_given]; // described cells alone; written
    T *dstate[most_states];        // written
    T *d_reset_state[most_states]; // written
    T *dpanels;                    // gradient_size(); written
    bool adds;                     // whether to add to what dpanels and d_reset_state hold
};

template <class T> struct CellKernel {
    index gates, states; // how many
    index (*panel_size)(const Sizes &);
    index (*panel_size_backward)(const Sizes &);
    index (*gradient_size)(const Sizes &); // panel_size(), and what rounding leaves of the vectors' sums
    index (*tape_size)(const Sizes &, index steps, index batch);
    index (*unit_parts)(const Sizes &); // into how many parts the units can be partitioned
    void (*pack)(const Sizes &, const Weights<const T> &, T *panels);
    void (*pack_backward)(const Sizes &, const Weights<const T> &, T *panels, bool dx); // without dx: not what it takes
    void (*unpack)(const Sizes &, const T *panels, const Weights<T> &);
    index (*pairs_size)(const Sizes &); // 0 for double
    void (*to_pairs)(const Sizes &, const T *panels, std::uint32_t *pairs);
    std::size_t (*forward_bytes)(const Forward<T> &);
    void (*forward)(const Forward<T> &);
    void (*backward)(const Backward<T> &);
};

template <class T> struct DenseCall {
    index rows;
    Sizes sizes; // hidden: the output size O
    int threads;
    Interrupt *interrupt;
    const T *x; // [N, I]
    index x_stride;
    const T *panels; // forward: panels, backward: panels_backward
    T *y;            // forward [N, O], written
    const T *dy;     // backward [N, O]
    T *dx;           // backward [N, I], written; or null
    T *dpanels;      // backward, written
    bool adds;       // whether to add to what dpanels hold
};

template <class T> struct DenseKernel {
    index (*panel_size)(const Sizes &);
    index (*panel_size_backward)(const Sizes &);
    void (*pack)(const Sizes &, const Weights<const T> &, T *panels); // weight [O, I], bias [O]
    void (*pack_backward)(const Sizes &, const Weights<const T> &, T *panels);
    void (*unpack)(const Sizes &, const T *panels, const Weights<T> &);
    void (*forward)(const DenseCall<T> &);
    void (*backward)(const DenseCall<T> &);
};

// One row of the kernel table: an instruction set and a dtype.
template <class T> struct Table {
    const char *isa;
    int lanes;
    CellKernel<T> cells[fused_kinds];
    const CellKernel<T> *described; // runs any cell, from Sizes::program
    DenseKernel<T> dense;
    void (*pointwise)(Op, const T *x, T *y, index n);   // y[i] = op(x[i]), for tests
    double (*fma_peak)();                               // GFLOP/s of one thread doing nothing but fma in registers
    double (*read_bandwidth)(index bytes, int threads); // GB/s of reading a buffer over and over, each thread its share
};

// csrc/isa/dispatch.cpp
template <class T> const Table<T> *table(const char *isa); // null: unknown, or this CPU can't run it

} // namespace rnnfast
