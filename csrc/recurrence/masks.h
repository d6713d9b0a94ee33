// Lengths, resets and direction: one mechanism for all cells, forward and backward; and whose rows are whose.
//
// A thread looks at its rows longest first, so those active at step t are the first active(t) of them and a ragged
// batch shrinks. A row's previous state is a pointer: to the step before, to the initial state, or to what a reset puts
// in. Nothing in the arithmetic knows of masks. Rejected: multiplying by 0/1 masks (work for dead rows; 0 * NaN),
// sorting the batch in memory (a copy of x and y).
#pragma once

#include "kernels.h"
#include "parallel/team.h"

namespace rnnfast::RNNFAST_ISA {

enum class From { initial, reset, previous };

template <class T> class Masks {
    const Sequence<T> &call_;

  public:
    explicit Masks(const Sequence<T> &call) : call_(call) {}

    index length(index b) const { return call_.lengths ? call_.lengths[b] : call_.steps; }
    index previous(index t) const { return call_.reverse ? t + 1 : t - 1; }

    // Where row b's state before step t comes from.
    From origin(index t, index b) const {
        if (call_.reverse) {
            if (t + 1 == length(b)) return From::initial;
            return call_.resets.data && *call_.resets.at(t + 1, b) ? From::reset : From::previous;
        }
        if (call_.resets.data && *call_.resets.at(t, b)) return From::reset;
        return t == 0 ? From::initial : From::previous;
    }
};

// This thread's blocks, in a partition whose parts are whole multiples of `unit` blocks.
inline Range share_blocks(const Team &team, index blocks, index unit) {
    const Range units = team.share((blocks + unit - 1) / unit);
    const auto clipped = [&](index u) { return u * unit < blocks ? u * unit : blocks; };
    return {clipped(units.begin), clipped(units.end)};
}

// Which rows and unit blocks are this thread's in the time loop. Rows need no waiting; units wait once a step, and
// serve batches too small to be partitioned by rows. A thread's rows are neighbours in memory, as many as have about
// its part of all steps. Rejected: every n-th row of the whole batch, longest first (a core then prefetches the lines
// behind each row, which the other core is writing: two threads are slower).
template <class T> class Share {
    const Sequence<T> &call_;
    index *order_ = nullptr;  // this thread's rows, longest first; null: all have length T
    index *active_ = nullptr; // [T + 1] how many of them have a length > t

  public:
    const bool by_units;
    const Range panels, rows;

    // Parts of blocks are whole multiples of `unit`. `memory` is all threads'.
    Share(const Team &team, const Sequence<T> &call, index blocks, index unit, index *memory)
        : call_(call), by_units(team.size > 1 && call.batch < 2 * team.size),
          panels(by_units ? share_blocks(team, blocks, unit) : Range{0, blocks}),
          rows(by_units ? Range{0, call.batch} : Range{cut(team, team.rank), cut(team, team.rank + 1)}) {
        if (!call.lengths) return;
        order_ = memory + team.rank * (call.batch + call.steps + 1);
        active_ = order_ + call.batch;
        sort();
    }

    static index *carve(const Sequence<T> &call, Carver &carver) {
        return call.lengths ? carver.take<index>(call.threads * (call.batch + call.steps + 1)) : nullptr;
    }

    index count() const { return rows.end - rows.begin; }
    index row(index place) const { return order_ ? order_[place] : rows.begin + place; }
    index active(index t) const {
        if (t >= call_.steps) return 0;
        return active_ ? active_[t] : count();
    }

    // A barrier where threads have parts of the units, because each then reads what the others wrote. False: the call
    // is to end early.
    [[nodiscard]] bool wait(Team &team) const { return by_units ? team.wait() : !team.stopped(); }

  private:
    // The first row of a thread: the one whose middle lies at or behind its part of all steps.
    index cut(const Team &team, int rank) const {
        if (!call_.lengths || rank == team.size) return team.share(call_.batch, rank);
        index steps = 0, before = 0, b = 0;
        for (index i = 0; i < call_.batch; ++i) steps += call_.lengths[i];
        for (; b < call_.batch && (2 * before + call_.lengths[b]) * team.size < 2 * steps * rank; ++b) {
            before += call_.lengths[b];
        }
        return b;
    }

    // A counting sort by length.
    void sort() const {
        for (index t = 0; t <= call_.steps; ++t) active_[t] = 0;
        for (index b = rows.begin; b < rows.end; ++b) ++active_[call_.lengths[b]];
        index longer = 0; // active_[t]: first how many have length t, then where the next row of length t goes
        for (index t = call_.steps; t >= 0; --t) {
            const index here = active_[t];
            active_[t] = longer;
            longer += here;
        }
        for (index b = rows.begin; b < rows.end; ++b) order_[active_[call_.lengths[b]]++] = b;
        for (index t = 0; t <= call_.steps; ++t) active_[t] = t < call_.steps ? active_[t + 1] : 0;
    }
};

} // namespace rnnfast::RNNFAST_ISA
