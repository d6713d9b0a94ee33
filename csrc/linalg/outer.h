// Rows transposed times rows: the gradients of weights.
#pragma once

#include "linalg/products.h"
#include "linalg/sums.h"

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

// A bias has so many rows of a chain summed before the sum becomes a double.
constexpr index narrow_rows = 16;

// The right operand of some panels of a group for some chains, [panel][row][n], and, if `counting`, the sums of the
// chains' rows added to the bias.
template <int N, int W, class T, class D>
RNNFAST_INLINE void pack_right(const Group &group, Range panels, const Chains &chains, Range some, D d, T *to,
                               double *bias, index bias_stride, bool counting) {
    constexpr int V = lanes<T>;
    for (index j = panels.begin; j < panels.end; ++j) {
        const auto each = [&](auto f) RNNFAST_LAMBDA {
            unroll<W>([&](auto n) RNNFAST_LAMBDA {
                of_vector<N, W>(group, j, n, [&](index block, int gate) RNNFAST_LAMBDA { f(n, block, gate); });
            });
        };
        for (index chain = some.begin; chain < some.end; ++chain) {
            for (index m = chains[chain].begin; m < chains[chain].end;) {
                const index left = chains[chain].end - m, end = m + (left < narrow_rows ? left : narrow_rows);
                vec<T> sum[W] = {};
                for (; m < end; ++m, to += W * V) {
                    each([&](auto n, index block, int gate) RNNFAST_LAMBDA {
                        const vec<T> v = d(m, block, gate);
                        store(to + n * V, v);
                        sum[n] = sum[n] + v;
                    });
                }
                if (!counting) continue;
                each([&](auto n, index block, int gate)
                         RNNFAST_LAMBDA { add_wide(bias + block * bias_stride + gate * V, sum[n]); });
            }
        }
    }
}

// The rows of some chains, those of one id in one chain together: `row` counts from the first of all, `ends` says where
// an id's rows end. An id's rows keep their order, and ids come as they first occur.
struct Occurrences {
    std::uint16_t row[outer_rows];
    bool ends[outer_rows];

    void find(const std::int64_t *ids, const Chains &chains, Range some) {
        const index first = chains[some.begin].begin;
        index count = 0;
        for (index chain = some.begin; chain < some.end; ++chain) {
            const Range rows = chains[chain];
            add(ids + (rows.begin - first), rows.end - rows.begin, rows.begin - first, count);
        }
    }

  private:
    void add(const std::int64_t *ids, index rows, index first, index &count) {
        constexpr int bits = 8; // a hash table twice as large as a chain
        static_assert(chain_rows <= 1 << (bits - 1));
        signed char slot[1 << bits], next[chain_rows], tail[chain_rows], leader[chain_rows];
        int leaders = 0;
        for (signed char &empty : slot) empty = -1;
        for (index i = 0; i < rows; ++i) {
            index h = index((std::uint64_t(ids[i]) * 0x9E3779B97F4A7C15u) >> (64 - bits));
            while (slot[h] >= 0 && ids[int(slot[h])] != ids[i]) h = (h + 1) & ((1 << bits) - 1);
            const auto own = static_cast<signed char>(i);
            next[i] = -1;
            if (slot[h] < 0) {
                slot[h] = leader[leaders++] = own;
            } else {
                next[int(tail[int(slot[h])])] = own;
            }
            tail[int(slot[h])] = own;
        }
        for (int l = 0; l < leaders; ++l) {
            for (int i = leader[l]; i >= 0; i = next[i], ++count) {
                row[count] = static_cast<std::uint16_t>(first + i);
                ends[count] = next[i] < 0;
            }
        }
    }
};

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
// gate), m rising, chain by chain. With left null the left operand is one-hot: ids[m] is the k that row m adds to. The
// left operand is turned first, so that a tile reads its columns as neighbours. Rejected: broadcasts from the rows as
// they lie (a cache line for each, and rows at a power of two share few sets of the cache), threads that have whole
// blocks (an LSTM's come by three: of 8 blocks one of two threads had 5).
template <int N, class T, class D>
RNNFAST_INLINE void outer_product(Team &team, const Chains &chains, const T *const *left, const std::int64_t *ids,
                                  index k, index blocks, D d, T *result, double *bias, index bias_stride,
                                  const OuterScratch<T> &scratch) {
    constexpr int V = lanes<T>;
    for (Range some{0, 0}; some.begin < chains.count(); some.begin = some.end) {
        some.end = chains.until(some.begin, outer_rows);
        const index first = chains[some.begin].begin, rows = chains[some.end - 1].end - first;
        Occurrences occurrences;
        if (!left) occurrences.find(ids + first, chains, some);
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
                    pack_right<N, W>(group, mine, chains, some, d, scratch.packed, bias, bias_stride, column == 0);
                    if (!left) {
                        for (index j = 0; j < panels; ++j) {
                            const auto term = [&](index i, int n) RNNFAST_LAMBDA {
                                return load(scratch.packed + ((j * rows + occurrences.row[i]) * W + n) * V);
                            };
                            for (index i = 0; i < rows; ++i) {
                                T *const to = at(ids[first + occurrences.row[i]], j, 0);
                                vec<T> sum[W];
                                unroll<W>([&](auto n) RNNFAST_LAMBDA { sum[n] = term(i, n); });
                                while (!occurrences.ends[i]) {
                                    ++i;
                                    unroll<W>([&](auto n) RNNFAST_LAMBDA { sum[n] = sum[n] + term(i, n); });
                                }
                                unroll<W>([&](auto n) RNNFAST_LAMBDA { store(to + n * V, load(to + n * V) + sum[n]); });
                            }
                        }
                        return;
                    }
                    // A part of a group may be fewer than pass at once, or leave a rest.
                    const int most = group.together, together = panels < most ? panels : panels % most ? 1 : most;
                    const Group own{0, 0, panels, W, W, panels, together};
                    in_parts<T>(
                        {0, width},
                        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                            each_output<W, T>(part, own, sums, [&](index c, index j, vec<T> *sum) RNNFAST_LAMBDA {
                                unroll<W>([&](auto n) RNNFAST_LAMBDA { sum[n] = load(at(column + c, j, n)); });
                            });
                            for (index chain = some.begin; chain < some.end; ++chain) {
                                const index begin = chains[chain].begin - first, end = chains[chain].end - first;
                                const auto column_of = [&](index c) RNNFAST_LAMBDA -> const T * {
                                    return scratch.turned + c * outer_rows + begin;
                                };
                                const T *const right = scratch.packed + begin * W * V;
                                add_in_pieces<W, T>(part, sums, own,
                                                    Term<W, decltype(column_of), T>{column_of, contiguous(end - begin),
                                                                                    right, rows * V},
                                                    right, Chain::apart);
                            }
                        },
                        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                            each_output<W, T>(part, own, sums, [&](index c, index j, const vec<T> *sum) RNNFAST_LAMBDA {
                                unroll<W>([&](auto n) RNNFAST_LAMBDA { store(at(column + c, j, n), sum[n]); });
                            });
                        });
                });
            });
            if (!left) break;
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
