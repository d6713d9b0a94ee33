// The two matrix products that everything is made of: rows times packed panels, and rows transposed times rows.
#pragma once

#include "linalg/panels.h"
#include "linalg/tile.h"

namespace rnnfast::RNNFAST_ISA {

// A tile's sums pass through memory (L1), where one copy of the loop per shape serves all cells and products.
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

// sums[row][q][n] += rows times q panels. Where several tiles of rows pass, k comes in pieces of the panels that stay
// in L1 meanwhile, and the next piece is asked for: L3 and L2 have the time of all tiles to send it. `next` is what the
// next call multiplies with.
template <class T, int N, class W>
RNNFAST_SHARED void multiply(vec<T> *sums, const T *const *row, index rows, int q, Span k, const W *panel, index stride,
                             const W *next) {
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
                    on_registers<T, R, Q, N>(sums + first * Q * N, [&](auto &acc) RNNFAST_LAMBDA {
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

// So many rows of a product have their sums in L1 at once.
constexpr index at_once = 64;

// One term of a product: rows on the left, panels on the right, `stride` apart.
template <class Row, class W> struct Term {
    Row row;
    Span k;
    const W *weights;
    index stride;
};
template <class Row, class W> Term(Row, Span, const W *, index) -> Term<Row, W>;

// The sums of a group of q panels wait in L1 for what comes next, for so many rows at a time as fit there.
//   products(part, sums)      the rows' sums, [row][panel][n]
//   finish(part, sums)        takes them
template <int N, class T, class Products, class Finish>
RNNFAST_INLINE void in_parts(Range rows, int q, Products products, Finish finish) {
    constexpr index waiting = 8192 / RNNFAST_VECTOR_BYTES;
    const index many = rows.end - rows.begin;
    index parts = 1;
    if (many > at_once || many * q * N > waiting) {
        const index fitting = waiting / (q * N), most = fitting < at_once ? fitting : at_once;
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

// f(row, panel, its N sums) for each output of a group of q panels. One loop, before which constants are loaded once.
template <int N, class T, class F> RNNFAST_INLINE void each_output(Range rows, index panel, int q, vec<T> *sums, F f) {
    index row = rows.begin, p = panel;
    for (const vec<T> *const end = sums + (rows.end - rows.begin) * q * N; sums != end; sums += N) {
        f(row, p, sums);
        if (++p == panel + q) p = panel, ++row;
    }
}

// Two products for a group of panels, one chain per output; the first may be empty.
//   start(row, panel, n)      where a chain begins; it runs over `first`
//   turn(row, panel, sums)    between the two
//                             then over `second`
// In pieces: the sums pass through memory. `next` is the group that comes after this one.
template <int N, class T, class First, class Second, class Start, class Turn>
RNNFAST_INLINE void multiply_in_pieces(Range rows, vec<T> *sums, index panel, int q, index next, const First &first,
                                       const Second &second, Start start, Turn turn) {
    const T *left[at_once];
    const auto add = [&](const auto &term, const auto *coming) RNNFAST_LAMBDA {
        if (term.k.units() == 0) return;
        for (index row = rows.begin; row < rows.end; ++row) left[row - rows.begin] = term.row(row);
        multiply<T, N>(sums, left, rows.end - rows.begin, q, term.k, term.weights + panel * term.stride, term.stride,
                       coming);
    };
    each_output<N, T>(rows, panel, q, sums, [&](index row, index p, vec<T> *sum) RNNFAST_LAMBDA {
        unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = start(row, p, int(n)); });
    });
    add(first, second.weights + panel * second.stride);
    each_output<N, T>(rows, panel, q, sums, turn);
    add(second, first.k.units() ? first.weights + next * first.stride : second.weights + next * second.stride);
}

// The same for contiguous k, in registers, where a tile stays from the first chain's begin to the last one's end. A
// copy of both loops per shape and cell. Closures hold what they need by value: with a pointer to a pointer a tile
// costs 60 moves more.
template <int N, class T, class First, class Second, class Start, class Turn>
RNNFAST_INLINE void multiply_in_registers(Range rows, vec<T> *sums, index panel, int q, const First &first,
                                          const Second &second, Start start, Turn turn) {
    const Deal deal(rows.end - rows.begin, Shape<N>::rows);
    const auto tiles = [&](index begin, index end, int height) RNNFAST_LAMBDA {
        with_shape<N>(height, q, [&, begin, end, panel]<int R, int Q>() {
            vec<T> *sum = sums + (begin - rows.begin) * Q * N;
            for (index row = begin; row < end; row += R) {
                vec<T> acc[R][Q][N];
                const T *left[R];
                const auto add = [&](const auto &term) RNNFAST_LAMBDA {
                    RNNFAST_UNROLL for (int i = 0; i < R; ++i) left[i] = term.row(row + i);
                    accumulate<T>(acc, left, term.k.inner, term.weights + panel * term.stride, term.stride);
                };
                const auto each = [&](auto f) RNNFAST_LAMBDA {
                    RNNFAST_UNROLL for (int i = 0; i < R; ++i) {
                        RNNFAST_UNROLL for (int j = 0; j < Q; ++j) f(row + i, panel + j, acc[i][j]);
                    }
                };
                each([&](index i, index p, vec<T>(&z)[N])
                         RNNFAST_LAMBDA { RNNFAST_UNROLL for (int n = 0; n < N; ++n) z[n] = start(i, p, n); });
                if (first.k.units()) add(first);
                each(turn);
                add(second);
                each([&](index, index, vec<T>(&z)[N])
                         RNNFAST_LAMBDA { RNNFAST_UNROLL for (int n = 0; n < N; ++n, ++sum) *sum = z[n]; });
            }
        });
    };
    const index larger = rows.begin + deal.larger * (deal.size + 1);
    if (deal.larger) tiles(rows.begin, larger, int(deal.size) + 1);
    tiles(larger, rows.end, int(deal.size));
}

// One product for a group of panels.
//   finish(row, panel, sums)  takes an output's N sums
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void group_product(Range rows, index panel, int q, index next, const Term<Row, T> &term, Start start,
                                  Finish finish) {
    Term<Row, T> none = term;
    none.k = contiguous(0);
    in_parts<N, T>(
        rows, q,
        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
            multiply_in_pieces<N, T>(part, sums, panel, q, next, none, term, start,
                                     [](index, index, vec<T> *) RNNFAST_LAMBDA {});
        },
        [&](Range part, vec<T> *sums) RNNFAST_LAMBDA { each_output<N, T>(part, panel, q, sums, finish); });
}

// One product for all panels.
template <int N, class T, class Row, class Start, class Finish>
RNNFAST_INLINE void product(Team &team, Range rows, Range panels, const Term<Row, T> &term, Start start,
                            Finish finish) {
    each_group<N>(team, rows.end - rows.begin, panels, false, [&](index panel, int q) RNNFAST_LAMBDA {
        const index next = panel + q < panels.end ? panel + q : panel;
        group_product<N, T>(rows, panel, q, next, term, start, finish);
    });
}

// A step's products for all panels: in registers, or, where the panels of a group are more than L1 holds by far, in
// pieces. Then two passes over the sums of all rows, whose constants stay in registers and whose rows overlap,
//   activate(sums)            of each output
//   finish(row, panel, sums)  of each output
// Rejected: gates activated and finished in each tile, whose sums then never leave the registers (LSTM 2 to 5 % slower
// for 16 and 32 rows, GRU and Elman 1 to 5; half as much machine code again; only a row alone gains, up to 5 % for H =
// 16), one pass (LSTM 3 % slower), a pass for each operation (the same), one division for i * g and one for o * tanh(c)
// (the same: divisions are not what the activations wait for), the next panel prefetched here or in the loops (nothing
// gained, up to 7 % lost), a tile's activations strewn into the next tile's loop (260 instructions a tile more: LSTM 5
// to 8 % slower, Elman 15 to 27 %), tiles of six rows and two gates, with half the weights' way from L2 (LSTM 2 to 8 %
// slower).
template <int N, class T, class First, class Second, class Start, class Turn, class Activate, class Finish>
RNNFAST_INLINE void step_product(Team &team, Range rows, Range panels, bool falling, const First &first,
                                 const Second &second, Start start, Turn turn, Activate activate, Finish finish) {
    const index many = rows.end - rows.begin, k = first.k.units() + second.k.units();
    each_group<N>(team, many, panels, falling, [&](index panel, int q) RNNFAST_LAMBDA {
        const bool in_registers = many <= 2 * Shape<N>::rows || k * q * N * RNNFAST_VECTOR_BYTES <= long_bytes;
        const index after = falling ? panel - q : panel + q; // behind the last, the same panels come in the next step
        const index next = panels.begin <= after && after < panels.end ? after : panel;
        in_parts<N, T>(
            rows, q,
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                if (in_registers) {
                    multiply_in_registers<N, T>(part, sums, panel, q, first, second, start, turn);
                } else {
                    multiply_in_pieces<N, T>(part, sums, panel, q, next, first, second, start, turn);
                }
            },
            [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                each_output<N, T>(part, panel, q, sums,
                                  [&](index, index, vec<T> *sum) RNNFAST_LAMBDA { activate(sum); });
                each_output<N, T>(part, panel, q, sums, finish);
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
            const auto pack = [&](index panel, int many) RNNFAST_LAMBDA {
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
                    pack(p, 1);
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
            each_group<N>(team, width, panels, false, [&](index panel, int q) RNNFAST_LAMBDA {
                pack(panel, q);
                const auto at = [&](index c, index j, int n)
                                    RNNFAST_LAMBDA { return result + (((panel + j) * k + column + c) * N + n) * V; };
                group_product<N, T>(
                    {0, width}, 0, q, 0,
                    Term{[&](index c) RNNFAST_LAMBDA -> const T * { return scratch.turned + c * outer_rows; },
                         contiguous(rows), static_cast<const T *>(scratch.packed), rows * N * V},
                    [&](index c, index j, int n) RNNFAST_LAMBDA { return load(at(c, j, n)); },
                    [&](index c, index j, const vec<T> *sums)
                        RNNFAST_LAMBDA { unroll<N>([&](auto n) RNNFAST_LAMBDA { store(at(c, j, n), sums[n]); }); });
            });
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
