// What forward and backward of a described cell share: states, rows, means, and the products of a stage.
#pragma once

#include "linalg/step.h"
#include "parallel/pass.h"
#include "program/interpret.h"
#include "recurrence/layout.h"
#include "recurrence/masks.h"

namespace rnnfast::RNNFAST_ISA {

// [B][padded] copies of the states that a call may be given, and for each that is missing one row of its initial value.
template <class T> struct GivenStates {
    T *rows[most_states] = {};
    T *fill[most_states] = {};

    GivenStates(const T *const *given, const ProgramLayout<T> &at, index batch, Carver &carver) {
        for (int k = 0; k < at.program.states.count; ++k) {
            const index padded = at.padded(at.program.states[k].domain);
            if (given[k]) {
                rows[k] = carver.take<T>(batch * padded);
            } else {
                fill[k] = carver.take<T>(padded);
            }
        }
    }

    void copy(const T *const *given, const ProgramLayout<T> &at, index batch) const {
        for (int k = 0; k < at.program.states.count; ++k) {
            const StateSpec &state = at.program.states[k];
            const index width = at.width(state.domain), padded = at.padded(state.domain);
            for (index i = 0; fill[k] && i < padded; ++i) fill[k][i] = i < width ? T(state.initial) : 0;
            for (index b = 0; rows[k] && b < batch; ++b) {
                T *const row = rows[k] + b * padded;
                __builtin_memcpy(row, given[k] + b * width, std::size_t(width) * sizeof(T));
                for (index i = width; i < padded; ++i) row[i] = 0;
            }
        }
    }

    const T *row(int k, index b, index padded) const { return rows[k] ? rows[k] + b * padded : fill[k]; }
};

// A row's memory at each step, and the states after each step: of all steps (a tape), or of the last few.
template <class T> struct ProgramRecords {
    History<T> memory, states[most_states];

    static index tape_size(const ProgramLayout<T> &at, index steps, index batch) {
        index size = at.row;
        for (const StateSpec &state : at.program.states) size += at.padded(state.domain);
        return size * steps * batch;
    }

    // On a tape, or (`tape` null) in memory of the call's own for `depth` steps, a power of two.
    ProgramRecords(const ProgramLayout<T> &at, index steps, index batch, T *tape, index depth, Carver &carver) {
        const auto take = [&](index width, index deep) -> History<T> {
            if (!tape) return {carver.take<T>(deep * batch * width), batch, width, deep};
            T *const here = tape;
            tape += steps * batch * width;
            return {here, batch, width, 0};
        };
        const bool taped = tape != nullptr;
        memory = take(at.row, depth);
        for (int k = 0; k < at.program.states.count; ++k) {
            states[k] = take(at.padded(at.program.states[k].domain), taped ? 0 : 2);
        }
    }
};

// The part of a call that both passes have.
template <class T> class ProgramPass {
  protected:
    static constexpr int V = lanes<T>;

    const Sequence<T> &sequence;
    const ProgramLayout<T> at;
    const Program &program;
    const Masks<T> masks;
    GivenStates<T> initial, reset;
    const Interpreter<T> interpreter;

    ProgramPass(const Sequence<T> &call, bool backward, Carver &carver)
        : sequence(call), at(call.sizes, backward), program(*call.sizes.program), masks(call),
          initial(call.state, at, call.batch, carver), reset(call.reset_state, at, call.batch, carver),
          interpreter{at, call.panels, call.seed, std::uint64_t(call.layer), call.first_step} {}

    void copy_states() const {
        initial.copy(sequence.state, at, sequence.batch);
        if (sequence.resets.data) reset.copy(sequence.reset_state, at, sequence.batch);
    }

    bool skipped(index t, index b) const { return sequence.skip.data && *sequence.skip.at(t, b); }

    // Points a row at step t of batch row b.
    void enter(RowAt<T> &row, const ProgramRecords<T> &records, index t, index b) const {
        row.t = t;
        row.b = b;
        row.memory = records.memory.row(t, b);
        const From from = masks.origin(t, b);
        for (int k = 0; k < program.states.count; ++k) {
            const History<T> &states = records.states[k];
            row.after[k] = states.row(t, b);
            row.before[k] = from == From::previous ? states.row(masks.previous(t), b)
                                                   : (from == From::initial ? initial : reset).row(k, b, states.width);
        }
        for (int g = 0; g < program.given.count; ++g) row.given[g] = sequence.given[g].at(t, b);
    }

    // The vectors of a domain that are this thread's: all, or where units are partitioned its part. Heads stay whole.
    Range share_of(const Team &team, const Share<T> &share, int domain) const {
        const index all = at.vectors(domain);
        return share.by_units ? share_blocks(team, all, at.unit(domain)) : Range{0, all};
    }

    // Sums over a row's units in one order: 16 chains (8 of double), block after block, then the chains in pairs.
    T total(const RowAt<T> &row, const MeanSpec &mean) const {
        constexpr int R = vectors_of_block<T>, C = canonical<T>;
        vec<T> sums[R] = {};
        for (const RowPlace &place : mean.rows) {
            const auto source = interpreter.source(place);
            const T *const from = interpreter.base(row, source);
            const index width = at.width(mean.domain), behind = at.vectors(mean.domain);
            for (index p = 0; p < behind; ++p)
                sums[p % R] = sums[p % R] + load(from + at.at(p, source.slots), width - p * V);
        }
        T chain[C];
        for (int r = 0; r < R; ++r) store(chain + r * V, sums[r]);
        for (int half = C / 2; half; half /= 2) {
            for (int i = 0; i < half; ++i) chain[i] += chain[i + half];
        }
        return chain[0];
    }

    // False: the call is to end early.
    [[nodiscard]] bool means(Team &team, const Share<T> &share, const StageSpec &stage, const RowAt<T> *rows,
                             index count) const {
        for (const MeanSpec &mean : stage.means) {
            if (!share.wait(team)) return false;
            const Range mine = share.by_units ? team.share(count) : Range{0, count};
            const T scale = mean.total ? T(1) : T(1) / T(at.width(mean.domain) * mean.rows.count);
            for (index i = mine.begin; i < mine.end; ++i) {
                rows[i].memory[at.scalars + mean.scalar] = total(rows[i], mean) * scale;
            }
        }
        return stage.means.count == 0 || share.wait(team);
    }
};

} // namespace rnnfast::RNNFAST_ISA
