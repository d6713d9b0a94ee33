// What a kernel is told, and the table through which it is reached. Nothing here depends on an instruction set or on
// Python.
//
// Every pointer's shape stands beside it. Null means: not given. Strides count elements. Nothing aliases, except
// that backward overwrites the tape. See docs/design.md for T, B, I, H, G and for what lengths and resets mean.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnnfast {

using index = std::ptrdiff_t;

enum Kind { elman_tanh, elman_relu, elman_sigmoid, lstm, gru_after, gru_before, kinds };
constexpr const char *kind_names[kinds] = {"elman_tanh", "elman_relu", "elman_sigmoid",
                                           "lstm",       "gru_after",  "gru_before"};

// A way to stop a long call. The calling thread polls every so often; the others look at the flag.
struct Interrupt {
    bool (*poll)(void *) = nullptr;
    void *context = nullptr;
    int stop = 0; // atomic access only
};

struct Sizes {
    index input, hidden;
};

template <class T> struct Strided { // [T, B, features], unit stride in the features
    T *data = nullptr;
    index t = 0, b = 0;
    T *at(index step, index row) const { return data + step * t + row * b; }
};

template <class T> struct Weights { // PyTorch's shapes; biases may be null
    T *weight_ih, *weight_hh;       // [G*H, I], [G*H, H]
    T *bias_ih, *bias_hh;           // [G*H]
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
    const T *h0, *c0;                   // [B, H]
    const T *reset_h, *reset_c;         // [B, H]
    const T *panels;                    // panel_size()
    T *tape;                            // tape_size(); null: inference
};

template <class T> struct Forward : Sequence<T> {
    Strided<T> y; // [T, B, H]
    T *hT, *cT;   // [B, H]; may be h0, c0

    const std::uint32_t *pairs = nullptr; // pairs_size(): weights in bfloat16 in place of those in the panels
    void *memory = nullptr;               // forward_bytes(), 64-byte aligned; null: the call takes its own
    index calls = 0;                      // rises from call to call of a stream: its steps alternate in direction
};

template <class T> struct Backward : Sequence<T> {
    const T *panels_backward;
    Strided<const T> dy;      // [T, B, H]
    const T *dhT, *dcT;       // [B, H]
    Strided<T> dx;            // [T, B, I]; written
    T *dh0, *dc0;             // [B, H]; written
    T *d_reset_h, *d_reset_c; // [B, H]; written
    T *dpanels;               // panel_size(); added to
};

template <class T> struct CellKernel {
    index gates;
    bool has_c;
    index (*panel_size)(Sizes);
    index (*panel_size_backward)(Sizes);
    index (*tape_size)(Sizes, index steps, index batch);
    void (*pack)(Sizes, const Weights<const T> &, T *panels);
    void (*pack_backward)(Sizes, const Weights<const T> &, T *panels);
    void (*unpack)(Sizes, const T *panels, const Weights<T> &);
    index (*pairs_size)(Sizes); // 0 for double
    void (*to_pairs)(Sizes, const T *panels, std::uint32_t *pairs);
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
    T *dpanels;      // backward, added to
};

template <class T> struct DenseKernel {
    index (*panel_size)(Sizes);
    index (*panel_size_backward)(Sizes);
    void (*pack)(Sizes, const Weights<const T> &, T *panels); // weight_ih and bias_ih alone
    void (*pack_backward)(Sizes, const Weights<const T> &, T *panels);
    void (*unpack)(Sizes, const T *panels, const Weights<T> &);
    void (*forward)(const DenseCall<T> &);
    void (*backward)(const DenseCall<T> &);
};

// The pointwise functions, for their tests: y[i] = f(x[i]).
template <class T> struct Pointwise {
    void (*sigmoid)(const T *x, T *y, index n);
    void (*tanh)(const T *x, T *y, index n);
};

// One row of the kernel table: an instruction set and a dtype.
template <class T> struct Table {
    const char *isa;
    int lanes;
    CellKernel<T> cells[kinds];
    DenseKernel<T> dense;
    Pointwise<T> pointwise;
    double (*fma_peak)();                               // GFLOP/s of one thread doing nothing but fma in registers
    double (*read_bandwidth)(index bytes, int threads); // GB/s of reading a buffer over and over, each thread its share
};

// csrc/isa/dispatch.cpp
template <class T> const Table<T> *table(const char *isa); // null: unknown, or this CPU can't run it

} // namespace rnnfast
