// Where everything lies: a cell's panels, and what a step leaves behind for backward.
#pragma once

#include "linalg/panels.h"
#include "parallel/team.h"
#include "recurrence/masks.h"

namespace rnnfast::RNNFAST_ISA {

template <class Cell> constexpr int phase_gates(int phase) {
    return Cell::phase_gate[phase + 1] - Cell::phase_gate[phase];
}

// f(std::integral_constant) for each phase.
template <class Cell, class F> RNNFAST_INLINE void each_phase(F f) { unroll<Cell::phases>(f); }

// The cell's own gate g has a recurrent bias that does not simply add to the input-side one: at most the last gate of a
// phase.
template <class Cell> constexpr bool separate_bias(int gate) { return Cell::h_slot[gate] != Cell::x_slot + gate; }

// Slots of one phase's recurrent-side gradients: contiguous, `first` the lowest; gate[i] is the one in slot first + i.
template <class Cell, int phase> struct BackSlots {
    static constexpr int count = phase_gates<Cell>(phase);
    int first = Cell::slots, gate[count];

    constexpr BackSlots() : gate{} {
        for (int g = Cell::phase_gate[phase]; g < Cell::phase_gate[phase + 1]; ++g) {
            first = Cell::h_slot[g] < first ? Cell::h_slot[g] : first;
        }
        for (int g = Cell::phase_gate[phase]; g < Cell::phase_gate[phase + 1]; ++g) gate[Cell::h_slot[g] - first] = g;
    }
};

// What the passes and the products take for granted of a cell.
template <class Cell> constexpr bool is_sound() {
    bool sound = Cell::phase_gate[0] == 0 && Cell::phase_gate[Cell::phases] == Cell::gates;
    for (int p = 0; p < Cell::phases; ++p) {
        const int first = Cell::phase_gate[p], last = Cell::phase_gate[p + 1] - 1;
        for (int g = first; g < last; ++g) sound = sound && !separate_bias<Cell>(g);
        sound = sound && (!separate_bias<Cell>(last) || last - first < widest); // else it is not the last of each panel
    }
    return sound;
}

template <class Cell, class T> struct Layout {
    static_assert(Cell::phases == 1 || Cell::phases == 2, "the passes have a first and a second phase");
    static_assert(Cell::states == 1 || Cell::states == 2, "the passes know h and c");
    static_assert(Cell::states == 1 || (Cell::keeps_aux && Cell::phases == 1), "aux is c, where there is a c");
    static_assert(Cell::states == 2 || Cell::keeps_aux == (Cell::phases == 2),
                  "else it is what the second phase reads");
    static_assert(is_sound<Cell>(), "phases split the gates; only a phase's last gate, of three at most, may be apart");
    static constexpr int V = lanes<T>, C = canonical<T>, G = Cell::gates, S = Cell::slots;
    const index I, H, P, padded;              // P unit blocks, padded = P * V
    const index bias_ih, bias_hh, size;       // panels: W by phases, U by phases, the biases [P][G][V]
    const index back_u[2], back_w, back_size; // backward panels
    const index slots;                        // elements of one row's slots: [canonical block][S][C]

    explicit Layout(const Sizes &s)
        : I(s.input), H(s.hidden), P(blocks<T>(H)), padded(P * V), bias_ih(padded * G * (I + H)),
          bias_hh(bias_ih + padded * G), size(bias_hh + padded * G), back_u{0, padded * H * phase_gates<Cell>(0)},
          back_w(padded * H * G), back_size(back_w + blocks<T>(I) * V * H * G), slots(canonical_blocks<T>(H) * S * C) {}

    // Where slot i of unit block p lies in a row's slots.
    index slot(index p, int i) const { return slot_offset<T>(p, S) + i * C; }

    // Where a phase's W and U begin in panels of T or of pairs.
    template <class W = T> index w(int phase) const { return padded * Cell::phase_gate[phase] * depth<W>(I); }
    template <class W = T> index u(int phase) const {
        return padded * (G * depth<W>(I) + Cell::phase_gate[phase] * depth<W>(H));
    }

    index unit_parts() const { return (P + unit - 1) / unit; }
    index pairs() const { return padded * G * (depth<Pair>(I) + depth<Pair>(H)); }

    // Whole bundles of blocks in every phase: the smallest part of a partition of the units.
    static constexpr index unit = bundle<phase_gates<Cell>(0)>;
    static_assert(Cell::phases == 1 || unit % bundle<phase_gates<Cell>(Cell::phases - 1)> == 0);

    // The panels' weights in bfloat16; biases stay as they are.
    void to_pairs(const float *panels, Pair *to) const {
        each_phase<Cell>([&](auto phase) {
            narrow_phase<phase>(panels + w(phase), to + w<Pair>(phase), I);
            narrow_phase<phase>(panels + u(phase), to + u<Pair>(phase), H);
        });
    }

    template <bool unpack, class Panel, class M> void move(Panel *panels, const Weights<M> &matrices) const {
        each_phase<Cell>([&](auto phase) {
            constexpr int first = Cell::phase_gate[phase], count = phase_gates<Cell>(phase);
            transfer<count, unpack>(panels + w(phase), matrices.data[0], H, I, first);
            transfer<count, unpack>(panels + u(phase), matrices.data[1], H, H, first);
        });
        transfer<G, unpack>(panels + bias_ih, matrices.data[2], H, 1, 0);
        transfer<G, unpack>(panels + bias_hh, matrices.data[3], H, 1, 0);
    }

    void pack_backward(T *panels, const Weights<const T> &matrices, bool dx) const {
        each_phase<Cell>([&](auto phase) {
            constexpr BackSlots<Cell, phase> back;
            pack_transposed(panels + back_u[phase], matrices.data[1], H, H, back.gate, S, back.count);
        });
        int gate[G];
        for (int g = 0; g < G; ++g) gate[g] = g;
        if (dx) pack_transposed(panels + back_w, matrices.data[0], H, I, gate, S, G);
    }

  private:
    template <int phase> void narrow_phase(const float *panels, Pair *to, index k) const {
        constexpr int N = phase_gates<Cell>(phase);
        const auto some = [&](index first, index count, index of) {
            const index at = first * N * V, width = panel_width<N>(of);
            narrow(panels + at * k, to + at * depth<Pair>(k), count * N / width, k, width * V);
        };
        const index whole = P / bundle<N> * bundle<N>;
        some(0, whole, bundle<N>);
        if (whole < P) some(whole, P - whole, P - whole);
    }
};

// Rows [B][width] of the last `depth` steps, or of all of them (a tape).
template <class T> struct History {
    T *data = nullptr;
    index batch = 0, width = 0, depth = 1; // depth a power of two, or 0: all steps

    T *row(index t, index b) const { return data + ((depth ? t & (depth - 1) : t) * batch + b) * width; }
};

// Prefetches so many vectors at `distance` from here into L2. They may lie beyond an end: nothing is read.
template <class T> RNNFAST_INLINE void prefetch(const T *here, index distance, int vectors) {
    const auto there = reinterpret_cast<std::uintptr_t>(here) + std::uintptr_t(distance * index(sizeof(T)));
    for (int i = 0; i < vectors * RNNFAST_VECTOR_BYTES; i += 64) {
        __builtin_prefetch(reinterpret_cast<const char *>(there + std::uintptr_t(i)), 0, 2);
    }
}

// What a sequence leaves behind: slots, h, and aux where the cell keeps it.
template <class Cell, class T> struct Records {
    History<T> slots, h, aux;

    static index size(const Layout<Cell, T> &at, index steps, index batch) {
        return steps * batch * (at.slots + at.padded * (1 + Cell::keeps_aux));
    }

    static Records on_tape(const Layout<Cell, T> &at, index steps, index batch, T *tape) {
        T *const h = tape + steps * batch * at.slots;
        return {
            {tape, batch, at.slots, 0}, {h, batch, at.padded, 0}, {h + steps * batch * at.padded, batch, at.padded, 0}};
    }
};

// [B][padded] copy of a state [B, H]; null stays null.
template <class T> struct State {
    T *data = nullptr;
    const T *zero = nullptr;
    index width = 0;

    static State carve(Carver &carver, const T *given, const T *zero, index batch, index width) {
        return {given ? carver.take<T>(batch * width) : nullptr, zero, width};
    }
    void fill(const T *given, index batch, index units) const {
        if (!given) return;
        for (index b = 0; b < batch; ++b) {
            __builtin_memcpy(data + b * width, given + b * units, std::size_t(units) * sizeof(T));
            for (index i = units; i < width; ++i) data[b * width + i] = 0;
        }
    }
    const T *row(index b) const { return data ? data + b * width : zero; }
};

// The states a call may be given, and the row of zeros that stands for each that is missing.
template <class Cell, class T> struct States {
    T *zero;
    State<T> initial[Cell::states], reset[Cell::states];

    States(const Sequence<T> &call, const Layout<Cell, T> &at, Carver &carver) : zero(carver.take<T>(at.padded)) {
        RNNFAST_UNROLL for (int s = 0; s < Cell::states; ++s) {
            initial[s] = State<T>::carve(carver, call.state[s], zero, call.batch, at.padded);
            reset[s] = State<T>::carve(carver, call.reset_state[s], zero, call.batch, at.padded);
        }
    }

    void fill(const Sequence<T> &call, const Layout<Cell, T> &at) const {
        for (index i = 0; i < at.padded; ++i) zero[i] = 0;
        RNNFAST_UNROLL for (int s = 0; s < Cell::states; ++s) {
            initial[s].fill(call.state[s], call.batch, at.H);
            reset[s].fill(call.reset_state[s], call.batch, at.H);
        }
    }
};

// The state before step t of row b: the rows of the step before, of the initial state, or of what a reset puts in.
template <class T> struct StateRows {
    const T *h, *c; // c null where the cell has none
};

template <class Cell, class T>
StateRows<T> state_before(const Masks<T> &masks, const Records<Cell, T> &records, const States<Cell, T> &states,
                          index t, index b) {
    const auto rows = [b](const State<T> *state) -> StateRows<T> {
        return {state[0].row(b), Cell::states > 1 ? state[Cell::states - 1].row(b) : nullptr};
    };
    switch (masks.origin(t, b)) {
    case From::initial: return rows(states.initial);
    case From::reset: return rows(states.reset);
    default:
        const index before = masks.previous(t);
        return {records.h.row(before, b), Cell::states > 1 ? records.aux.row(before, b) : nullptr};
    }
}

} // namespace rnnfast::RNNFAST_ISA
