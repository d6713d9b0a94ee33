// The register tile: R rows times Q panels of N vectors, every sum one chain of fma over k in rising order.
//
// All of the package's arithmetic that is not pointwise runs through the two loops below. A chain has one accumulator,
// whatever R and Q are, so a result does not depend on its neighbours, on the tile's shape, or on where a sequence was
// cut: that is what makes step == chunk == sequence bitwise. Rejected: several partial sums per output (faster for one
// row, but the cut points would show), packing the left operand (its broadcasts hit L1 anyway; row pointers give
// masks for free), unrolling over k by 2 or 4 (no difference).
#pragma once

#include "linalg/panels.h"
#include "parallel/team.h"

namespace rnnfast::RNNFAST_ISA {

constexpr int largest_power_of_two(int n) { return n < 2 ? 1 : 2 * largest_power_of_two(n / 2); }

// Tile shapes for N vectors per panel and k: as many accumulators as the register file holds beside the operands. The
// rows of one sweep share a number of panels, halved where panels run out; a row alone has what is left.
template <int N> struct Shape {
    static constexpr int budget = RNNFAST_ACCUMULATORS; // 12 of 16 registers, 24 of 32
    static constexpr int rows = N == 3 ? budget / 3 : budget / 4;
    static constexpr int panels(int r) {
        const int q = r > 1 ? largest_power_of_two(budget / (r * N)) : budget / N;
        return q > 8 ? 8 : q;
    }
};

// k runs over `outer` stretches of `inner` neighbours, `step` elements apart (gates of one unit lie together in a tape
// row, beside slots that this product leaves out).
struct Span {
    index outer, inner, step;
};
RNNFAST_INLINE Span contiguous(index k) { return {1, k, 0}; }

// acc[r][q][n] += a(r) * w(q, n): the innermost step of all. The smaller operand waits in registers, the other passes
// through one: 12 sums, 3 operands and that one are the 16 registers of AVX2; the other way round they would be 17.
template <class T, int R, int Q, int N, class Left, class Weight>
RNNFAST_INLINE void multiply_add(vec<T> (&acc)[R][Q][N], Left a, Weight w) {
    if constexpr (R <= Q * N) {
        vec<T> left[R];
        RNNFAST_UNROLL for (int r = 0; r < R; ++r) left[r] = broadcast(a(r));
        RNNFAST_UNROLL for (int q = 0; q < Q; ++q) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) {
                const vec<T> right = R > 1 ? in_register(w(q, n)) : w(q, n);
                RNNFAST_UNROLL for (int r = 0; r < R; ++r) acc[r][q][n] = fma(left[r], right, acc[r][q][n]);
            }
        }
    } else {
        vec<T> right[Q][N];
        RNNFAST_UNROLL for (int q = 0; q < Q; ++q) { RNNFAST_UNROLL for (int n = 0; n < N; ++n) right[q][n] = w(q, n); }
        RNNFAST_UNROLL for (int r = 0; r < R; ++r) {
            const vec<T> left = broadcast(a(r));
            RNNFAST_UNROLL for (int q = 0; q < Q; ++q) {
                RNNFAST_UNROLL for (int n = 0; n < N; ++n) acc[r][q][n] = fma(left, right[q][n], acc[r][q][n]);
            }
        }
    }
}

// acc[r][q][n] += sum_k row[r][k] * panel[q][k][n]
template <class T, int R, int Q, int N>
RNNFAST_INLINE void accumulate(vec<T> (&acc)[R][Q][N], const T *const *row, Span k, const T *panel, index stride) {
    for (index o = 0; o < k.outer; ++o) {
        const index at = o * k.step;
        for (index i = at; i < at + k.inner; ++i, panel += N * lanes<T>) {
            multiply_add<T>(
                acc, [&](int r) RNNFAST_LAMBDA { return row[r][i]; },
                [&](int q, int n) RNNFAST_LAMBDA { return weight<T>(panel + q * stride, 0, N, n); });
        }
    }
}

// The same chains with weights in bfloat16. Rejected: each word loaded once for both of its weights (10 % slower).
template <class T, int R, int Q, int N>
RNNFAST_INLINE void accumulate(vec<T> (&acc)[R][Q][N], const T *const *row, Span k, const Pair *panel, index stride) {
    const auto add = [&](index i, auto upper) RNNFAST_LAMBDA {
        multiply_add<T>(
            acc, [&](int r) RNNFAST_LAMBDA { return row[r][i]; },
            [&](int q, int n)
                RNNFAST_LAMBDA { return half<decltype(upper)::value>(load_words(panel + q * stride + n * lanes<T>)); });
    };
    index i = 0;
    for (; i + 1 < k.inner; i += 2, panel += N * lanes<T>) {
        add(i, std::false_type{});
        add(i + 1, std::true_type{});
    }
    if (i < k.inner) add(i, std::false_type{});
}
// Calls f<R, Q>() for the shape that stands in (r, q).
template <int N, int R = Shape<N>::rows, int Q = Shape<N>::panels(R), class F>
RNNFAST_INLINE void with_shape(int r, int q, F &&f) {
    if (r == R && q == Q) return f.template operator()<R, Q>();
    if constexpr (Q > 1) {
        if (r == R) return with_shape<N, R, R == 1 ? Q - 1 : Q / 2>(r, q, f);
    }
    if constexpr (R > 1) return with_shape<N, R - 1>(r, q, f);
    __builtin_trap(); // sweep() asks for no other shape
}

// Calls body(row, panel, r, q) so that every (row, panel) of the ranges is met once in a tile of r x q; enter(panel, q)
// before each group of panels, which is the outer loop: a panel stays in L1 while the rows pass. Rows are dealt to
// tiles as evenly as they go, so no tile is left with one row for which a fourth of the registers would do. With
// `falling` the panels come last to first: in steps that alternate, those used last are still in the cache.
template <int N, class Enter, class Body>
RNNFAST_INLINE void sweep(Team &team, Range rows, Range panels, Enter enter, Body body, bool falling = false) {
    const index many = rows.end - rows.begin;
    if (many <= 0) return;
    const bool single = many <= Shape<N>::rows; // spares a single step the divisions
    const index height = single ? many : Shape<N>::rows;
    const index tiles = single ? 1 : (many + height - 1) / height, size = single ? many : many / tiles;
    const index larger = many - size * tiles;
    int q = Shape<N>::panels(int(height));
    for (index left = panels.end - panels.begin; left > 0 && !team.stopped(many * q); left -= q) {
        while (q > left) q = many == 1 ? int(left) : q / 2;
        const index panel = falling ? panels.begin + left - q : panels.end - left;
        enter(panel, q);
        index row = rows.begin;
        for (index t = 0; t < tiles; ++t) {
            const int r = int(size) + (t < larger);
            body(row, panel, r, q);
            row += r;
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
