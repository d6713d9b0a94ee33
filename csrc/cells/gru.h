// GRU, Cho et al. (2014): r, z = s(..), h = (1 - z) * n + z * h_prev, in two forms:
//   after  (PyTorch, cuDNN; ONNX linear_before_reset=1):  n = tanh(W_n x + b_in + r * (U_n h_prev + b_hn))
//   before (the paper; ONNX's default):                   n = tanh(W_n x + b_in + U_n (r * h_prev) + b_hn)
#pragma once

#include "cells/cell.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> RNNFAST_INLINE vec<T> gru_mix(vec<T> z, vec<T> n, vec<T> h_prev) { return fma(z, h_prev - n, n); }

// n's chain over h_prev is kept apart from its input side, because r multiplies it alone: slot 0. The slots' order
// makes both the recurrent side (n r z) and the input side (r z n) of the gradients contiguous.
struct GruAfter {
    static constexpr int gates = 3, states = 1, slots = 4, x_slot = 1, phases = 1;
    static constexpr int h_slot[] = {1, 2, 0}, phase_gate[] = {0, 3};
    static constexpr bool keeps_aux = false, has_direct = true;

    template <int phase, class T> RNNFAST_INLINE static void activate(vec<T> *gate) {
        gate[0] = sigmoid<T>(gate[0]);
        gate[1] = sigmoid<T>(gate[1]);
    }

    template <int phase, class T> RNNFAST_INLINE static vec<T> forward(const vec<T> *gate, const Unit<T> &u) {
        const vec<T> r = gate[0], z = gate[1];
        const vec<T> n = tanh<T>(fma(r, gate[2], u.slot(3)));
        if (u.keep) {
            u.set_slot(0, gate[2]);
            u.set_slot(1, r);
            u.set_slot(2, z);
            u.set_slot(3, n);
        }
        return gru_mix<T>(z, n, load(u.h_prev));
    }

    template <class T> RNNFAST_INLINE static void backward(vec<T> dh, vec<T> &, const Unit<T> &u) {
        const vec<T> hn = u.slot(0), r = u.slot(1), z = u.slot(2), n = u.slot(3);
        const vec<T> dn = dh * (one<T>() - z) * d_tanh<T>(n);
        u.set_slot(0, dn * r);
        u.set_slot(1, dn * hn * d_sigmoid<T>(r));
        u.set_slot(2, dh * (load(u.h_prev) - n) * d_sigmoid<T>(z));
        u.set_slot(3, dn);
        store(u.direct, dh * z);
    }
};

struct GruBefore {
    static constexpr int gates = 3, states = 1, slots = 3, x_slot = 0, phases = 2;
    static constexpr int h_slot[] = {0, 1, 2}, phase_gate[] = {0, 2, 3};
    static constexpr bool keeps_aux = true, has_direct = true;

    template <int phase, class T> RNNFAST_INLINE static void activate(vec<T> *gate) {
        if constexpr (phase == 0) {
            gate[0] = sigmoid<T>(gate[0]);
            gate[1] = sigmoid<T>(gate[1]);
        }
    }

    template <int phase, class T> RNNFAST_INLINE static vec<T> forward(const vec<T> *gate, const Unit<T> &u) {
        if constexpr (phase == 0) {
            u.set_slot(0, gate[0]);
            u.set_slot(1, gate[1]);
            store(u.aux, gate[0] * load(u.h_prev));
            return gate[0];
        } else {
            const vec<T> n = tanh<T>(gate[0]);
            if (u.keep) u.set_slot(2, n);
            return gru_mix<T>(u.slot(1), n, load(u.h_prev));
        }
    }

    template <class T> RNNFAST_INLINE static void backward(vec<T> dh, vec<T> &, const Unit<T> &u) {
        const vec<T> z = u.slot(1), n = u.slot(2);
        u.set_slot(1, dh * (load(u.h_prev) - n) * d_sigmoid<T>(z));
        u.set_slot(2, dh * (one<T>() - z) * d_tanh<T>(n));
        store(u.direct, dh * z);
    }

    template <class T> RNNFAST_INLINE static void backward_second(vec<T> d_rh, const Unit<T> &u) {
        const vec<T> r = u.slot(0);
        u.set_slot(0, d_rh * load(u.h_prev) * d_sigmoid<T>(r));
        store(u.direct, fma(d_rh, r, load(u.direct)));
    }
};

} // namespace rnnfast::RNNFAST_ISA
