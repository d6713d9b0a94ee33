// A dense layer, y = W x + b, over any number of rows: the heads. It is the input side of a recurrent layer without the
// recurrence, so it has that side's contracts: bitwise equal for any thread count and any cut of the rows.
#pragma once

#include "linalg/outer.h"
#include "parallel/pass.h"

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

    // The sums over rows run from the last row to the first, as they do over t in a recurrent layer, in the chains and
    // sections of sum_order.h for a batch of one: a cut between two sections changes no bit.
    class BackwardPass {
        const DenseCall<T> &call;
        const index I, O;
        const Parts parts;
        const T **const left; // [rows], from the last
        char *const scratch;  // [threads]
        const Sums<T> sums;

        struct Scratch {
            index *chains;
            OuterScratch<T> outer;

            Scratch(Carver &carver, index steps, index k)
                : chains(Chains::carve(carver, steps, 1)), outer(OuterScratch<T>::carve(carver, k)) {}
        };
        std::size_t scratch_size() const {
            Carver count(nullptr);
            Scratch(count, parts.most_steps(), I);
            return count.used;
        }

      public:
        Seam seam;

        BackwardPass(const DenseCall<T> &c, Carver &carver)
            : call(c), I(c.sizes.input), O(c.sizes.hidden), parts(c.rows, 1, false, outer_rows),
              left(carver.take<const T *>(c.rows)), scratch(carver.take<char>(c.threads * index(scratch_size()))),
              sums(c.dpanels, nullptr, c.adds, blocks<T>(O) * V * I, panel_size(c.sizes), parts, carver) {}

        void prepare() {
            for (index m = 0; m < call.rows; ++m) left[m] = call.x + (call.rows - 1 - m) * call.x_stride;
        }

        void run(Team &team) {
            Carver carver(scratch + std::size_t(team.rank) * scratch_size());
            const Scratch own(carver, parts.most_steps(), I);
            if (seam.begin() == 0) {
                sums.begin(team, call.rows);
                if (call.dx) rows_times_panels(team, call, call.dy, O, O, I, nullptr, call.dx);
            }
            for (index done = seam.begin(); done < call.rows;) {
                if (seam.leave(team, done) || !team.wait()) return;
                const Parts::Part part = parts.after(done);
                const index rows = part.end - part.begin, last = part.end - 1;
                Chains chains(own.chains, 1);
                for (index m = 0; m < rows; ++m) chains.add(m, last - m);
                chains.end(rows);
                outer_product<1>(
                    team, chains, left + done, nullptr, I, blocks<T>(O),
                    [&](index m, index p, int)
                        RNNFAST_LAMBDA { return load(call.dy + (last - m) * O + p * V, O - p * V); },
                    sums.matrix(0), sums.exact(blocks<T>(O) * V * I), V, own.outer);
                if (!sums.end(team, part)) return;
                done += rows;
            }
        }
    };

    static void backward(const DenseCall<T> &c) { run_pass<BackwardPass>(c, nullptr); }
};

// Compiled in a unit of their own (csrc/units/dense.cpp).
template <class T> void run_dense_forward(const DenseCall<T> &call);
template <class T> void run_dense_backward(const DenseCall<T> &call);

} // namespace rnnfast::RNNFAST_ISA
