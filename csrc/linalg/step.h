// The products of a step, whose sums are a cell's gates: x's side and h's in one chain, then the cell's own arithmetic.
#pragma once

#include "linalg/products.h"

namespace rnnfast::RNNFAST_ISA {

// A row of a step: its chains begin at `start`, run over x's features (or not, where that has been done), then over
// `left`.
template <class T> struct StepRow {
    const T *start, *x, *left;
    const T *h_prev, *c_prev;
    T *h, *aux, *slots, *y;
};

// A step's products: two terms in one chain per output. Where the last vector of a block is `apart`, its chain begins
// again between the two, and what it was goes to the row's slots.
template <class T, class W> struct Step {
    const StepRow<T> *rows;
    index features, units;
    const W *w, *u;
    const T *again;    // apart: [block]
    index first, kept; // of block 0: in a row's `start`, and, apart, in its slots
    index slots;       // how many
    struct {
        index start, again;
    } pitch; // from block to block

    index kept_at(index block) const { return kept + slot_offset<T>(block, slots); }
};

// Tiles of R rows and Q panels of `width` vectors, from `panel` on, in registers from the first chain's begin to the
// last one's end. One copy for all cells. Rejected: a copy for each, with closures for what is the cell's own (more
// machine code; the seam the same), weights as memory operands where GCC likes (it then loads some three times over).
template <int width, int R, int Q, bool apart, class T, class W>
RNNFAST_SHARED void tiles(const Step<T, W> &step, const Group &group, int panel, Range rows, vec<T> *sums) {
    constexpr int V = lanes<T>;
    const index gates = group.gates, at = group.block + panel;
    const index vectors = group.block * gates + panel * width, pitch = group.blocks * gates;
    const index of_w = depth<W>(step.features) * V, of_u = depth<W>(step.units) * V; // one vector's weights
    const W *const w = step.w + vectors * of_w, *const u = step.u + vectors * of_u;
    const index features = step.features, units = step.units;
    // A panel of several blocks' vectors finds them side by side in `start` too.
    const index first = step.first + (gates == width ? at * step.pitch.start : vectors * V);
    const index next = gates == width ? step.pitch.start : width * V;
    const T *const again = step.again + at * step.pitch.again;
    const StepRow<T> *row = step.rows + rows.begin;
    [[maybe_unused]] index kept[Q];
    if constexpr (apart) {
        RNNFAST_UNROLL for (int j = 0; j < Q; ++j) kept[j] = step.kept_at(at + j);
    }
    sums += panel * width;
    for (const StepRow<T> *const end = step.rows + rows.end; row < end; row += R, sums += R * pitch) {
        vec<T> acc[R][Q][width];
        const T *left[R];
        const auto each = [&](auto f) RNNFAST_LAMBDA {
            RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
                RNNFAST_UNROLL for (int j = 0; j < Q; ++j) f(i, j, acc[i][j]);
            }
        };
        each([&](int i, int j, vec<T>(&z)[width]) RNNFAST_LAMBDA {
            RNNFAST_UNROLL for (int n = 0; n < width; ++n) z[n] = load(row[i].start + first + j * next + n * V);
        });
        RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] = row[i].x;
        accumulate<T>(acc, left, features, w, width * of_w); // a branch around it costs GCC registers
        if constexpr (apart) {
            each([&](int i, int j, vec<T>(&z)[width]) RNNFAST_LAMBDA {
                store(row[i].slots + kept[j], z[width - 1]);
                z[width - 1] = load(again + j * step.pitch.again);
            });
        }
        RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] = row[i].left;
        accumulate<T>(acc, left, units, u, width * of_u);
        each([&](int i, int j, vec<T>(&z)[width]) RNNFAST_LAMBDA {
            RNNFAST_UNROLL for (int n = 0; n < width; ++n) sums[i * pitch + j * width + n] = z[n];
        });
    }
}

template <int N, bool apart, class T, class W>
RNNFAST_INLINE void multiply_in_registers(Range rows, vec<T> *sums, const Group &group, const Step<T, W> &step) {
    with_width<N>(group, [&]<int width>() RNNFAST_LAMBDA {
        const Partition split(rows.end - rows.begin, Shape<width>::rows);
        const index larger = split.larger * (split.size + 1);
        for (int panel = 0; panel < group.panels; panel += group.together) {
            for (int higher = larger ? 1 : 0; higher >= 0; --higher) {
                const Range part =
                    higher ? Range{rows.begin, rows.begin + larger} : Range{rows.begin + larger, rows.end};
                vec<T> *const first = higher ? sums : sums + larger * group.blocks * N;
                with_shape<width>(int(split.size) + higher, group.together, [&]<int R, int Q>() RNNFAST_LAMBDA {
                    tiles<width, R, Q, apart>(step, group, panel, part, first);
                });
            }
        }
    });
}

// A single row's tiles by the number of their panels: a table, so that one unit of the build compiles them for all.
template <int width, bool apart, class T, class W> struct RowTiles {
    using Tile = void (*)(const Step<T, W> &, const Group &, int panel, Range rows, vec<T> *sums);
    static const std::array<Tile, std::size_t(Shape<width>::panels(1))> of;

    template <int... q> static constexpr auto all(std::integer_sequence<int, q...>) {
        return std::array<Tile, sizeof...(q)>{tiles<width, 1, q + 1, apart, T, W>...};
    }
};
template <int width, bool apart, class T, class W>
constinit const std::array<typename RowTiles<width, apart, T, W>::Tile, std::size_t(Shape<width>::panels(1))>
    RowTiles<width, apart, T, W>::of = all(std::make_integer_sequence<int, Shape<width>::panels(1)>{});

// The same for a single row, inlined: a stream's step of few units notices every call.
template <int N, bool apart, class T, class W>
RNNFAST_INLINE void multiply_row(vec<T> *sums, const Group &group, const Step<T, W> &step) {
    with_width<N>(group, [&]<int width>() RNNFAST_LAMBDA {
        const auto tile = RowTiles<width, apart, T, W>::of[std::size_t(group.together - 1)];
        for (int panel = 0; panel < group.panels; panel += group.together) tile(step, group, panel, {0, 1}, sums);
    });
}

// The same where panels are long.
template <int N, bool apart, class T, class W>
RNNFAST_INLINE void multiply_in_pieces(Range rows, vec<T> *sums, const Group &group, const Step<T, W> &step) {
    const auto *const row = step.rows;
    const auto first =
        term<N, T>([row](index i) RNNFAST_LAMBDA { return row[i].x; }, contiguous(step.features), step.w);
    const auto second =
        term<N, T>([row](index i) RNNFAST_LAMBDA { return row[i].left; }, contiguous(step.units), step.u);
    each_output<N, T>(rows, group, sums, [&](index i, index block, vec<T> *sum) RNNFAST_LAMBDA {
        const T *const start = row[i].start + step.first + block * step.pitch.start;
        unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = load(start + n * lanes<T>); });
    });
    add_in_pieces<N, T>(rows, sums, group, first, second.panels(group.block));
    if constexpr (apart) {
        each_output<N, T>(rows, group, sums, [&](index i, index block, vec<T> *sum) RNNFAST_LAMBDA {
            store(row[i].slots + step.kept_at(block), sum[N - 1]);
            sum[N - 1] = load(step.again + block * step.pitch.again);
        });
    }
    add_in_pieces<N, T>(rows, sums, group, second,
                        step.features ? first.panels(group.next) : second.panels(group.next));
}

// A step's products for a part of the rows and a group of panels: in registers, or, where panels are more than L1 holds
// by far, in pieces. `many` is how many rows the step has. Weights in bfloat16 are always read as a whole: half as many
// bytes pass, and pieces are a third of what a unit with all shapes takes to compile (docs/lab/cpu-tuning.md).
template <int N, bool apart, class T, class W>
RNNFAST_SHARED void step_sums(index many, Range part, vec<T> *sums, const Group &group, const Step<T, W> &step) {
    static_assert(!apart || N <= widest, "the vector that is apart must be the last one of each panel");
    if constexpr (std::is_same_v<T, W>) {
        const index k = step.features + step.units;
        if (many > 2 * Shape<widest>::rows && in_pieces(k, group.together * group.width)) {
            return multiply_in_pieces<N, apart>(part, sums, group, step);
        }
    }
    multiply_in_registers<N, apart>(part, sums, group, step);
}

// One copy for all units of the build: steps.cpp and, for bfloat16, bfloat16.cpp have it.
#define RNNFAST_STEP(begin, N, apart, T, W)                                                                            \
    begin void step_sums<N, apart, T, W>(index, Range, vec<T> *, const Group &, const Step<T, W> &);
#define RNNFAST_STEPS(begin, T, W)                                                                                     \
    RNNFAST_STEP(begin, 1, false, T, W)                                                                                \
    RNNFAST_STEP(begin, 2, false, T, W)                                                                                \
    RNNFAST_STEP(begin, 3, false, T, W)                                                                                \
    RNNFAST_STEP(begin, 3, true, T, W)                                                                                 \
    RNNFAST_STEP(begin, 4, false, T, W)                                                                                \
    begin struct RowTiles<1, false, T, W>;                                                                             \
    begin struct RowTiles<2, false, T, W>;                                                                             \
    begin struct RowTiles<3, false, T, W>;                                                                             \
    begin struct RowTiles<3, true, T, W>;
#ifndef RNNFAST_DEFINES_STEPS
RNNFAST_STEPS(extern template, RNNFAST_REAL, RNNFAST_REAL)
#endif
#ifndef RNNFAST_DEFINES_PAIR_STEPS
RNNFAST_STEPS(extern template, float, Pair)
#endif

// A step's products for all blocks. Then two passes over the sums of all rows, whose constants stay in registers and
// whose rows overlap,
//   activate(sums)            of each output
//   finish(row, block, sums)  of each output
// Rejected (the times are in docs/lab/cpu-tuning.md): gates activated and finished in each tile, whose sums then never
// leave the registers (slower but for a single row, and half as much machine code again), one pass (slower), a pass for
// each operation (no difference), one division for i * g and one for o * tanh(c) (no difference: divisions are not what
// the activations wait for), the next panel prefetched here or in the loops (slower), a tile's activations between the
// instructions of the next tile's loop (slower).
template <int N, bool apart, class T, class W, class Activate, class Finish>
RNNFAST_INLINE void step_product(Team &team, index many, Range blocks, bool falling, const Step<T, W> &step,
                                 Activate activate, Finish finish) {
    each_group<N>(team, many, blocks, falling, [&](const Group &group) RNNFAST_LAMBDA {
        in_parts<T>(
            {0, many},
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                if (many == 1) return multiply_row<N, apart>(sums, group, step);
                step_sums<N, apart>(many, part, sums, group, step);
            },
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                each_output<N, T>(part, group, sums, [&](index, index, vec<T> *sum) RNNFAST_LAMBDA { activate(sum); });
                each_output<N, T>(part, group, sums, finish);
            });
    });
}

} // namespace rnnfast::RNNFAST_ISA
