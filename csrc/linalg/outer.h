// Rows transposed times rows: the gradients of weights.
#pragma once

#include "linalg/products.h"

namespace rnnfast::RNNFAST_ISA {

// How many rows one pass of outer_product takes: few enough that their right operand's panel stays in L1 or L2, many
// enough because each pass reads and writes the whole result once. And how many of the left operand's columns.
constexpr index outer_rows = RNNFAST_VECTOR_BYTES == 64 ? 512 : 256, outer_columns = 512;

// What outer_product needs besides, carved once per thread.
template <class T> struct OuterScratch {
    T *packed; // the right operand of a group of panels
    T *turned; // the left operand, columns as rows [column][outer_rows]

    static OuterScratch carve(Carver &carver, index k) {
        constexpr index V = lanes<T>;
        const index columns = k < outer_columns ? blocks<T>(k) * V : outer_columns;
        return {carver.take<T>(outer_rows * most_vectors * V), carver.take<T>(columns * outer_rows)};
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

#define RNNFAST_TURN(begin, T) begin void turn<T>(const T *const *, index, index, index, T *);
#ifndef RNNFAST_DEFINES_PRODUCTS
RNNFAST_TURN(extern template, RNNFAST_REAL) // products.cpp has it
#endif

// f(block, n) for vector n of a panel of W vectors.
template <int N, int W, class F> RNNFAST_INLINE auto of_vector(const Group &group, index panel, int n, F f) {
    if constexpr (N == W) {
        return f(group.block + panel, n);
    } else {
        const index v = panel * W + n;
        return f(group.block + v / N, int(v % N));
    }
}

// The right operand of some panels of a group, [panel][row][n], and, if `counting`, its sums over the rows added to the
// bias.
template <int N, int W, class T, class D>
RNNFAST_INLINE void pack_right(const Group &group, Range panels, Range rows, D d, T *to, T *bias, index bias_stride,
                               bool counting) {
    constexpr int V = lanes<T>;
    for (index j = panels.begin; j < panels.end; ++j) {
        const auto each = [&](auto f) RNNFAST_LAMBDA {
            unroll<W>([&](auto n) RNNFAST_LAMBDA {
                of_vector<N, W>(group, j, n, [&](index block, int gate) RNNFAST_LAMBDA { f(n, block, gate); });
            });
        };
        vec<T> sum[W];
        const auto at = [&](index block, int gate) RNNFAST_LAMBDA { return bias + block * bias_stride + gate * V; };
        each([&](auto n, index block, int gate) RNNFAST_LAMBDA { sum[n] = load(at(block, gate)); });
        for (index m = rows.begin; m < rows.end; ++m, to += W * V) {
            each([&](auto n, index block, int gate) RNNFAST_LAMBDA {
                const vec<T> v = d(m, block, gate);
                store(to + n * V, v);
                sum[n] = sum[n] + v;
            });
        }
        if (!counting) continue;
        each([&](auto n, index block, int gate) RNNFAST_LAMBDA { store(at(block, gate), sum[n]); });
    }
}

// The panels of a group that are this thread's: those whose first vector is in its share of all vectors.
template <int N, int W> RNNFAST_INLINE Range share_panels(const Team &team, const Group &group, index blocks) {
    const Range vectors = team.share(blocks * N);
    const auto panel = [&](index vector) RNNFAST_LAMBDA {
        const index behind = (vector - group.block * N + W - 1) / W;
        return vector <= group.block * N ? 0 : behind < group.panels ? behind : index(group.panels);
    };
    return {panel(vectors.begin), panel(vectors.end)};
}

// result[panel][k][n] += sum_m left[m][k] * d(m, block, gate) and bias[block * bias_stride + gate] += sum_m d(m, block,
// gate), m rising. With left null the left operand is one-hot: ids[m] is the k that row m adds to. The left operand is
// turned first, so that a tile reads its columns as neighbours. Rejected: broadcasts from the rows as they lie (a cache
// line for each, and rows at a power of two share few sets of the cache), threads that have whole blocks (an LSTM's
// come by three: of 8 blocks one of two threads had 5).
template <int N, class T, class D>
RNNFAST_INLINE void outer_product(Team &team, index count, const T *const *left, const std::int64_t *ids, index k,
                                  index blocks, D d, T *result, T *bias, index bias_stride,
                                  const OuterScratch<T> &scratch) {
    constexpr int V = lanes<T>;
    for (index first = 0; first < count; first += outer_rows) {
        const index rows = count - first < outer_rows ? count - first : outer_rows;
        for (index column = 0; column < k; column += outer_columns) {
            const index width = k - column < outer_columns ? k - column : outer_columns;
            if (left) turn(left + first, rows, column, width, scratch.turned);
            each_group<N>(team, left ? width : rows, {0, blocks}, false, [&](const Group &group) RNNFAST_LAMBDA {
                with_width<N>(group, [&]<int W>() RNNFAST_LAMBDA {
                    const Range mine = share_panels<N, W>(team, group, blocks);
                    const int panels = int(mine.end - mine.begin);
                    if (panels == 0) return;
                    const auto at = [&](index c, index panel, int n) RNNFAST_LAMBDA {
                        return result + (group.block * N * k + ((mine.begin + panel) * k + c) * W + n) * V;
                    };
                    pack_right<N, W>(group, mine, {first, first + rows}, d, scratch.packed, bias, bias_stride,
                                     column == 0);
                    if (!left) {
                        for (index m = 0; m < rows; ++m) {
                            for (index j = 0; j < panels; ++j) {
                                T *const to = at(ids[first + m], j, 0);
                                unroll<W>([&](auto n) RNNFAST_LAMBDA {
                                    const T *const term = scratch.packed + ((j * rows + m) * W + n) * V;
                                    store(to + n * V, load(to + n * V) + load(term));
                                });
                            }
                        }
                        return;
                    }
                    // A part of a group may be fewer than pass at once, or leave a rest.
                    const int most = group.together, together = panels < most ? panels : panels % most ? 1 : most;
                    group_product<W, T>(
                        {0, width}, Group{0, 0, panels, W, panels, together},
                        term<W, T>([&](index c) RNNFAST_LAMBDA -> const T * { return scratch.turned + c * outer_rows; },
                                   contiguous(rows), static_cast<const T *>(scratch.packed)),
                        [&](index c, index j, int n) RNNFAST_LAMBDA { return load(at(column + c, j, n)); },
                        [&](index c, index j, const vec<T> *sums) RNNFAST_LAMBDA {
                            unroll<W>([&](auto n) RNNFAST_LAMBDA { store(at(column + c, j, n), sums[n]); });
                        });
                });
            });
            if (!left) break;
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
