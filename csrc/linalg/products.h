// The two matrix products that everything is made of: rows times packed panels, and rows transposed times rows.
#pragma once

#include "linalg/panels.h"
#include "linalg/tile.h"

namespace rnnfast::RNNFAST_ISA {

// A tile's sums pass through memory (L1), where one copy of the loop per shape serves all cells and products.
// Vector by vector: a memcpy of the whole tile became rep movs through the stack, 270 cycles a tile.
template <class T, int R, int Q, int N, class Loop>
RNNFAST_INLINE void on_registers(vec<T> *sums, index pitch, Loop loop) {
    vec<T> acc[R][Q][N];
    RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
        RNNFAST_UNROLL for (int j = 0; j < Q; ++j) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) acc[i][j][n] = sums[i * pitch + j * N + n];
        }
    }
    loop(acc);
    RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
        RNNFAST_UNROLL for (int j = 0; j < Q; ++j) {
            RNNFAST_UNROLL for (int n = 0; n < N; ++n) sums[i * pitch + j * N + n] = acc[i][j][n];
        }
    }
}

// A piece of a group of panels, which stays in L1 beside the sums and rows of the tiles that pass. Half as much costs 3
// to 6 % backward (each piece costs a tile some 30 cycles) and 1 to 3 % for an LSTM of H = 512; half as much again
// costs that LSTM 8 % on one thread, 18 on two.
constexpr index piece_bytes = 16384;
// From here on a step's panels come in pieces: 8 % more for H = 512, where a panel (128 KB), passing once for each
// tile, takes all that L2 gives, and comes from L3 while everybody waits. Below, sums in registers win by 2 to 6 %.
constexpr index long_bytes = 49152;

// Asks for the next piece of q panels, a bit with each tile that works on this one. Without it pieces gain nothing.
template <class W> struct Coming {
    const W *place;
    index bit, stride; // elements for each tile, and from panel to panel

    RNNFAST_INLINE void ask(int q) {
        constexpr index line = 64 / index(sizeof(W));
        for (int j = 0; j < q; ++j) {
            for (index i = 0; i < bit; i += line) __builtin_prefetch(place + j * stride + i, 0, 2);
        }
        place += bit;
    }
};

// sums[row][q][n] += rows times q panels, rows of sums `pitch` vectors apart. Where several tiles of rows pass, k comes
// in pieces of the panels that stay in L1 meanwhile, and the next piece is asked for: L3 and L2 have the time of all
// tiles to send it. `next` is what the next call multiplies with.
template <class T, int N, class W>
RNNFAST_SHARED void multiply(vec<T> *sums, index pitch, const T *const *row, index rows, int q, Span k, const W *panel,
                             index stride, const W *next) {
    const Deal deal(rows, Shape<N>::rows);
    const index piece = deal.tiles > 2 ? k.piece(piece_bytes / (q * N * RNNFAST_VECTOR_BYTES)) : k.units();
    const auto start = [&](index unit) RNNFAST_LAMBDA { return panel + depth<W>(k.depth(unit)) * N * lanes<T>; };
    for (index begin = 0; begin < k.units(); begin += piece) {
        const W *const weights = start(begin);
        const bool last = begin + piece >= k.units();
        Coming<W> coming{last ? next : start(begin + piece), 0, stride};
        if (piece < k.units()) coming.bit = (start(piece) - panel + deal.tiles - 1) / deal.tiles;
        const Span part = k.part(begin, piece);
        const index offset = k.offset(begin);
        index first = 0;
        const auto tiles = [&](index count, int r) RNNFAST_LAMBDA {
            with_shape<N>(r, q, [&]<int R, int Q>() RNNFAST_LAMBDA {
                for (const index end = first + count * R; first < end; first += R) {
                    const T *left[R];
                    RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] = row[first + i] + offset;
                    coming.ask(Q);
                    on_registers<T, R, Q, N>(sums + first * pitch, pitch, [&](auto &acc) RNNFAST_LAMBDA {
                        const W *panels = weights;
                        for (index o = 0; o < part.outer; ++o, panels += depth<W>(part.inner) * N * lanes<T>) {
                            accumulate<T>(acc, left, part.inner, panels, stride);
                            RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] += part.step;
                        }
                    });
                }
            });
        };
        if (deal.larger) tiles(deal.larger, int(deal.size) + 1);
        tiles(deal.tiles - deal.larger, int(deal.size));
    }
}

// So many rows of a product have their sums in L1 at once, and so many sums.
constexpr index at_once = 64, waiting = 24576 / RNNFAST_VECTOR_BYTES;

// One term of a product: rows on the left, panels of unit blocks of N vectors on the right.
template <int N, class Row, class W> struct Term {
    Row row;
    Span k;
    const W *weights;
    index vector; // so much of them is one vector's

    const W *panels(index block) const { return weights + block * N * vector; }
};
template <int N, class T, class Row, class W> RNNFAST_INLINE Term<N, Row, W> term(Row row, Span k, const W *weights) {
    return {row, k, weights, depth<W>(k.depth(k.units())) * lanes<T>};
}

// The sums of a group of panels wait in L1 for what comes next, for so many rows at a time as fit there.
//   products(part, sums)      the rows' sums, [row][vector]
//   finish(part, sums)        takes them
template <class T, class Products, class Finish>
RNNFAST_INLINE void in_parts(Range rows, index vectors, Products products, Finish finish) {
    const index many = rows.end - rows.begin;
    index parts = 1;
    if (many > at_once || many * vectors > waiting) {
        const index fitting = waiting / vectors, most = fitting < at_once ? fitting : at_once;
        parts = (many + most - 1) / most;
    }
    vec<T> sums[waiting];
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

// f(block, n) for vector n of a panel of W vectors.
template <int N, int W, class F> RNNFAST_INLINE auto of_vector(const Group &group, index panel, int n, F f) {
    if constexpr (N == W) {
        return f(group.block + panel, n);
    } else {
        const index v = panel * W + n;
        return f(group.block + v / N, int(v % N));
    }
}

// Adds a term to a group's sums, which pass through memory. `next` is what comes after it.
template <int N, class T, class Row, class W>
RNNFAST_INLINE void add_in_pieces(Range rows, vec<T> *sums, const Group &group, const Term<N, Row, W> &term,
                                  const W *next) {
    if (term.k.units() == 0) return;
    const T *left[at_once];
    for (index row = rows.begin; row < rows.end; ++row) left[row - rows.begin] = term.row(row);
    with_width<N>(group, [&]<int width>() RNNFAST_LAMBDA {
        const index stride = width * term.vector;
        const W *panel = term.panels(group.block);
        for (int j = 0; j < group.panels; j += group.together) {
            const W *const after = panel + group.together * stride;
            multiply<T, width>(sums + j * width, group.blocks * N, left, rows.end - rows.begin, group.together, term.k,
                               panel, stride, j + group.together < group.panels ? after : next);
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
        rows, group.blocks * N,
        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
            each_output<N, T>(part, group, sums, [&](index row, index block, vec<T> *sum) RNNFAST_LAMBDA {
                unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = start(row, block, int(n)); });
            });
            add_in_pieces<N, T>(part, sums, group, term, term.panels(group.next));
        },
        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA { each_output<N, T>(part, group, sums, finish); });
}

// One product for all blocks of a range.
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void product(Team &team, Range rows, Range blocks, const Term<N, Row, T> &term, Start start,
                            Finish finish) {
    each_group<N>(team, rows.end - rows.begin, blocks, false,
                  [&](const Group &group) RNNFAST_LAMBDA { group_product<N, T>(rows, group, term, start, finish); });
}

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
    struct {
        index start, kept, again;
    } pitch; // from block to block
};

// Tiles of R rows and Q panels of `width` vectors, from `panel` on, in registers from the first chain's begin to the
// last one's end. One copy for all cells of N gates. Rejected: a copy for each, with closures for what is the cell's
// own (more machine code; the seam the same).
template <int N, int width, int R, int Q, bool apart, class T, class W>
RNNFAST_SHARED void tiles(const Step<T, W> &step, const Group &group, int panel, Range rows, vec<T> *sums) {
    constexpr int V = lanes<T>;
    const index at = group.block + panel, vectors = group.block * N + panel * width, pitch = group.blocks * N;
    const index of_w = depth<W>(step.features) * V, of_u = depth<W>(step.units) * V; // one vector's weights
    const W *const w = step.w + vectors * of_w, *const u = step.u + vectors * of_u;
    const index features = step.features, units = step.units, kept = step.kept + at * step.pitch.kept;
    // A panel of several blocks' vectors finds them side by side in `start` too.
    const index first = step.first + (N == width ? at * step.pitch.start : vectors * V);
    const index next = N == width ? step.pitch.start : width * V;
    const T *const again = step.again + at * step.pitch.again;
    const StepRow<T> *row = step.rows + rows.begin;
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
                store(row[i].slots + kept + j * step.pitch.kept, z[width - 1]);
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
        const Deal deal(rows.end - rows.begin, Shape<width>::rows);
        const index larger = deal.larger * (deal.size + 1);
        const auto some = [&](Range part, index height, vec<T> *first, int panel) RNNFAST_LAMBDA {
            with_shape<width>(int(height), group.together, [&]<int R, int Q>() RNNFAST_LAMBDA {
                tiles<N, width, R, Q, apart>(step, group, panel, part, first);
            });
        };
        for (int panel = 0; panel < group.panels; panel += group.together) {
            if (larger) some({rows.begin, rows.begin + larger}, deal.size + 1, sums, panel);
            some({rows.begin + larger, rows.end}, deal.size, sums + larger * group.blocks * N, panel);
        }
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
            store(row[i].slots + step.kept + block * step.pitch.kept, sum[N - 1]);
            sum[N - 1] = load(step.again + block * step.pitch.again);
        });
    }
    add_in_pieces<N, T>(rows, sums, group, second,
                        step.features ? first.panels(group.next) : second.panels(group.next));
}

// A step's products for all blocks: in registers, or, where panels are more than L1 holds by far, in pieces. Then two
// passes over the sums of all rows, whose constants stay in registers and whose rows overlap,
//   activate(sums)            of each output
//   finish(row, block, sums)  of each output
// Rejected: gates activated and finished in each tile, whose sums then never leave the registers (LSTM 2 to 5 % slower
// for 16 and 32 rows, GRU and Elman 1 to 5; half as much machine code again; only a row alone gains, up to 5 % for H =
// 16), one pass (LSTM 3 % slower), a pass for each operation (the same), one division for i * g and one for o * tanh(c)
// (the same: divisions are not what the activations wait for), the next panel prefetched here or in the loops (nothing
// gained, up to 7 % lost), a tile's activations strewn into the next tile's loop (260 instructions a tile more: LSTM 5
// to 8 % slower, Elman 15 to 27 %).
template <int N, bool apart, class T, class W, class Activate, class Finish>
RNNFAST_INLINE void step_product(Team &team, index many, Range blocks, bool falling, const Step<T, W> &step,
                                 Activate activate, Finish finish) {
    each_group<N>(team, many, blocks, falling, [&](const Group &group) RNNFAST_LAMBDA {
        const index k = step.features + step.units, bytes = k * group.together * group.width * RNNFAST_VECTOR_BYTES;
        in_parts<T>(
            {0, many}, group.blocks * N,
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                if (many <= 2 * Shape<widest>::rows || bytes <= long_bytes) {
                    multiply_in_registers<N, apart>(part, sums, group, step);
                } else {
                    multiply_in_pieces<N, apart>(part, sums, group, step);
                }
            },
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                each_output<N, T>(part, group, sums, [&](index, index, vec<T> *sum) RNNFAST_LAMBDA { activate(sum); });
                each_output<N, T>(part, group, sums, finish);
            });
    });
}

// How many rows one pass of outer_product takes: their right operand's panel is to stay in L1/L2, and each pass reads
// and writes the whole result once. How many of the left operand's columns.
constexpr index outer_rows = 256, outer_columns = 512;

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

// result[panel][k][n] += sum_m left[m][k] * d(m, block, gate) and bias[block * bias_stride + gate] += sum_m d(m, block,
// gate), m rising. With left null the left operand is one-hot: ids[m] is the k that row m adds to. The left operand is
// turned first, so that a tile reads its columns as neighbours. Rejected: broadcasts from the rows as they lie (a cache
// line for each, and rows at a power of two share few sets: 76 % of peak against 90).
template <int N, class T, class D>
RNNFAST_INLINE void outer_product(Team &team, index count, const T *const *left, const std::int64_t *ids, index k,
                                  Range blocks, D d, T *result, T *bias, index bias_stride,
                                  const OuterScratch<T> &scratch) {
    constexpr int V = lanes<T>;
    for (index first = 0; first < count; first += outer_rows) {
        const index rows = count - first < outer_rows ? count - first : outer_rows;
        for (index column = 0; column < k; column += outer_columns) {
            const index width = k - column < outer_columns ? k - column : outer_columns;
            if (left) turn(left + first, rows, column, width, scratch.turned);
            each_group<N>(team, left ? width : rows, blocks, false, [&](const Group &group) RNNFAST_LAMBDA {
                with_width<N>(group, [&]<int W>() RNNFAST_LAMBDA {
                    const auto at = [&](index c, index panel, int n) RNNFAST_LAMBDA {
                        return result + (group.block * N * k + (panel * k + c) * W + n) * V;
                    };
                    for (index j = 0; j < group.panels; ++j) {
                        T *const to = scratch.packed + j * rows * W * V;
                        vec<T> sum[W];
                        const auto each = [&](auto f) RNNFAST_LAMBDA {
                            unroll<W>([&](auto n) RNNFAST_LAMBDA {
                                of_vector<N, W>(group, j, n,
                                                [&](index block, int gate) RNNFAST_LAMBDA { f(n, block, gate); });
                            });
                        };
                        const auto place = [&](index block, int gate)
                                               RNNFAST_LAMBDA { return bias + block * bias_stride + gate * V; };
                        each([&](auto n, index block, int gate) RNNFAST_LAMBDA { sum[n] = load(place(block, gate)); });
                        for (index m = 0; m < rows; ++m) {
                            each([&](auto n, index block, int gate) RNNFAST_LAMBDA {
                                const vec<T> v = d(first + m, block, gate);
                                store(to + (m * W + n) * V, v);
                                sum[n] = sum[n] + v;
                            });
                        }
                        if (column > 0) continue; // it has been added
                        each([&](auto n, index block, int gate) RNNFAST_LAMBDA { store(place(block, gate), sum[n]); });
                    }
                    if (!left) {
                        for (index m = 0; m < rows; ++m) {
                            for (index j = 0; j < group.panels; ++j) {
                                T *const to = at(ids[first + m], j, 0);
                                unroll<W>([&](auto n) RNNFAST_LAMBDA {
                                    const T *const term = scratch.packed + ((j * rows + m) * W + n) * V;
                                    store(to + n * V, load(to + n * V) + load(term));
                                });
                            }
                        }
                        return;
                    }
                    group_product<W, T>(
                        {0, width}, Group{0, 0, group.panels, W, group.panels, group.together},
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
