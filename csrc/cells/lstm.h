// LSTM, Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000):
// i, f, o = s(..), g = tanh(..), c = f * c_prev + i * g, h = o * tanh(c). tanh(c) is computed again in backward, not
// kept.
#pragma once

#include "cells/cell.h"

namespace rnnfast::RNNFAST_ISA {

struct Lstm {
    static constexpr int gates = 4, states = 2, slots = 4, x_slot = 0, phases = 1;
    static constexpr int h_slot[] = {0, 1, 2, 3}, phase_gate[] = {0, 4};
    static constexpr bool keeps_aux = true, has_direct = false;

    template <int phase, class T> RNNFAST_INLINE static void activate(vec<T> *gate) {
        gate[0] = sigmoid<T>(gate[0]);
        gate[1] = sigmoid<T>(gate[1]);
        gate[2] = tanh<T>(gate[2]);
        gate[3] = sigmoid<T>(gate[3]);
    }

    template <int phase, class T> RNNFAST_INLINE static vec<T> forward(const vec<T> *gate, const Unit<T> &u) {
        const vec<T> i = gate[0], f = gate[1], g = gate[2], o = gate[3];
        const vec<T> c = fma(f, load(u.c_prev), i * g);
        store(u.aux, c);
        if (u.keep) {
            u.set_slot(0, i);
            u.set_slot(1, f);
            u.set_slot(2, g);
            u.set_slot(3, o);
        }
        return o * tanh<T>(c);
    }

    template <class T> RNNFAST_INLINE static void backward(vec<T> dh, vec<T> &dc, const Unit<T> &u) {
        const vec<T> i = u.slot(0), f = u.slot(1), g = u.slot(2), o = u.slot(3);
        const vec<T> tanh_c = tanh<T>(load(u.aux));
        dc = fma(dh * o, d_tanh<T>(tanh_c), dc);
        u.set_slot(0, dc * g * d_sigmoid<T>(i));
        u.set_slot(1, dc * load(u.c_prev) * d_sigmoid<T>(f));
        u.set_slot(2, dc * i * d_tanh<T>(g));
        u.set_slot(3, dh * tanh_c * d_sigmoid<T>(o));
        dc = dc * f;
    }
};

} // namespace rnnfast::RNNFAST_ISA
