// A dense layer, y = W x + b, over any number of rows: the heads. It is the input side of a recurrent layer without the
// recurrence, so it has that side's contracts: bitwise equal for any thread count and any cut of the rows.
#pragma once

#include "linalg/outer.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> struct Dense {
    static constexpr int V = lanes<T>;
    static constexpr index block_rows = 128; // rows whose left operand stays in L2 while all panels pass

    static index panel_size(const Sizes &s) { return blocks<T>(s.hidden) * V * (s.input + 1); }
    static index panel_size_backward(const Sizes &s) { return blocks<T>(s.input) * V * s.hidden; }

    template <bool unpack, class Panel, class M> static void move(const Sizes &s, Panel *panels, const Weights<M> &w) {
        transfer<1, unpack>(panels, w.data[0], s.hidden, s.input, 0);
        transfer<1, unpack>(panels + blocks<T>(s.hidden) * V * s.input, w.data[1], s.hidden, 1, 0);
    }
    static void pack(const Sizes &s, const Weights<const T> &w, T *panels) { move<false>(s, panels, w); }
    static void unpack(const Sizes &s, const T *panels, const Weights<T> &w) { move<true>(s, panels, w); }

    // [input block][o][lane]: no padding over o, because dy [N, O] has none.
    static void pack_backward(const Sizes &s, const Weights<const T> &w, T *panels) {
        for (index i = 0; i < s.input; i += V) {
            for (index o = 0; o < s.hidden; ++o, panels += V) {
                store(panels, load(w.data[0] + o * s.input + i, s.input - i));
            }
        }
    }

    static void rows_times_panels(Team &team, const DenseCall<T> &c, const T *left, index stride, index k,
                                  index outputs, const T *bias, T *result) {
        const Range mine = team.share(c.rows);
        for (index first = mine.begin; first < mine.end; first += block_rows) {
            const index end = first + block_rows < mine.end ? first + block_rows : mine.end;
            product<1, T>(
                team, {first, end}, {0, blocks<T>(outputs)},
                term<1, T>([&](index i) RNNFAST_LAMBDA { return left + i * stride; }, contiguous(k), c.panels),
                [&](index, index p, int) RNNFAST_LAMBDA { return bias ? load(bias + p * V) : vec<T>{}; },
                [&](index i, index p, const vec<T> *sum)
                    RNNFAST_LAMBDA { store(result + i * outputs + p * V, sum[0], outputs - p * V); });
        }
    }

    static void forward(const DenseCall<T> &c) {
        run_team(c.threads, c.interrupt, [&](Team &team) {
            rows_times_panels(team, c, c.x, c.x_stride, c.sizes.input, c.sizes.hidden,
                              c.panels + blocks<T>(c.sizes.hidden) * V * c.sizes.input, c.y);
        });
    }

    // The sums over rows run from the last row to the first, as they do over t in a recurrent layer: cutting the rows
    // anywhere and running the cuts last to first into one gradient changes no bit.
    static void backward(const DenseCall<T> &c) {
        const index I = c.sizes.input, O = c.sizes.hidden;
        Carver count(nullptr);
        count.take<const T *>(c.rows);
        OuterScratch<T>::carve(count, I);
        const Memory memory(count.used * std::size_t(c.threads));
        Carver carver(memory.data());
        const T **const left = carver.take<const T *>(c.rows);
        for (index m = 0; m < c.rows; ++m) left[m] = c.x + (c.rows - 1 - m) * c.x_stride;
        const std::size_t used = carver.used, each = count.used - used;
        run_team(c.threads, c.interrupt, [&](Team &team) {
            Carver mine(static_cast<char *>(memory.data()) + used + std::size_t(team.rank) * each);
            if (c.dx) rows_times_panels(team, c, c.dy, O, O, I, nullptr, c.dx);
            outer_product<1>(
                team, c.rows, left, nullptr, I, blocks<T>(O),
                [&](index m, index p, int)
                    RNNFAST_LAMBDA { return load(c.dy + (c.rows - 1 - m) * O + p * V, O - p * V); },
                c.dpanels, c.dpanels + blocks<T>(O) * V * I, V, OuterScratch<T>::carve(mine, I));
        });
    }
};

} // namespace rnnfast::RNNFAST_ISA
