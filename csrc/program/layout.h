// Where everything of a described cell lies at given sizes: its panels, and a row's memory at one step.
//
// A row's memory at one step is its regions and then its scalars. A region's slots are interleaved in blocks of 64
// bytes (16 units of float, 8 of double), whatever the width of a vector: the order in which a transposed product runs
// over K, and so its bits, are the same on every instruction set. Units beyond the width are zero wherever a row is
// stored.
//
// A product's panels are W, U and the biases, in the format of linalg/panels.h. A block-diagonal U whose heads fill
// whole blocks is a *segment* of its own per head: some blocks of units, which read a part of the left operand. Other
// heads are packed as a dense matrix with zeros.
#pragma once

#include "kernels.h"
#include "linalg/panels.h"
#include "program/program.h"

namespace rnnfast::RNNFAST_ISA {

// Calls f<N>() for the number of a product's results.
template <class F> RNNFAST_INLINE void with_count(int count, F f) {
    switch (count) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    default: return f.template operator()<4>();
    }
}

struct Segment {
    index block, blocks; // of the product's outputs, in vectors
    index left, depth;   // units of the left operand
};

// What a row of a weight matrix is to a segment: `length` numbers at `data`, the first at place `begin` of its K.
template <class M> struct MatrixRow {
    M *data;
    index begin, length;
};

template <class T> class ProgramLayout {
  public:
    static constexpr int V = lanes<T>, C = canonical<T>, R = vectors_of_block<T>;
    static constexpr int most_regions = 64, most_products = 32, most_terms = 128, most_scratch = 32;

    const Program &program;
    const Sizes &sizes;
    index row = 0, scalars = 0;    // elements of a row's memory; where its scalars begin
    index region[most_regions];    // where a region begins
    index size = 0, back_size = 0; // of the panels
    index matrices = 0;            // the biases and vectors lie behind them
    index scratch = 0, scratch_row[most_scratch];
    index pairs = 0; // words of all weights in bfloat16

  private:
    struct Panels {
        index w, u, w_pairs, u_pairs, bias_x, bias_u;
    };
    Panels panels_[most_products];
    index vector_[most_parameters];
    index term_[most_terms]; // of all back products, one after the other
    index first_term_[most_products * 2];

  public:
    // Forward alone needs nothing of backward's panels and scratch rows: a stream's step would pay for them.
    explicit ProgramLayout(const Sizes &s, bool backward = true) : program(*s.program), sizes(s) {
        for (int r = 0; r < program.regions.count; ++r) {
            region[r] = row;
            row += padded(program.regions[r].domain) * program.regions[r].slots;
        }
        scalars = row;
        row += (program.scalars + C - 1) / C * C;
        for (int j = 0; j < program.products.count; ++j) lay_out_matrices(j);
        matrices = size;
        for (int j = 0; j < program.products.count; ++j) lay_out_biases(j);
        for (int k = 0; k < program.parameters.count; ++k) {
            if (program.parameters[k].kind != ParameterKind::vector) continue;
            vector_[k] = size;
            size += padded(program.parameters[k].domain);
        }
        if (!backward) return;
        for (int i = 0; i < program.scratch.count; ++i) {
            scratch_row[i] = scratch;
            scratch += padded(program.scratch[i]);
        }
        int terms = 0;
        each_back_product([&](const BackProductSpec &b) {
            first_term_[b.number] = terms;
            for (const TermSpec &term : b.terms) {
                term_[terms++] = back_size;
                back_size += term_size(b, term);
            }
        });
    }

    // Widths

    index width(int domain) const { return sizes.widths[domain]; }
    index vectors(int domain) const { return blocks<T>(width(domain)); }
    index padded(int domain) const { return canonical_blocks<T>(width(domain)) * C; }
    index columns(const ParameterSpec &p) const { return p.columns == input_columns ? sizes.input : width(p.columns); }

    // Where vector p of a row lies that shares its blocks with `slots` others.
    static RNNFAST_INLINE index at(index p, index slots) { return slot_offset<T>(p, slots); }

    int domain_of(const ProductSpec &p) const { return program.regions[p.region].domain; }
    int slots_of(const ProductSpec &p) const { return program.regions[p.region].slots; }
    // Where a product's first sum of block 0 lies in a row's memory.
    index sums(const ProductSpec &p) const { return region[p.region] + index(p.first) * C; }

    // Segments

    index heads(const ParameterSpec &p) const {
        if (p.heads == 1) return 1;
        return width(p.domain) / p.heads % C == 0 && columns(p) / p.heads % C == 0 ? p.heads : 1;
    }
    int segments(const ProductSpec &p) const { return p.u ? int(heads(program.parameters[p.u.parameter])) : 1; }
    // The vectors of a domain that stay together where units are partitioned.
    index unit(int domain) const {
        index unit = bundle<4>;
        for (const ProductSpec &p : program.products) {
            if (const int count = segments(p); count > 1 && domain_of(p) == domain) unit = vectors(domain) / count;
        }
        return unit;
    }
    index unit_parts() const { return (vectors(0) + unit(0) - 1) / unit(0); }
    Segment segment(const ProductSpec &p, int s) const {
        const index count = segments(p), all = vectors(domain_of(p));
        const index depth = p.u ? columns(program.parameters[p.u.parameter]) : 0;
        if (count == 1) return {0, all, 0, depth};
        return {s * (all / count), all / count, s * (depth / count), depth / count};
    }
    // Of a back product: as its terms have, if they agree.
    int segments(const BackProductSpec &b) const {
        index count = b.terms.count ? heads(program.parameters[b.terms[0].parameter]) : 1;
        for (const TermSpec &term : b.terms) count = heads(program.parameters[term.parameter]) == count ? count : 1;
        return int(count);
    }
    // The vectors of what a back product gives.
    index outputs(const BackProductSpec &b) const { return blocks<T>(output_units(b)); }
    index output_units(const BackProductSpec &b) const {
        return b.terms.count ? columns(program.parameters[b.terms[0].parameter]) : 0;
    }

    // Panels

    template <class W> index w(int product) const {
        return std::is_same_v<W, Pair> ? panels_[product].w_pairs : panels_[product].w;
    }
    template <class W> index u(int product) const {
        return std::is_same_v<W, Pair> ? panels_[product].u_pairs : panels_[product].u;
    }
    index bias_x(int product) const { return panels_[product].bias_x; }
    index bias_u(int product) const { return panels_[product].bias_u; }
    index vector(int parameter) const { return vector_[parameter]; }
    index term(const BackProductSpec &b, int t) const { return term_[first_term_[b.number] + t]; }
    // The units of a term's slots that one of `segments` segments has, and how its products run over them.
    index term_units(const TermSpec &term, int segments) const {
        return width(program.regions[term.region].domain) / segments;
    }
    SlotSpans<T> spans(const TermSpec &term, int segments) const {
        return SlotSpans<T>(term_units(term, segments), program.regions[term.region].slots, term.blocks.count);
    }

    template <bool unpack, class Panel, class M> void move(Panel *panels, const Weights<M> &weights) const {
        for (int j = 0; j < program.products.count; ++j) {
            const ProductSpec &p = program.products[j];
            with_count(p.count, [&]<int N>() {
                for (int s = 0; s < segments(p); ++s) {
                    const Segment part = segment(p, s);
                    if (p.x)
                        move_side<N, unpack>(panels + w<T>(j), p.x, part, {part.block, part.blocks, 0, sizes.input},
                                             weights);
                    if (p.u) move_side<N, unpack>(panels + u<T>(j), p.u, part, part, weights);
                }
                const Segment all{0, vectors(domain_of(p)), 0, 1};
                if (p.x) move_bias<N, unpack>(panels + bias_x(j), p.x_bias, all, weights);
                if (p.u) move_bias<N, unpack>(panels + bias_u(j), p.u_bias, all, weights);
            });
        }
        for (int k = 0; k < program.parameters.count; ++k) {
            if (program.parameters[k].kind != ParameterKind::vector) continue;
            M *const given = weights.data[k];
            Panel *const lane = panels + vector_[k];
            const index n = width(program.parameters[k].domain);
            if constexpr (unpack) {
                for (index i = 0; given && i < n; ++i) given[i] = lane[i];
            } else {
                for (index i = 0; i < padded(program.parameters[k].domain); ++i)
                    lane[i] = given && i < n ? given[i] : 0;
            }
        }
    }

    void to_pairs(const float *panels, Pair *to) const {
        for (int j = 0; j < program.products.count; ++j) {
            const ProductSpec &p = program.products[j];
            with_count(p.count, [&]<int N>() {
                for (int s = 0; s < segments(p); ++s) {
                    const Segment part = segment(p, s);
                    if (p.x) narrow_side<N>(panels + w<T>(j), to + w<Pair>(j), part, sizes.input);
                    if (p.u) narrow_side<N>(panels + u<T>(j), to + u<Pair>(j), part, part.depth);
                }
            });
        }
    }

    void pack_backward(T *panels, const Weights<const T> &weights, bool dx) const {
        each_back_product([&](const BackProductSpec &b) {
            if (&b == &program.input && !dx) return;
            for (int t = 0; t < b.terms.count; ++t) {
                const TermSpec &spec = b.terms[t];
                T *to = panels + term(b, t);
                const int count = segments(b);
                for (int s = 0; s < count; ++s)
                    to = pack_term(to, spec, s, count, outputs(b) / count, weights.data[spec.parameter]);
            }
        });
    }

    // The first element of segment s of a term's panels.
    index term_segment(const BackProductSpec &b, int t, int s) const {
        return term(b, t) + s * (term_size(b, b.terms[t]) / segments(b));
    }

    template <class F> void each_back_product(F f) const {
        for (const StageSpec &stage : program.backward) {
            for (const BackProductSpec &b : stage.back_products) f(b);
        }
        for (const BackProductSpec &b : program.state_products) f(b);
        f(program.input);
    }

  private:
    index rows(const ProductSpec &p) const { return vectors(domain_of(p)) * V * p.count; }
    index take(bool there, index elements) {
        const index here = size;
        if (there) size += elements;
        return here;
    }
    void lay_out_matrices(int j) {
        const ProductSpec &p = program.products[j];
        const index rows = this->rows(p), k = p.u ? segment(p, 0).depth : 0;
        Panels &at = panels_[j];
        at.w = take(bool(p.x), rows * sizes.input);
        at.u = take(bool(p.u), rows * k);
        at.w_pairs = pairs;
        if (p.x) pairs += rows * depth<Pair>(sizes.input);
        at.u_pairs = pairs;
        if (p.u) pairs += rows * depth<Pair>(k);
    }
    void lay_out_biases(int j) {
        const ProductSpec &p = program.products[j];
        panels_[j].bias_x = take(bool(p.x), rows(p)); // zeros where there is no such parameter
        panels_[j].bias_u = take(bool(p.u), rows(p));
    }

    index term_size(const BackProductSpec &b, const TermSpec &term) const {
        return outputs(b) * V * term_units(term, segments(b)) * term.blocks.count;
    }

    // Row `unit` (of all) of block `gate` of a matrix, as a segment that is `depth` deep reads it.
    template <class M>
    MatrixRow<M> matrix_row(const ParameterSpec &spec, M *data, index gate, index unit, index k) const {
        const index units = width(spec.domain);
        if (!data || unit >= units) return {nullptr, 0, 0};
        if (spec.kind == ParameterKind::bias) return {data + gate * units + unit, 0, 1};
        const index own = columns(spec) / spec.heads; // what a row has of numbers
        const index begin = own == k ? 0 : unit / (units / spec.heads) * own;
        return {data + (gate * units + unit) * own, begin, own};
    }

    // The part of a side's panels that is one segment; `k` says how deep they are.
    template <int N, bool unpack, class Panel, class M>
    void move_side(Panel *panels, MatrixRef ref, const Segment &part, const Segment &k,
                   const Weights<M> &weights) const {
        const ParameterSpec &spec = program.parameters[ref.parameter];
        M *const matrix = weights.data[ref.parameter];
        Panel *const first = panels + part.block * N * k.depth * V;
        for (index p = 0; p < part.blocks; ++p) {
            for (int g = 0; g < N; ++g) {
                const Place at = place<N, T>(p, g, part.blocks, k.depth);
                for (int v = 0; v < V; ++v) {
                    const auto row = matrix_row(spec, matrix, ref.block + g, (part.block + p) * V + v, k.depth);
                    Panel *const lane = first + at.begin + v;
                    if constexpr (unpack) {
                        for (index i = 0; i < row.length; ++i) row.data[i] = lane[(row.begin + i) * at.step];
                    } else {
                        for (index i = 0; i < k.depth; ++i) {
                            const index own = i - row.begin;
                            lane[i * at.step] = own >= 0 && own < row.length ? row.data[own] : 0;
                        }
                    }
                }
            }
        }
    }

    // [P][N][V]: panels one deep.
    template <int N, bool unpack, class Panel, class M>
    void move_bias(Panel *panels, MatrixRef ref, const Segment &all, const Weights<M> &weights) const {
        if (ref) return move_side<N, unpack>(panels, ref, all, all, weights);
        if constexpr (!unpack) {
            for (index i = 0; i < all.blocks * N * V; ++i) panels[i] = 0;
        }
    }

    template <int N> void narrow_side(const float *panels, Pair *to, const Segment &part, index k) const {
        const auto some = [&](index first, index count, index of) {
            const index at = (part.block + first) * N * V, panel = panel_width<N>(of);
            narrow(panels + at * k, to + at * depth<Pair>(k), count * N / panel, k, panel * V);
        };
        const index whole = part.blocks / bundle<N> * bundle<N>;
        some(0, whole, bundle<N>);
        if (whole < part.blocks) some(whole, part.blocks - whole, part.blocks - whole);
    }

    // One segment: [output block][k of main][lane], then [output block][k of rest][lane].
    T *pack_term(T *to, const TermSpec &term, int s, int segments, index outputs, const T *matrix) const {
        const ParameterSpec &spec = program.parameters[term.parameter];
        const index all = columns(spec), units = term_units(term, segments), first = s * units;
        const int slots = program.regions[term.region].slots;
        const index whole = slots == 1 ? units : units / C * C, block = slots == 1 ? units : C;
        const auto pack = [&](index o, index begin, index end) {
            for (const int gate : term.blocks) {
                for (index unit = begin; unit < end; ++unit, to += V) {
                    const auto row = matrix_row(spec, matrix, gate, first + unit, all);
                    for (int v = 0; v < V; ++v) {
                        const index own = o * V + v - row.begin;
                        to[v] = own >= 0 && own < row.length ? row.data[own] : 0;
                    }
                }
            }
        };
        for (index o = s * outputs; o < (s + 1) * outputs; ++o) {
            for (index begin = 0; begin < whole; begin += block) pack(o, begin, begin + block);
        }
        for (index o = s * outputs; o < (s + 1) * outputs; ++o) pack(o, whole, units);
        return to;
    }
};

} // namespace rnnfast::RNNFAST_ISA
