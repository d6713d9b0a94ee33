// The activations of heads, in place on rows [N, O], and their derivatives. They are applied once per sequence and not
// once per step, so they are not part of the product: each is a pass over what the product has written.
#pragma once

#include "kernels.h"

namespace rnnfast {

enum class Activation : int { identity, sigmoid, tanh, softmax, relu, gelu, silu, softplus, elu, activations };

constexpr const char *activation_names[] = {"identity", "sigmoid", "tanh",     "softmax", "relu",
                                            "gelu",     "silu",    "softplus", "elu"};

// Of gelu and silu, backward needs what went in; of the others, what came out.
constexpr bool needs_input(Activation a) { return a == Activation::gelu || a == Activation::silu; }

template <class T> using Pointwise = void (*)(Op, const T *x, T *y, index n); // of the kernel table

// z becomes y.
template <class T> void activate(Activation, Pointwise<T>, T *z, index rows, index columns);

// dy becomes dz; `kept` is y, or z where the input is needed.
template <class T> void differentiate(Activation, Pointwise<T>, const T *kept, T *dy, index rows, index columns);

// A head as the module of streams sees it.
struct HeadHandle {
    bool wide; // double
    index input, output;
    const void *head; // valid while the head lives
    // y [N, O] of x [N, I], with the activation, on the caller's thread and without memory.
    void (*forward)(const void *head, const void *panels, const void *x, index rows, void *y) noexcept;
};

} // namespace rnnfast
