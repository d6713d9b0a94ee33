// The time loop, forward. A step is one product: each gate's sum starts at its bias, runs over x's features and then
// over h_prev's units, and waits in L1 until its block of units is activated for all rows.
//
// With few rows the input side is hoisted out: computed for a chunk of steps as one product, it waits in a buffer that
// is meant to stay in L2, because W would otherwise be read once a step for next to nothing. The sums are the same
// chains either way. One-hot input is hoisted always: a column of W is gathered, there is no product. Steps take their
// panels in turn from the first to the last and from the last to the first: what the caches still hold is read first.
//
// Rejected: hoisting all input (with more rows the gates' way through memory costs more than W's way through L2), the
// input side of the whole sequence at once (the gates would pass through memory twice), shorter chunks (no difference).
#pragma once

#include "cells/cell.h"
#include "linalg/step.h"
#include "recurrence/layout.h"
#include "recurrence/masks.h"
#include "recurrence/passes.h"

namespace rnnfast::RNNFAST_ISA {

// W is what the panels hold: T or Pair (bfloat16).
template <class Cell, class T, class W = T> class ForwardPass {
    using L = Layout<Cell, T>;
    static constexpr int V = L::V, C = L::C, G = L::G, S = L::S;
    static constexpr index chunk_bytes = 256 * 1024;
    static constexpr index few_rows = 6; // below, the input side is hoisted

    struct InputRow { // one row of the chunk's input side
        const T *x;
        index id;
        T *sums; // [P][G][V]
    };
    struct Scratch {
        StepRow<T> *step;
        InputRow *input;
    };

    const Forward<T> &call;
    const L at;
    const bool hoisted;
    const index chunk; // steps whose input side is computed at once
    const Masks<T> masks;
    index *const order; // of the shares
    States<Cell, T> states;
    Records<Cell, T> records;
    History<T> waiting;    // [P][G][V] a row, hoisted: the input side of a chunk of steps
    T *biases;             // [P][G][V], those on both sides together where they simply add
    StepRow<T> *step_rows; // [threads][B]
    InputRow *input_rows;  // [threads][chunk * B], hoisted

  public:
    Seam seam;

    ForwardPass(const Forward<T> &call_, Carver &carver)
        : call(call_), at(call_.sizes), hoisted(hoist()), chunk(hoisted ? chunk_steps() : 1), masks(call_),
          order(Share<T>::carve(call_, carver)), states(call_, at, carver), biases(carver.take<T>(at.P * G * V)),
          step_rows(carver.take<StepRow<T>>(call_.threads * call_.batch)),
          input_rows(hoisted ? carver.take<InputRow>(call_.threads * chunk * call_.batch) : nullptr) {
        const index B = call.batch;
        if (hoisted) {
            index depth = 1; // a ring over steps
            while (depth < chunk) depth *= 2;
            waiting = {carver.take<T>(depth * B * at.P * G * V), B, at.P * G * V, depth};
        }
        if (call.tape) {
            records = Records<Cell, T>::on_tape(at, call.steps, B, call.tape);
            return;
        }
        records.slots = {carver.take<T>(B * at.slots), B, at.slots, 1};
        records.h = {carver.take<T>(2 * B * at.padded), B, at.padded, 2};
        if (Cell::keeps_aux) records.aux = {carver.take<T>(2 * B * at.padded), B, at.padded, 2};
    }

    void prepare() {
        states.fill(call, at);
        for (index p = 0; p < at.P; ++p) {
            for (int g = 0; g < G; ++g) {
                const index i = (p * G + g) * V;
                const vec<T> b = load(call.panels + at.bias_ih + i);
                store(biases + i, separate_bias<Cell>(g) ? b : b + load(call.panels + at.bias_hh + i));
            }
        }
    }

    void run(Team &team) {
        const Share<T> share(team, call, at.P, L::unit, order);
        const Scratch scratch{step_rows + team.rank * call.batch,
                              hoisted ? input_rows + team.rank * chunk * call.batch : nullptr};
        for (index s = seam.begin(); s < call.steps; ++s) {
            if (seam.leave(team, s)) return;
            if (hoisted && s % chunk == 0) project(team, share, scratch, s);
            if (!step(team, share, scratch, time(s))) return;
        }
        if (share.wait(team)) finish_rows(team, share);
    }

  private:
    index time(index s) const { return call.reverse ? call.steps - 1 - s : s; }

    bool hoist() const {
        if (!call.x.data) return true; // one-hot: no product at all
        return std::is_same_v<T, W> && call.steps > 1 && call.batch < few_rows * call.threads;
    }

    index chunk_steps() const {
        const index steps = chunk_bytes / (index(sizeof(T)) * at.padded * G * (call.batch ? call.batch : 1));
        if (steps >= call.steps) return call.steps ? call.steps : 1;
        return steps > 1 ? steps : 1;
    }

    const W *weights() const {
        if constexpr (std::is_same_v<T, W>) {
            return call.panels;
        } else {
            return reinterpret_cast<const Pair *>(call.pairs);
        }
    }

    void project(Team &team, const Share<T> &share, const Scratch &scratch, index begin) const {
        const index end = begin + chunk < call.steps ? begin + chunk : call.steps;
        index count = 0;
        for (index s = begin; s < end; ++s) {
            const index t = time(s), rows = share.active(t);
            for (index i = 0; i < rows; ++i) {
                const index b = share.row(i);
                scratch.input[count++] = {call.x.data ? call.x.at(t, b) : nullptr,
                                          call.x.data ? 0 : index(*call.ids.at(t, b)), waiting.row(t, b)};
            }
        }
        project_phase<0>(team, share, scratch.input, count);
        if constexpr (Cell::phases == 2) project_phase<1>(team, share, scratch.input, count);
    }

    template <int phase> void project_phase(Team &team, const Share<T> &share, const InputRow *row, index count) const {
        constexpr int N = phase_gates<Cell>(phase), first = Cell::phase_gate[phase];
        const auto start = [&](index, index p, int n) RNNFAST_LAMBDA { return load(biases + (p * G + first + n) * V); };
        const auto finish = [&](index i, index p, const vec<T> *z) RNNFAST_LAMBDA {
            unroll<N>([&](auto n) RNNFAST_LAMBDA { store(row[i].sums + (p * G + first + n) * V, z[n]); });
        };
        const W *const panels = weights() + at.template w<W>(phase);
        if (!call.x.data) {
            each_group<N>(team, count, share.panels, false, [&](const Group &group) RNNFAST_LAMBDA {
                const index pitch = depth<W>(at.I) * group.width * V;
                const W *const some = panels + group.block * depth<W>(at.I) * N * V;
                for (index i = 0; i < count; ++i) {
                    vec<T> z[most_vectors];
                    for (index j = 0, v = 0; j < group.panels; ++j) {
                        for (int n = 0; n < group.width; ++n, ++v) {
                            z[v] = weight<T>(some + j * pitch, row[i].id, group.width, n);
                        }
                    }
                    each_output<N, T>({i, i + 1}, group, z, [&](index, index p, vec<T> *sum) RNNFAST_LAMBDA {
                        unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = start(i, p, n) + sum[n]; });
                        finish(i, p, sum);
                    });
                }
            });
        } else if constexpr (std::is_same_v<T, W>) {
            product<N, T>(team, {0, count}, share.panels,
                          term<N, T>([&](index i) RNNFAST_LAMBDA { return row[i].x; }, contiguous(at.I), panels), start,
                          finish);
        }
    }

    bool step(Team &team, const Share<T> &share, const Scratch &scratch, index t) const {
        const index rows = share.active(t);
        for (index i = 0; i < rows; ++i) {
            const index b = share.row(i);
            const StateRows<T> before = state_before<Cell, T>(masks, records, states, t, b);
            StepRow<T> &row = scratch.step[i];
            row.h_prev = row.left = before.h;
            row.c_prev = before.c;
            row.x = call.x.data ? call.x.at(t, b) : nullptr;
            if constexpr (Cell::keeps_aux) row.aux = records.aux.row(t, b);
            row.h = records.h.row(t, b);
            row.slots = records.slots.row(t, b);
            row.start = hoisted ? waiting.row(t, b) : biases;
            row.y = call.y[0].data ? call.y[0].at(t, b) : row.h; // not wanted: what is written there is h
        }
        if (!share.wait(team)) return false; // the units of the step before, of all threads
        const bool falling = (t + call.calls) % 2;
        phase<0>(team, share, scratch.step, rows, falling);
        if constexpr (Cell::phases == 2) {
            if (!share.wait(team)) return false;
            for (index i = 0; i < rows; ++i) scratch.step[i].left = scratch.step[i].aux;
            phase<1>(team, share, scratch.step, rows, !falling);
        }
        return true;
    }

    template <int phase_>
    void phase(Team &team, const Share<T> &share, const StepRow<T> *row, index rows, bool falling) const {
        constexpr int N = phase_gates<Cell>(phase_), first = Cell::phase_gate[phase_], end = first + N;
        constexpr bool last = phase_ + 1 == Cell::phases, apart = separate_bias<Cell>(end - 1);
        const bool keep = call.tape != nullptr;
        const Kind kind = call.kind;
        Step<T, W> step;
        step.rows = row;
        step.features = hoisted ? 0 : at.I;
        step.units = at.H;
        step.w = weights() + at.template w<W>(phase_);
        step.u = weights() + at.template u<W>(phase_);
        step.again = call.panels + at.bias_hh + (end - 1) * V;
        step.first = first * V;
        step.kept = (Cell::x_slot + end - 1) * C;
        step.slots = S;
        step.pitch = {G * V, G * V};
        step_product<N, apart>(
            team, rows, share.panels, falling, step,
            [&](vec<T> *sum) RNNFAST_LAMBDA { Cell::template activate<phase_, T>(sum); },
            [=, this](index i, index p, const vec<T> *gate) RNNFAST_LAMBDA {
                const StepRow<T> &r = row[i];
                Unit<T> unit{};
                unit.slots = r.slots + slot_offset<T>(p, S);
                unit.h_prev = r.h_prev + p * V;
                if constexpr (Cell::states > 1) unit.c_prev = r.c_prev + p * V;
                if constexpr (Cell::keeps_aux) unit.aux = r.aux + p * V;
                unit.keep = keep;
                unit.kind = kind;
                if constexpr (last) {
                    if (rows > 1) prefetch_next(r.slots + p * S * V, unit, r.h + p * V, r.y + p * V);
                }
                const vec<T> h = Cell::template forward<phase_, T>(gate, unit);
                if constexpr (last) {
                    store(r.h + p * V, h);
                    store(r.y + p * V, h, at.H - p * V);
                }
            });
    }

    // Prefetches the lines that the next step writes at the same place, which come from L3 or memory. A single row
    // would not gain.
    RNNFAST_INLINE void prefetch_next(const T *slots, const Unit<T> &u, const T *h, const T *y) const {
        const index rows = call.reverse ? -call.batch : call.batch;
        if (u.keep) {
            prefetch(slots, rows * at.slots, S); // each block its share of a canonical block's slots
            prefetch(h, rows * at.padded, 1);
            if constexpr (Cell::keeps_aux) prefetch(u.aux, rows * at.padded, 1);
        }
        prefetch(y, call.reverse ? -call.y[0].t : call.y[0].t, 1);
    }

    // Final states, and zeros where a row had ended.
    void finish_rows(const Team &team, const Share<T> &share) const {
        if (share.by_units && team.rank != 0) return;
        const std::size_t bytes = std::size_t(at.H) * sizeof(T);
        for (index b = share.rows.begin; b < share.rows.end; ++b) {
            const index length = masks.length(b);
            const index last = call.reverse ? 0 : length - 1;
            RNNFAST_UNROLL for (int s = 0; s < Cell::states; ++s) {
                const History<T> &steps = s ? records.aux : records.h;
                const T *const row = length ? steps.row(last, b) : states.initial[s].row(b);
                __builtin_memcpy(call.final_state[s] + b * at.H, row, bytes);
            }
            for (index t = length; call.y[0].data && t < call.steps; ++t) {
                T *const y = call.y[0].at(t, b);
                for (index j = 0; j < at.H; ++j) y[j] = 0;
            }
        }
    }
};

template <class Cell, class T, class W> std::size_t forward_bytes(const Forward<T> &call) {
    return bytes_of<ForwardPass<Cell, T, W>>(call);
}
template <class Cell, class T, class W> void run_forward(const Forward<T> &call) {
    run_pass<ForwardPass<Cell, T, W>>(call, call.memory);
}

} // namespace rnnfast::RNNFAST_ISA
