// Rows times packed panels: the product that forward, dh and dx are made of, and the loop of the weights' gradients.
#pragma once

#include "linalg/panels.h"
#include "linalg/tile.h"

namespace rnnfast::RNNFAST_ISA {

// Whether a chain goes on from the sum that is there, or begins at zero and is added to it.
enum class Chain { on, apart };

// A tile's sums come from memory (L1) and go back there, so that one copy of the loop per shape serves all cells and
// products. They are copied vector by vector: GCC turns a memcpy of the whole tile into a slow rep movs.
template <class T, int R, int Q, int N, class Loop>
RNNFAST_INLINE void on_registers(vec<T> *sums, index pitch, Chain chain, Loop loop) {
    vec<T> acc[R][Q][N] = {};
    const auto each = [&](auto f) RNNFAST_LAMBDA {
        RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
            RNNFAST_UNROLL for (int j = 0; j < Q; ++j) {
                RNNFAST_UNROLL for (int n = 0; n < N; ++n) f(acc[i][j][n], sums[i * pitch + j * N + n]);
            }
        }
    };
    if (chain == Chain::on) each([](vec<T> &own, const vec<T> &sum) RNNFAST_LAMBDA { own = sum; });
    loop(acc);
    if (chain == Chain::apart) each([](vec<T> &own, const vec<T> &sum) RNNFAST_LAMBDA { own = sum + own; });
    each([](const vec<T> &own, vec<T> &sum) RNNFAST_LAMBDA { sum = own; });
}

// Long panels are read in pieces. A piece stays in L1 while all tiles of rows use it. Smaller pieces cost more, because
// each tile stores and loads its sums once a piece; larger ones leave L1 (docs/lab/cpu-tuning.md).
constexpr index piece_bytes = 16384;
constexpr index piece_depth(int vectors) { return piece_bytes / (vectors * RNNFAST_VECTOR_BYTES); }
// Panels of at most this many pieces are read as a whole. The bound is higher with AVX-512, because its tiles have
// twice as many rows and so read a panel from L2 half as often: there it is half of an L2 cache of 1 MB.
constexpr int whole_pieces = RNNFAST_VECTOR_BYTES == 64 ? 32 : 3;
RNNFAST_INLINE bool in_pieces(index k, int vectors) { return k > whole_pieces * piece_depth(vectors); }

// Prefetches the next piece of q panels, a part with each tile that works on this one. Without it pieces gain nothing.
template <class W> struct Coming {
    const W *place;
    index bit, stride; // elements for each tile, and from panel to panel

    RNNFAST_INLINE void prefetch(int q) {
        constexpr index line = 64 / index(sizeof(W));
        for (int j = 0; j < q; ++j) {
            for (index i = 0; i < bit; i += line) __builtin_prefetch(place + j * stride + i, 0, 2);
        }
        place += bit;
    }
};

// So many tiles of R rows, one after the other. A function for each shape, because GCC takes gigabytes for one that has
// all shapes inlined.
template <class T, int N, int R, int Q, class W>
RNNFAST_SHARED void multiply_tiles(vec<T> *sums, index pitch, const T *const *row, index count, index offset,
                                   const Span &k, const W *weights, index stride, Coming<W> &coming, Chain chain) {
    for (index tile = 0; tile < count; ++tile, row += R, sums += R * pitch) {
        const T *left[R];
        RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] = row[i] + offset;
        coming.prefetch(Q);
        on_registers<T, R, Q, N>(sums, pitch, chain, [&](auto &acc) RNNFAST_LAMBDA {
            const W *panels = weights;
            for (index o = 0; o < k.outer; ++o, panels += depth<W>(k.inner) * N * lanes<T>) {
                accumulate<T>(acc, left, k.inner, panels, stride);
                RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] += k.step;
            }
        });
    }
}

// sums[row][q][n] += rows times q panels, rows of sums `pitch` vectors apart. Where several tiles of rows pass, k comes
// in pieces of the panels that stay in L1 meanwhile, and the next piece is prefetched: L3 and L2 have the time of all
// tiles to send it. `next` is what the next call multiplies with.
template <class T, int N, class W>
RNNFAST_SHARED void multiply(vec<T> *sums, index pitch, const T *const *row, index rows, int q, Span k, const W *panel,
                             index stride, const W *next, Chain chain) {
    const Partition split(rows, Shape<N>::rows);
    const bool cut = chain == Chain::on && split.tiles > 2 && in_pieces(k.depth(), q * N);
    const index piece = cut ? k.piece(piece_depth(q * N)) : k.units();
    const auto start = [&](index unit) RNNFAST_LAMBDA { return panel + depth<W>(k.depth(unit)) * N * lanes<T>; };
    for (index begin = 0; begin < k.units(); begin += piece) {
        const W *const weights = start(begin);
        const bool last = begin + piece >= k.units();
        Coming<W> coming{last ? next : start(begin + piece), 0, stride};
        if (piece < k.units()) coming.bit = (start(piece) - panel + split.tiles - 1) / split.tiles;
        const Span part = k.part(begin, piece);
        const index offset = k.offset(begin);
        vec<T> *to = sums;
        const T *const *left = row;
        for (int higher = split.larger ? 1 : 0; higher >= 0; --higher) {
            const index count = higher ? split.larger : split.tiles - split.larger, height = split.size + higher;
            with_shape<N>(int(height), q, [&]<int R, int Q>() RNNFAST_LAMBDA {
                multiply_tiles<T, N, R, Q>(to, pitch, left, count, offset, part, weights, stride, coming, chain);
            });
            to += count * height * pitch;
            left += count * height;
        }
    }
}

// One copy for all units of the build, which products.cpp has.
#define RNNFAST_PRODUCT(begin, N, T, W)                                                                                \
    begin void multiply<T, N, W>(vec<T> *, index, const T *const *, index, int, Span, const W *, index, const W *,     \
                                 Chain);
#define RNNFAST_PRODUCTS(begin, T, W)                                                                                  \
    RNNFAST_PRODUCT(begin, 1, T, W) RNNFAST_PRODUCT(begin, 2, T, W) RNNFAST_PRODUCT(begin, 3, T, W)
#ifndef RNNFAST_DEFINES_PRODUCTS
RNNFAST_PRODUCTS(extern template, RNNFAST_REAL, RNNFAST_REAL)
#endif

// How many rows of a product have their sums in L1 at once (with AVX-512 some of them in L2). Fewer rows are slower:
// each piece of the panels is read once for all of them.
constexpr index at_once = 64;

// One term of a product: rows on the left, panels of unit blocks of N vectors on the right.
template <int N, class Row, class W> struct Term {
    Row row;
    Span k;
    const W *weights;
    index vector; // so much of them is one vector's

    const W *panels(index block) const { return weights + block * N * vector; }
};
template <int N, class T, class Row, class W> RNNFAST_INLINE Term<N, Row, W> term(Row row, Span k, const W *weights) {
    return {row, k, weights, depth<W>(k.depth()) * lanes<T>};
}

// The sums of a group of panels wait for what comes next.
//   products(part, sums)      the rows' sums, [row][vector]
//   finish(part, sums)        takes them
template <class T, class Products, class Finish>
RNNFAST_INLINE void in_parts(Range rows, Products products, Finish finish) {
    static_assert(most_vectors <= at_once * most_of_rows);
    const index many = rows.end - rows.begin, parts = many > at_once ? (many + at_once - 1) / at_once : 1;
    vec<T> sums[at_once * most_of_rows];
    for (index part = 0; part < parts; ++part) {
        const Range mine =
            parts == 1 ? rows : Range{rows.begin + many * part / parts, rows.begin + many * (part + 1) / parts};
        products(mine, sums);
        finish(mine, sums);
    }
}

// f(row, block, its N sums) for each output of a group. One loop, before which constants are loaded once.
template <int N, class T, class F> RNNFAST_INLINE void each_output(Range rows, const Group &group, vec<T> *sums, F f) {
    index row = rows.begin, block = group.block;
    const index behind = group.block + group.blocks;
    for (const vec<T> *const end = sums + (rows.end - rows.begin) * group.blocks * N; sums != end; sums += N) {
        f(row, block, sums);
        if (++block == behind) block = group.block, ++row;
    }
}

// Adds a term to a group's sums, which pass through memory. `next` is what comes after it. A chain apart is one piece.
template <int N, class T, class Row, class W>
RNNFAST_INLINE void add_in_pieces(Range rows, vec<T> *sums, const Group &group, const Term<N, Row, W> &term,
                                  const W *next, Chain chain = Chain::on) {
    if (term.k.units() == 0) return;
    const T *left[at_once];
    for (index row = rows.begin; row < rows.end; ++row) left[row - rows.begin] = term.row(row);
    with_width<N>(group, [&]<int width>() RNNFAST_LAMBDA {
        const index stride = width * term.vector;
        const W *panel = term.panels(group.block);
        for (int j = 0; j < group.panels; j += group.together) {
            const W *const after = panel + group.together * stride;
            multiply<T, width>(sums + j * width, group.blocks * N, left, rows.end - rows.begin, group.together, term.k,
                               panel, stride, j + group.together < group.panels ? after : next, chain);
            panel = after;
        }
    });
}

// One product for a group of panels.
//   start(row, block, n)      where a chain begins
//   finish(row, block, sums)  takes an output's N sums
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void group_product(Range rows, const Group &group, const Term<N, Row, T> &term, Start start,
                                  Finish finish) {
    in_parts<T>(
        rows,
        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
            each_output<N, T>(part, group, sums, [&](index row, index block, vec<T> *sum) RNNFAST_LAMBDA {
                unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = start(row, block, int(n)); });
            });
            add_in_pieces<N, T>(part, sums, group, term, term.panels(group.next));
        },
        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA { each_output<N, T>(part, group, sums, finish); });
}

// One product over slots of rows, for all blocks of a range: panels as pack_transposed makes them, for so many outputs.
// The first slot's first element is at row(i).
template <class T, class Row, class Start, class Finish>
RNNFAST_INLINE void slots_product(Team &team, Range rows, Range blocks, index outputs, const SlotSpans<T> &spans,
                                  Row row, const T *panels, Start start, Finish finish) {
    const auto main = term<1, T>(row, spans.main, panels);
    const auto rest = term<1, T>([&](index i) RNNFAST_LAMBDA { return row(i) + spans.behind; }, spans.rest,
                                 panels + rnnfast::RNNFAST_ISA::blocks<T>(outputs) * main.vector);
    each_group<1>(team, rows.end - rows.begin, blocks, false, [&](const Group &group) RNNFAST_LAMBDA {
        in_parts<T>(
            rows,
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                each_output<1, T>(part, group, sums,
                                  [&](index i, index block, vec<T> *sum) RNNFAST_LAMBDA { sum[0] = start(i, block); });
                const bool two = spans.rest.units() != 0;
                add_in_pieces<1, T>(part, sums, group, main, two ? rest.panels(group.block) : main.panels(group.next));
                add_in_pieces<1, T>(part, sums, group, rest, main.panels(group.next));
            },
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA { each_output<1, T>(part, group, sums, finish); });
    });
}

// One product for all blocks of a range.
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void product(Team &team, Range rows, Range blocks, const Term<N, Row, T> &term, Start start,
                            Finish finish) {
    each_group<N>(team, rows.end - rows.begin, blocks, false,
                  [&](const Group &group) RNNFAST_LAMBDA { group_product<N, T>(rows, group, term, start, finish); });
}

} // namespace rnnfast::RNNFAST_ISA
