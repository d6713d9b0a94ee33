// The register tile: R rows times Q panels of N vectors, every sum one chain of fma over k in rising order.
//
// All of the package's arithmetic that is not pointwise runs through the two loops below. A chain has one accumulator,
// whatever R and Q are, so a result does not depend on its neighbours, on the tile's shape, or on where a sequence was
// cut: that is what makes step == chunk == sequence bitwise. Rejected: several partial sums per output (faster for one
// row, but the cut points would show), packing the left operand (its broadcasts hit L1 anyway; row pointers give
// masks for free).
#pragma once

#include "linalg/panels.h"
#include "parallel/team.h"

#include <array>

namespace rnnfast::RNNFAST_ISA {

// Tile shapes for panels of N vectors: as many accumulators as the register file holds beside the operands, and four
// rows of three vectors where they are 12, because batches are multiples of four more often than of three. Rejected:
// twelve panels in place of eight for a single row of an Elman layer (slower), six rows of two panels for an Elman
// layer (no difference), four rows of three panels of one vector (faster for some sizes, slower for others).
template <int N> struct Shape {
    static constexpr int budget = RNNFAST_ACCUMULATORS; // 12 of 16 registers, 24 of 32
    static constexpr int rows = N < 3 ? budget / 4 : budget / 3;
    static constexpr int panels(int r) {
        const int q = budget / (r * N), most = r > 1 ? 4 : 8;
        return q > most ? most : q;
    }
    // The panels at once for so many rows, without a division in each step.
    static int fitting(index count) {
        constexpr auto table = [&]<int... r>(std::integer_sequence<int, r...>) {
            return std::array{panels(r + 1)...};
        }(std::make_integer_sequence<int, rows>{});
        return table[std::size_t(count < rows ? count : rows) - 1];
    }
};

// acc[r][q][n] += a(r) * w(q, n): the innermost step of all. The smaller operand waits in registers, the other passes
// through one: 12 sums, 3 operands and that one are the 16 registers of AVX2; the other way round they would be 17. A
// row alone takes its weights from memory.
template <class T, int R, int Q, int N, class Left, class Weight>
RNNFAST_INLINE void multiply_add(vec<T> (&acc)[R][Q][N], Left a, Weight w) {
    if constexpr (R == 1) {
        const vec<T> left = broadcast(a(0));
        RNNFAST_UNROLL for (int q = 0; q < Q; ++q) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) acc[0][q][n] = fma(left, w(q, n), acc[0][q][n]);
        }
    } else if constexpr (R <= Q * N) {
        vec<T> left[R];
        RNNFAST_UNROLL for (int r = 0; r < R; ++r) left[r] = broadcast(a(r));
        RNNFAST_UNROLL for (int q = 0; q < Q; ++q) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) {
                const vec<T> right = w(q, n);
                RNNFAST_UNROLL for (int r = 0; r < R; ++r) add_product(acc[r][q][n], left[r], right);
            }
        }
    } else {
        vec<T> right[Q][N];
        RNNFAST_UNROLL for (int q = 0; q < Q; ++q) { RNNFAST_UNROLL for (int n = 0; n < N; ++n) right[q][n] = w(q, n); }
        RNNFAST_UNROLL for (int r = 0; r < R; ++r) {
            const vec<T> left = broadcast(a(r));
            RNNFAST_UNROLL for (int q = 0; q < Q; ++q) {
                RNNFAST_UNROLL for (int n = 0; n < N; ++n) add_product(acc[r][q][n], left, right[q][n]);
            }
        }
    }
}

// acc[r][q][n] += sum_k row[r][k] * panel[q][k][n]
template <class T, int R, int Q, int N>
RNNFAST_INLINE void accumulate(vec<T> (&acc)[R][Q][N], const T *const *row, index k, const T *panel, index stride) {
    // Four terms in each round of the loop, because that saves a tenth of the instructions. A single row waits for its
    // loads and gains nothing. Rejected: two terms (GCC spills registers), eight (no faster).
    constexpr int terms = R > 1 && RNNFAST_VECTOR_BYTES >= 32 ? 4 : 1;
    const auto add = [&](index i, int j) RNNFAST_LAMBDA {
        multiply_add<T>(
            acc, [&](int r) RNNFAST_LAMBDA { return row[r][i + j]; },
            [&](int q, int n) RNNFAST_LAMBDA { return weight<T>(panel + q * stride, j, N, n); });
    };
    index i = 0;
    if constexpr (terms > 1) {
        for (; i + terms <= k; i += terms, panel += terms * N * lanes<T>) {
            RNNFAST_UNROLL for (int j = 0; j < terms; ++j) add(i, j);
        }
    }
    for (; i < k; ++i, panel += N * lanes<T>) add(i, 0);
}

// The same chains with weights in bfloat16. Rejected: each word loaded once for both of its weights (slower).
template <class T, int R, int Q, int N>
RNNFAST_INLINE void accumulate(vec<T> (&acc)[R][Q][N], const T *const *row, index k, const Pair *panel, index stride) {
    const auto add = [&](index i, auto upper) RNNFAST_LAMBDA {
        multiply_add<T>(
            acc, [&](int r) RNNFAST_LAMBDA { return row[r][i]; },
            [&](int q, int n)
                RNNFAST_LAMBDA { return half<decltype(upper)::value>(load_words(panel + q * stride + n * lanes<T>)); });
    };
    index i = 0;
    for (; i + 1 < k; i += 2, panel += N * lanes<T>) {
        add(i, std::false_type{});
        add(i + 1, std::true_type{});
    }
    if (i < k) add(i, std::false_type{});
}

// Calls f<R, Q>() for the shape that stands in (r, q).
template <int N, int R = Shape<N>::rows, int Q = Shape<N>::panels(R), class F>
RNNFAST_INLINE void with_shape(int r, int q, F &&f) {
    if (r == R && q == Q) return f.template operator()<R, Q>();
    if constexpr (Q > 1) {
        if (r == R) return with_shape<N, R, Q - 1>(r, q, f);
    }
    if constexpr (R > 1) return with_shape<N, R - 1>(r, q, f);
    __builtin_trap(); // a Partition's tiles and each_group's groups have no other shape
}

// A partition of rows into tiles of nearly equal height: `larger` tiles of size + 1, then the others of `size`. So no
// tile is left with a single row that would use a fourth of the registers.
struct Partition {
    index tiles, size, larger;

    Partition(index rows, index height)
        : tiles(rows <= height ? 1 : (rows + height - 1) / height), size(tiles == 1 ? rows : rows / tiles),
          larger(rows - size * tiles) {}
};

// The largest number of vectors in a group: for a single row as many as there are registers, for more rows four panels
// or a bundle's.
constexpr int most_vectors = RNNFAST_ACCUMULATORS, most_of_rows = 4 * widest;
static_assert(most_vectors >= most_of_rows && most_of_rows >= 4 * bundle<4>);
static_assert(Shape<1>::panels(2) <= most_of_rows && 2 * Shape<2>::panels(2) <= most_of_rows &&
              3 * Shape<3>::panels(2) <= most_of_rows);

// The panels that all rows are multiplied with before the next ones are read: those of some whole unit blocks.
struct Group {
    index block, next; // the first block, and that of the group after this one
    int blocks, gates; // vectors of a block
    int width;         // of a panel
    int panels;
    int together; // how many of them one tile takes: as many as there are registers for, a divisor of `panels`
};

// Calls f<W>() with the width of a group's panels, blocks having N vectors.
template <int N, class F> RNNFAST_INLINE void with_width(const Group &group, F f) {
    if constexpr (N <= widest) {
        f.template operator()<N>();
    } else if (group.width == widest) {
        f.template operator()<widest>();
    } else {
        f.template operator()<panel_width<N>(1)>();
    }
}

// Calls body(group) for each group of panels, blocks having N vectors. With `falling` they come last to first: in steps
// that alternate, those used last are still in the cache.
template <int N, class Body>
RNNFAST_INLINE void each_group(Team &team, index rows, Range blocks, bool falling, Body body) {
    static_assert(N * bundle<N> <= most_of_rows,
                  "a group's sums, and its rows packed by outer_product, have no more place");
    const index count = blocks.end - blocks.begin;
    if (rows <= 0 || count <= 0) return;
    const auto each = [&](index groups, auto begin) RNNFAST_LAMBDA {
        for (index i = 0; i < groups; ++i) {
            const index g = falling ? groups - 1 - i : i, after = i + 1 == groups ? g : falling ? g - 1 : g + 1;
            const int size = int(begin(g + 1) - begin(g));
            if (team.stopped(rows * size)) return;
            Group group{blocks.begin + begin(g), blocks.begin + begin(after), size, N, panel_width<N>(size), 0, 0};
            group.panels = group.together = panels_of<N>(size);
            if constexpr (N > widest) {
                with_width<N>(group, [&]<int W>() RNNFAST_LAMBDA {
                    for (const int most = Shape<W>::fitting(rows); group.together > most;) group.together /= 2;
                });
            }
            body(group);
        }
    };
    if constexpr (N > widest) {
        each((count + bundle<N> - 1) / bundle<N>,
             [&](index g) RNNFAST_LAMBDA { return g * bundle<N> < count ? g * bundle<N> : count; });
    } else {
        const Partition split(count, Shape<N>::fitting(rows));
        each(split.tiles,
             [&](index g) RNNFAST_LAMBDA { return g * split.size + (g < split.larger ? g : split.larger); });
    }
}

} // namespace rnnfast::RNNFAST_ISA
