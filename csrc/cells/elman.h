// Elman (1990): h = act(W x + b_ih + U h_prev + b_hh). The three activations share one copy of the time loops: which
// one it is, is a (well predicted) branch per tile. Rejected: a template argument, which tripled a third of the machine
// code for nothing measurable.
#pragma once

#include "cells/cell.h"

namespace rnnfast::RNNFAST_ISA {

struct Elman {
    static constexpr int gates = 1, states = 1, slots = 1, x_slot = 0, phases = 1;
    static constexpr int h_slot[] = {0}, phase_gate[] = {0, 1};
    static constexpr bool keeps_aux = false, has_direct = false;

    template <int phase, class T> RNNFAST_INLINE static void activate(vec<T> *) {}

    template <int phase, class T> RNNFAST_INLINE static vec<T> forward(const vec<T> *sum, const Unit<T> &u) {
        if (u.kind == elman_tanh) return tanh<T>(sum[0]);
        return u.kind == elman_relu ? relu<T>(sum[0]) : sigmoid<T>(sum[0]);
    }

    template <class T> RNNFAST_INLINE static void backward(vec<T> dh, vec<T> &, const Unit<T> &u) {
        const vec<T> h = load(u.h);
        if (u.kind == elman_tanh) {
            u.set_slot(0, dh * d_tanh<T>(h));
        } else if (u.kind == elman_relu) {
            u.set_slot(0, h > vec<T>{} ? dh : vec<T>{});
        } else {
            u.set_slot(0, dh * d_sigmoid<T>(h));
        }
    }
};

} // namespace rnnfast::RNNFAST_ISA
