// The two matrix products that everything is made of: rows times packed panels, and rows transposed times rows.
#pragma once

#include "linalg/panels.h"
#include "linalg/tile.h"

namespace rnnfast::RNNFAST_ISA {

// A tile's sums in memory (L1), where products that share their machine code leave them; [r][q][n] for the shape at
// hand.
template <class T> using Sums = vec<T>[RNNFAST_ACCUMULATORS];

// Vector by vector: a memcpy of the whole tile became rep movs through the stack, 270 cycles a tile.
template <class T, int R, int Q, int N, class Loop> RNNFAST_INLINE void on_registers(vec<T> *sums, Loop loop) {
    vec<T> acc[R][Q][N];
    RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
        RNNFAST_UNROLL for (int j = 0; j < Q; ++j) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) acc[i][j][n] = sums[(i * Q + j) * N + n];
        }
    }
    loop(acc);
    RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
        RNNFAST_UNROLL for (int j = 0; j < Q; ++j) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) sums[(i * Q + j) * N + n] = acc[i][j][n];
        }
    }
}

// One copy of the loop per shape, shared by all cells and products.
template <class T, int N>
RNNFAST_SHARED void tile(int r, int q, vec<T> *sums, const T *const *row, Span k, const T *panel, index stride) {
    with_shape<N>(r, q, [&]<int R, int Q>() RNNFAST_LAMBDA {
        on_registers<T, R, Q, N>(sums, [&](auto &acc) RNNFAST_LAMBDA { accumulate<T>(acc, row, k, panel, stride); });
    });
}
// start(row, panel, n) gives where the chain of one output vector begins, row(i) the left operand's row, and
// finish(row, panel, sums) takes the panel's N sums.
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void product(Team &team, Range rows, Range panels, Row row, Span k, const T *weights, index stride,
                            Start start, Finish finish) {
    const auto pass = [](index, int) RNNFAST_LAMBDA {};
    sweep<N>(team, rows, panels, pass, [&](index first, index panel, int r, int q) RNNFAST_LAMBDA {
        Sums<T> sums;
        const T *left[Shape<N>::rows] = {};
        for (int i = 0; i < r; ++i) {
            left[i] = row(first + i);
            for (int j = 0; j < q; ++j) {
                for (int n = 0; n < N; ++n) sums[(i * q + j) * N + n] = start(first + i, panel + j, n);
            }
        }
        tile<T, N>(r, q, sums, left, k, weights + panel * stride, stride);
        for (int i = 0; i < r; ++i) {
            for (int j = 0; j < q; ++j) finish(first + i, panel + j, sums + (i * q + j) * N);
        }
    });
}

// Two products in one chain per output, finished where they end: for a step, whose gates are activated in registers.
//   start(row, panel, n)      where a chain begins; it runs over the left operand x(row) with right operand `first`
//   turn(row, panel, sums)    between the two
//                             then over h(row) with right operand `second`
//   activate(sums)            of each output of the tile
//   finish(row, panel, sums)  of each output of the tile
// All is inlined into each tile shape, so that the sums never leave the registers. It costs a copy of the gate
// arithmetic per shape (compile time, code size), so only here. Rejected: the sums of some 24 outputs left in L1 and
// activated in one go (LSTM the same, Elman 5 % slower), a tile's rows side by side operation by operation (the same),
// one division for i * g and one for o * tanh(c) (the same: divisions are not what the activations wait for), the next
// panel prefetched here or in the loops (nothing gained, up to 7 % lost).
template <int N, class T, class W, class X, class H, class Start, class Turn, class Activate, class Finish>
RNNFAST_INLINE void fused_product(Team &team, Range rows, Range panels, bool falling, X x, Right<W> first, H h,
                                  Right<W> second, Start start, Turn turn, Activate activate, Finish finish) {
    const auto pass = [](index, int) RNNFAST_LAMBDA {};
    const auto one = [&](index row, index panel, int r, int q) RNNFAST_LAMBDA {
        with_shape<N>(r, q, [&]<int R, int Q>() {
            vec<T> acc[R][Q][N];
            const T *left[R];
            const auto each = [&](auto f) RNNFAST_LAMBDA {
                RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
                    RNNFAST_UNROLL for (int j = 0; j < Q; ++j) f(row + i, panel + j, acc[i][j]);
                }
            };
            const auto multiply = [&](auto operand, const Right<W> &right) RNNFAST_LAMBDA {
                RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] = operand(row + i);
                accumulate<T>(acc, left, contiguous(right.k), right.data + panel * right.stride, right.stride);
            };
            each([&](index i, index p, vec<T>(&sum)[N])
                     RNNFAST_LAMBDA { RNNFAST_UNROLL for (int n = 0; n < N; ++n) sum[n] = start(i, p, n); });
            if (first.k) multiply(x, first);
            each(turn);
            multiply(h, second);
            each([&](index, index, vec<T>(&sum)[N]) RNNFAST_LAMBDA {
                activate(sum);
                if constexpr (N > 1) { // or GCC moves them behind the branches in the finish() of the row before
                    RNNFAST_UNROLL for (int n = 0; n < N; ++n) sum[n] = in_register(sum[n]);
                }
            });
            each(finish);
        });
    };
    sweep<N>(team, rows, panels, pass, one, falling);
}

// How many rows one pass of outer_product takes: their right operand's panel is to stay in L1/L2, and each pass reads
// and writes the whole result once. How many of the left operand's columns.
constexpr index outer_rows = 256, outer_columns = 512;

// What outer_product needs besides, carved once per thread.
template <class T> struct OuterScratch {
    T *packed; // the right operand of a group of panels
    T *turned; // the left operand, columns as rows [column][outer_rows]

    static OuterScratch carve(Carver &carver, int gates, index k) {
        constexpr index V = lanes<T>;
        const index columns = k < outer_columns ? blocks<T>(k) * V : outer_columns;
        return {carver.take<T>(outer_rows * 8 * gates * V), carver.take<T>(columns * outer_rows)};
    }
};

// A square of vectors, rows for columns: swaps halves, quarters, ... of neighbours at the distance of the width.
template <class T, int width = lanes<T> / 2> RNNFAST_INLINE void transpose(vec<T> (&v)[lanes<T>]) {
    if constexpr (width > 0) {
        unroll<lanes<T>>([&](auto i) RNNFAST_LAMBDA {
            if constexpr ((i & width) == 0) {
                const vec<T> a = v[i], b = v[i + width];
                [&]<int... l>(std::integer_sequence<int, l...>) RNNFAST_LAMBDA {
                    v[i] = __builtin_shufflevector(a, b, (l & width ? lanes<T> + l - width : l)...);
                    v[i + width] = __builtin_shufflevector(a, b, (l & width ? lanes<T> + l : l + width)...);
                }(std::make_integer_sequence<int, lanes<T>>{});
            }
        });
        transpose<T, width / 2>(v);
    }
}

// turned[c][m] = left[m][column + c]; beyond `rows` up to a whole vector it is 0.
template <class T> RNNFAST_SHARED void turn(const T *const *left, index rows, index column, index width, T *turned) {
    constexpr int V = lanes<T>;
    for (index c = 0; c < width; c += V) {
        for (index m = 0; m < rows; m += V) {
            vec<T> v[V];
            RNNFAST_UNROLL for (int j = 0; j < V; ++j) {
                v[j] = m + j < rows ? load(left[m + j] + column + c, width - c) : vec<T>{};
            }
            transpose<T>(v);
            const index n = width - c < V ? width - c : V;
            for (index j = 0; j < n; ++j) store(turned + (c + j) * outer_rows + m, v[j]);
        }
    }
}

// result[panel][k][n] += sum_m left[m][k] * d(m, panel, n) and bias[panel * bias_stride + n] += sum_m d(m, panel, n), m
// rising. With left null the left operand is one-hot: ids[m] is the k that row m adds to. The left operand is turned
// first, so that a tile reads its columns as neighbours. Rejected: broadcasts from the rows as they lie (a cache line
// for each, and rows at a power of two share few sets: 76 % of peak against 90).
template <int N, class T, class D>
RNNFAST_INLINE void outer_product(Team &team, index count, const T *const *left, const std::int64_t *ids, index k,
                                  Range panels, D d, T *result, T *bias, index bias_stride,
                                  const OuterScratch<T> &scratch) {
    constexpr int V = lanes<T>;
    for (index first = 0; first < count; first += outer_rows) {
        const index rows = count - first < outer_rows ? count - first : outer_rows;
        for (index column = 0; column < k; column += outer_columns) {
            const index width = k - column < outer_columns ? k - column : outer_columns;
            index group = 0;
            const auto enter = [&](index panel, int many) RNNFAST_LAMBDA {
                group = panel;
                for (index q = 0; q < many; ++q) {
                    T *const to = scratch.packed + q * rows * N * V, *const sums = bias + (panel + q) * bias_stride;
                    vec<T> sum[N];
                    unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = load(sums + n * V); });
                    for (index m = 0; m < rows; ++m) {
                        unroll<N>([&](auto n) RNNFAST_LAMBDA {
                            const vec<T> v = d(first + m, panel + q, int(n));
                            store(to + (m * N + n) * V, v);
                            sum[n] = sum[n] + v;
                        });
                    }
                    if (column > 0) continue; // it has been added
                    unroll<N>([&](auto n) RNNFAST_LAMBDA { store(sums + n * V, sum[n]); });
                }
            };
            if (!left) {
                for (index p = panels.begin; p < panels.end && !team.stopped(rows); ++p) {
                    enter(p, 1);
                    for (index m = 0; m < rows; ++m) {
                        T *const to = result + (p * k + ids[first + m]) * N * V;
                        unroll<N>([&](auto n) RNNFAST_LAMBDA {
                            store(to + n * V, load(to + n * V) + load(scratch.packed + (m * N + n) * V));
                        });
                    }
                }
                break;
            }
            turn(left + first, rows, column, width, scratch.turned);
            sweep<N>(team, {0, width}, panels, enter, [&](index c, index panel, int r, int q) RNNFAST_LAMBDA {
                Sums<T> sums;
                const T *row[Shape<N>::rows] = {};
                const auto at = [&](int i, int j)
                                    RNNFAST_LAMBDA { return result + ((panel + j) * k + column + c + i) * N * V; };
                for (int i = 0; i < r; ++i) {
                    row[i] = scratch.turned + (c + i) * outer_rows;
                    for (int j = 0; j < q; ++j) __builtin_memcpy(&sums[(i * q + j) * N], at(i, j), N * sizeof(vec<T>));
                }
                tile<T, N>(r, q, sums, row, contiguous(rows), scratch.packed + (panel - group) * rows * N * V,
                           rows * N * V);
                for (int i = 0; i < r; ++i) {
                    for (int j = 0; j < q; ++j) __builtin_memcpy(at(i, j), &sums[(i * q + j) * N], N * sizeof(vec<T>));
                }
            });
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
