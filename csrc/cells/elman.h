// Elman (1990): h = act(W x + b_ih + U h_prev + b_hh).
#pragma once

#include "cells/cell.h"

namespace rnnfast::RNNFAST_ISA {

struct Tanh {
    template <class T> RNNFAST_INLINE static vec<T> apply(vec<T> z) { return tanh<T>(z); }
    template <class T> RNNFAST_INLINE static vec<T> derivative(vec<T> y) { return d_tanh<T>(y); }
};
struct Relu {
    template <class T> RNNFAST_INLINE static vec<T> apply(vec<T> z) { return relu<T>(z); }
    template <class T> RNNFAST_INLINE static vec<T> derivative(vec<T> y) { return y > vec<T>{} ? one<T>() : vec<T>{}; }
};
struct Sigmoid {
    template <class T> RNNFAST_INLINE static vec<T> apply(vec<T> z) { return sigmoid<T>(z); }
    template <class T> RNNFAST_INLINE static vec<T> derivative(vec<T> y) { return d_sigmoid<T>(y); }
};

template <class Activation> struct Elman {
    static constexpr int gates = 1, slots = 1, x_slot = 0, phases = 1;
    static constexpr int h_slot[] = {0}, phase_gate[] = {0, 1};
    static constexpr bool has_c = false, keeps_aux = false, has_direct = false;

    template <int phase, class T> RNNFAST_INLINE static vec<T> start(int, const T *z, const T *) { return load(z); }

    template <int phase, class T> RNNFAST_INLINE static vec<T> forward(const vec<T> (&sum)[1], const Unit<T> &) {
        return Activation::template apply<T>(sum[0]);
    }

    template <class T> RNNFAST_INLINE static void backward(vec<T> dh, vec<T> &, const Unit<T> &u) {
        u.set_slot(0, dh * Activation::template derivative<T>(load(u.h)));
    }
};

} // namespace rnnfast::RNNFAST_ISA
