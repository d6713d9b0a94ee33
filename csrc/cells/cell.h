// What a cell is to the rest of the house. The cell headers beside this one hold the gate arithmetic and nothing else.
//
// A unit block is `lanes` neighbouring hidden units of one row. Per block a cell keeps `slots` vectors on the tape:
// forward leaves the activated gates there, backward puts the gates' gradients in their place. A cell says:
//
//   gates, slots      G, and how many slots a block has
//   states            1 (h), or 2 (h and c)
//   x_slot            where slot-wise the G input-side gates begin, in gate order
//   h_slot[g]         the slot with the recurrent-side gradient of gate g (differs from x_slot + g for gru_after's n)
//   phases            1, or 2 where some gates need all units of others first (gru_before: U_n (r * h_prev))
//   phase_gate[p]     phase p accumulates the gates phase_gate[p] .. phase_gate[p+1]-1
//   keeps_aux         a second row is kept per step (LSTM: c; gru_before: r * h_prev)
//   has_direct        dh_prev has a part that does not pass through U
//
//   activate<p>(gate)            activates those of phase p's gates that others wait for (apart: a pass over many rows,
//                                in which no row waits for its own tanh(c))
//   forward<p>(gate, unit)       finishes phase p; the last phase returns h
//   backward(dh, dc, unit)       phase 0: the gates' gradients from dh (and dc, which becomes dc_prev)
//   backward_second(d, unit)     phase 1, if there is one: d is what came back through phase 1's weights
//
// Rejected: virtual functions (no fusion), one loop per cell (six loops to keep equal).
#pragma once

#include "kernels.h"
#include "simd/math.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> struct Unit {
    T *slots;        // Cell::slots vectors
    const T *h_prev; // one vector each from here on
    const T *c_prev; // LSTM
    T *aux;          // LSTM: c; gru_before: r * h_prev
    T *h;
    T *direct; // backward, has_direct: the part of dh_prev that does not pass through U
    bool keep; // forward: training, so leave the activated gates in the slots
    Kind kind; // which activation, where kinds share a cell

    vec<T> slot(int i) const { return load(slots + i * lanes<T>); }
    void set_slot(int i, vec<T> v) const { store(slots + i * lanes<T>, v); }
};

template <class T> RNNFAST_INLINE vec<T> one() { return broadcast(T(1)); }
template <class T> RNNFAST_INLINE vec<T> d_sigmoid(vec<T> y) { return y * (one<T>() - y); }
template <class T> RNNFAST_INLINE vec<T> d_tanh(vec<T> y) { return fma(-y, y, one<T>()); }

} // namespace rnnfast::RNNFAST_ISA
