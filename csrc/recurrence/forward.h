// The time loop, forward. Per chunk of steps: the input side of all gates as one product, then step by step the
// recurrent side, whose last accumulation, activation and state update happen in registers.
//
// The input side waits in the tape's slots (training) or in a buffer that is meant to stay in L2 (inference), so a
// chunk is short. Rejected: x_t and h_prev in one product per step (reads W once a step); the input side of the whole
// sequence at once (the gates would pass through memory twice).
#pragma once

#include "linalg/products.h"
#include "recurrence/layout.h"
#include "recurrence/masks.h"

namespace rnnfast::RNNFAST_ISA {

template <class Cell, class T> class ForwardPass {
    using L = Layout<Cell, T>;
    static constexpr int V = L::V, G = L::G, S = L::S;
    static constexpr index chunk_bytes = 256 * 1024;

    struct StepRow { // one row at one step
        const T *h_prev, *c_prev;
        T *h, *aux, *slots, *y;
    };
    struct InputRow { // one row of the chunk's input product
        const T *x;
        const std::int64_t *id;
        T *slots;
    };
    struct Scratch {
        StepRow *step;
        InputRow *input;
    };

    const Forward<T> &call;
    const L at;
    const index chunk; // steps
    Masks<T> masks;
    States<Cell, T> states;
    Records<Cell, T> records;
    StepRow *step_rows;   // [threads][B]
    InputRow *input_rows; // [threads][chunk * B]

  public:
    ForwardPass(const Forward<T> &call_, Carver &carver)
        : call(call_), at(call_.sizes), chunk(chunk_steps()), masks(call_, carver), states(call_, at, carver),
          step_rows(carver.take<StepRow>(call_.threads * call_.batch)),
          input_rows(carver.take<InputRow>(call_.threads * chunk * call_.batch)) {
        const index B = call.batch;
        if (call.tape) {
            records = Records<Cell, T>::on_tape(at, call.steps, B, call.tape);
            return;
        }
        index depth = 1; // the slots of a chunk are a ring over steps
        while (depth < chunk) depth *= 2;
        records.slots = {carver.take<T>(depth * B * at.slots), B, at.slots, depth};
        records.h = {carver.take<T>(2 * B * at.padded), B, at.padded, 2};
        if (Cell::keeps_aux) records.aux = {carver.take<T>(2 * B * at.padded), B, at.padded, 2};
    }

    void prepare() {
        masks.sort();
        states.fill(call, at);
    }

    void run(Team &team) {
        const Share share(team, call.batch, at.P);
        const Scratch scratch{step_rows + team.rank * call.batch, input_rows + team.rank * chunk * call.batch};
        for (index done = 0; done < call.steps; done += chunk) {
            const index end = done + chunk < call.steps ? done + chunk : call.steps;
            project(team, share, scratch, done, end);
            for (index s = done; s < end; ++s) {
                if (!step(team, share, scratch, time(s))) return;
            }
        }
        if (share.wait(team)) finish_rows(team);
    }

  private:
    index time(index s) const { return call.reverse ? call.steps - 1 - s : s; }

    index chunk_steps() const {
        const index steps = chunk_bytes / (index(sizeof(T)) * at.slots * (call.batch ? call.batch : 1));
        if (steps >= call.steps) return call.steps ? call.steps : 1;
        return steps > 1 ? steps : 1;
    }

    void project(Team &team, const Share &share, const Scratch &scratch, index done, index end) const {
        index count = 0;
        for (index s = done; s < end; ++s) {
            const index t = time(s), rows = share.mine(masks.active(t));
            for (index i = 0; i < rows; ++i) {
                const index b = masks.row(share.place(i));
                scratch.input[count++] = {call.x.data ? call.x.at(t, b) : nullptr,
                                          call.x.data ? nullptr : call.ids.at(t, b),
                                          records.slots.row(t, b) + Cell::x_slot * V};
            }
        }
        const InputRow *const row = scratch.input;
        const T *const bias_ih = call.panels + at.bias_ih, *const bias_hh = call.panels + at.bias_hh;
        const auto start = [&](index, index p, int g) RNNFAST_LAMBDA {
            const index i = (p * G + g) * V;
            return separate_bias<Cell>(g) ? load(bias_ih + i) : load(bias_ih + i) + load(bias_hh + i);
        };
        if (!call.x.data) {
            for (index i = 0; i < count && !team.stopped(1); ++i) {
                for (index p = share.panels.begin; p < share.panels.end; ++p) {
                    const T *const w = call.panels + (p * at.I + *row[i].id) * G * V;
                    unroll<G>([&](auto g) RNNFAST_LAMBDA {
                        store(row[i].slots + (p * S + g) * V, start(i, p, g) + load(w + g * V));
                    });
                }
            }
            return;
        }
        product<G>(
            team, {0, count}, share.panels, [&](index i) RNNFAST_LAMBDA { return row[i].x; }, contiguous(at.I),
            call.panels, at.I * G * V, start,
            [&](index i, index p, const vec<T> *z) RNNFAST_LAMBDA {
                unroll<G>([&](auto g) RNNFAST_LAMBDA { store(row[i].slots + (p * S + g) * V, z[g]); });
            });
    }

    bool step(Team &team, const Share &share, const Scratch &scratch, index t) const {
        const index rows = share.mine(masks.active(t));
        for (index i = 0; i < rows; ++i) {
            const index b = masks.row(share.place(i));
            const StateRows<T> before = state_before<Cell, T>(masks, records, states, t, b);
            StepRow &row = scratch.step[i];
            row.h_prev = before.h;
            row.c_prev = before.c;
            if constexpr (Cell::keeps_aux) row.aux = records.aux.row(t, b);
            row.h = records.h.row(t, b);
            row.slots = records.slots.row(t, b);
            row.y = call.y.at(t, b);
        }
        if (!share.wait(team)) return false; // the units of the step before, of all threads
        phase<0>(team, share, scratch.step, rows);
        if constexpr (Cell::phases == 2) {
            if (!share.wait(team)) return false;
            phase<1>(team, share, scratch.step, rows);
        }
        return true;
    }

    template <int phase_> void phase(Team &team, const Share &share, const StepRow *row, index rows) const {
        constexpr int N = phase_gates<Cell>(phase_), first = Cell::phase_gate[phase_];
        constexpr bool last = phase_ + 1 == Cell::phases;
        fused_product<N>(
            team, {0, rows}, share.panels,
            [&](index i) RNNFAST_LAMBDA { return phase_ == 0 ? row[i].h_prev : row[i].aux; }, contiguous(at.H),
            call.panels + at.u[phase_], at.H * N * V,
            [&](index i, index p, int n) RNNFAST_LAMBDA {
                return Cell::template start<phase_, T>(first + n, row[i].slots + (p * S + Cell::x_slot) * V,
                                                       call.panels + at.bias_hh + p * G * V);
            },
            [&](index i, index p, const vec<T>(&sum)[N]) RNNFAST_LAMBDA {
                const StepRow &r = row[i];
                Unit<T> unit{};
                unit.slots = r.slots + p * S * V;
                unit.h_prev = r.h_prev + p * V;
                if constexpr (Cell::has_c) unit.c_prev = r.c_prev + p * V;
                if constexpr (Cell::keeps_aux) unit.aux = r.aux + p * V;
                unit.keep = call.tape != nullptr;
                unit.kind = call.kind;
                const vec<T> h = Cell::template forward<phase_, T>(sum, unit);
                if constexpr (last) {
                    store(r.h + p * V, h);
                    store(r.y + p * V, h, at.H - p * V);
                }
            });
    }

    // Final states, and zeros where a row had ended.
    void finish_rows(const Team &team) const {
        const Share share(team, call.batch, at.P);
        if (share.by_units && team.rank != 0) return;
        const index rows = share.mine(call.batch);
        for (index i = 0; i < rows; ++i) {
            const index b = masks.row(share.place(i)), length = masks.length(b);
            const index last = call.reverse ? 0 : length - 1;
            const T *const h = length ? records.h.row(last, b) : states.h0.row(b);
            for (index j = 0; j < at.H; ++j) call.hT[b * at.H + j] = h[j];
            if constexpr (Cell::has_c) {
                const T *const c = length ? records.aux.row(last, b) : states.c0.row(b);
                for (index j = 0; j < at.H; ++j) call.cT[b * at.H + j] = c[j];
            }
            for (index t = length; t < call.steps; ++t) {
                T *const y = call.y.at(t, b);
                for (index j = 0; j < at.H; ++j) y[j] = 0;
            }
        }
    }
};

} // namespace rnnfast::RNNFAST_ISA
