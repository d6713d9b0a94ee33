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

// One copy of the two loops per shape, shared by all cells and products.
template <class T, int N>
RNNFAST_SHARED void tile(int r, int q, vec<T> *sums, const T *const *row, Span k, const T *panel, index stride) {
    with_shape<N>(r, q, [&]<int R, int Q>() RNNFAST_LAMBDA {
        on_registers<T, R, Q, N>(sums, [&](auto &acc) RNNFAST_LAMBDA { accumulate<T>(acc, row, k, panel, stride); });
    });
}
template <class T, int N>
RNNFAST_SHARED void tile_outer(int r, int q, vec<T> *sums, const T *const *row, index column, index count,
                               const T *panel, index stride) {
    with_shape<N>(r, q, [&]<int R, int Q>() RNNFAST_LAMBDA {
        on_registers<T, R, Q, N>(
            sums, [&](auto &acc) RNNFAST_LAMBDA { accumulate_outer<T>(acc, row, column, count, panel, stride); });
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

// The same with finish inlined into each tile shape, so that the sums never leave the registers: for the recurrent side
// of forward, where the gates are finished. It costs a copy of the gate arithmetic per shape (compile time, code size),
// so only there.
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void fused_product(Team &team, Range rows, Range panels, Row row, Span k, const T *weights, index stride,
                                  Start start, Finish finish) {
    const auto pass = [](index, int) RNNFAST_LAMBDA {};
    sweep<N>(team, rows, panels, pass, [&](index first, index panel, int r, int q) RNNFAST_LAMBDA {
        with_shape<N>(r, q, [&]<int R, int Q>() {
            vec<T> acc[R][Q][N];
            const T *left[R];
            RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
                left[i] = row(first + i);
                RNNFAST_UNROLL for (int j = 0; j < Q; ++j) {
                    RNNFAST_UNROLL for (int n = 0; n < N; ++n) acc[i][j][n] = start(first + i, panel + j, n);
                }
            }
            accumulate<T>(acc, left, k, weights + panel * stride, stride);
            RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
                RNNFAST_UNROLL for (int j = 0; j < Q; ++j) finish(first + i, panel + j, acc[i][j]);
            }
        });
    });
}

// How many rows one pass of outer_product takes: their right operand's panel is to stay in L1/L2, and each pass reads
// and writes the whole result once.
constexpr index outer_rows = 256;

// result[panel][k][n] += sum_m left[m][k] * d(m, panel, n) and bias[panel * bias_stride + n] += sum_m d(m, panel, n), m
// rising. With left null the left operand is one-hot: ids[m] is the k that row m adds to. `packed` holds outer_rows * 8
// * N vectors.
template <int N, class T, class D>
RNNFAST_INLINE void outer_product(Team &team, index count, const T *const *left, const std::int64_t *ids, index k,
                                  Range panels, D d, T *result, T *bias, index bias_stride, T *packed) {
    constexpr int V = lanes<T>;
    for (index first = 0; first < count; first += outer_rows) {
        const index rows = count - first < outer_rows ? count - first : outer_rows;
        index group = 0;
        const auto enter = [&](index panel, int many) RNNFAST_LAMBDA {
            group = panel;
            for (index q = 0; q < many; ++q) {
                T *const to = packed + q * rows * N * V;
                vec<T> sum[N];
                unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = load(bias + (panel + q) * bias_stride + n * V); });
                for (index m = 0; m < rows; ++m) {
                    unroll<N>([&](auto n) RNNFAST_LAMBDA {
                        const vec<T> v = d(first + m, panel + q, int(n));
                        store(to + (m * N + n) * V, v);
                        sum[n] = sum[n] + v;
                    });
                }
                unroll<N>([&](auto n) RNNFAST_LAMBDA { store(bias + (panel + q) * bias_stride + n * V, sum[n]); });
            }
        };
        if (!left) {
            for (index p = panels.begin; p < panels.end && !team.stopped(rows); ++p) {
                enter(p, 1);
                for (index m = 0; m < rows; ++m) {
                    T *const to = result + (p * k + ids[first + m]) * N * V;
                    unroll<N>([&](auto n) RNNFAST_LAMBDA {
                        store(to + n * V, load(to + n * V) + load(packed + (m * N + n) * V));
                    });
                }
            }
            continue;
        }
        sweep<N>(team, {0, k}, panels, enter, [&](index column, index panel, int r, int q) RNNFAST_LAMBDA {
            Sums<T> sums;
            const auto at = [&](int i, int j)
                                RNNFAST_LAMBDA { return result + ((panel + j) * k + column + i) * N * V; };
            for (int i = 0; i < r; ++i) {
                for (int j = 0; j < q; ++j) __builtin_memcpy(&sums[(i * q + j) * N], at(i, j), N * sizeof(vec<T>));
            }
            tile_outer<T, N>(r, q, sums, left + first, column, rows, packed + (panel - group) * rows * N * V,
                             rows * N * V);
            for (int i = 0; i < r; ++i) {
                for (int j = 0; j < q; ++j) __builtin_memcpy(at(i, j), &sums[(i * q + j) * N], N * sizeof(vec<T>));
            }
        });
    }
}

} // namespace rnnfast::RNNFAST_ISA
