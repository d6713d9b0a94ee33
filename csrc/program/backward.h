// The time loop of a described cell, backward. A step runs the program's backward stages: products with transposed
// weights, means, interpreted code. What a step leaves in the slots are the gradients of its products' sums. The
// gradients of x and of the parameters follow per chunk of steps, as large products.
//
// The gradient of a state is carried in one row of memory per batch row. After a step it is the gradient of the state
// before it, and goes where that came from: on to the step before, to the initial state, or to what a reset put in.
#pragma once

#include "linalg/outer.h"
#include "program/step.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> class ProgramBackward : ProgramPass<T> {
    using Base = ProgramPass<T>;
    using Base::at, Base::program, Base::masks, Base::initial, Base::interpreter, Base::V;
    static constexpr int C = canonical<T>;

    struct GradRow { // one row of the chunk's weight gradients
        RowAt<T> row;
        const T *x;
    };

    const Backward<T> &call;
    const Parts parts;
    const index most_rows; // of a part
    index *const order;
    ProgramRecords<T> records;
    T *carried[most_states];
    T *const scratch;
    RowAt<T> *rows_;    // [threads][B]
    GradRow *grad_rows; // [threads][most_rows], as the two below
    const T **left_rows;
    std::int64_t *id_rows;
    index **chain_rows;     // [threads]
    OuterScratch<T> *outer; // [threads]
    const Sums<T> sums;

  public:
    Seam seam;

    ProgramBackward(const Backward<T> &call_, Carver &carver)
        : Base(call_, true, carver), call(call_), parts(call_.steps, call_.batch, call_.reverse, outer_rows),
          most_rows(parts.most_steps() * call_.batch), order(Share<T>::carve(call_, carver)),
          records(at, call_.steps, call_.batch, call_.tape, 1, carver),
          scratch(carver.take<T>(call_.batch * at.scratch)),
          sums(call_.dpanels, call_.dpanels + at.size, call_.adds, at.matrices, at.size, parts, carver) {
        const index B = call.batch, rows = call.threads * most_rows;
        index deepest = at.sizes.input;
        for (int k = 0; k < program.states.count; ++k) {
            carried[k] = carver.take<T>(B * at.padded(program.states[k].domain));
        }
        for (int d = 0; d < program.domains; ++d) deepest = at.width(d) > deepest ? at.width(d) : deepest;
        rows_ = carver.take<RowAt<T>>(call.threads * B);
        grad_rows = carver.take<GradRow>(rows);
        left_rows = carver.take<const T *>(rows);
        id_rows = carver.take<std::int64_t>(rows);
        chain_rows = carver.take<index *>(call.threads);
        outer = carver.take<OuterScratch<T>>(call.threads);
        for (int i = 0; i < call.threads; ++i) {
            index *const chains = Chains::carve(carver, parts.most_steps(), B);
            const auto mine = OuterScratch<T>::carve(carver, deepest);
            if (carver.real()) chain_rows[i] = chains, outer[i] = mine;
        }
    }

    void prepare() {
        Base::copy_states();
        for (int k = 0; k < program.states.count; ++k) {
            const int domain = program.states[k].domain;
            const index width = at.width(domain), padded = at.padded(domain);
            for (index b = 0; b < call.batch; ++b) {
                T *const to = carried[k] + b * padded;
                for (index i = 0; i < padded; ++i)
                    to[i] = i < width && call.dfinal[k] ? call.dfinal[k][b * width + i] : 0;
                const bool passes = masks.length(b) == 0 && call.dstate[k];
                for (index i = 0; passes && i < width; ++i) call.dstate[k][b * width + i] = to[i];
            }
            T *const reset = call.adds ? nullptr : call.d_reset_state[k];
            for (index i = 0; reset && i < call.batch * width; ++i) reset[i] = 0;
        }
        for (int g = 0; g < program.given.count; ++g) {
            if (!call.dgiven[g].data) continue;
            const index width = program.given[g] < 0 ? 1 : at.width(program.given[g]);
            for (index t = 0; t < call.steps; ++t) {
                for (index b = 0; b < call.batch; ++b) {
                    for (index i = 0; i < width; ++i) call.dgiven[g].at(t, b)[i] = 0;
                }
            }
        }
    }

    void run(Team &team) {
        const Share<T> share(team, call, at.vectors(0), at.unit(0), order);
        RowAt<T> *const rows = rows_ + team.rank * call.batch;
        if (seam.begin() == 0) sums.begin(team, call.steps);
        for (index done = seam.begin(); done < call.steps;) {
            if (seam.leave(team, done)) return;
            const Parts::Part part = parts.after(done);
            const index end = done + part.end - part.begin;
            for (index s = done; s < end && step(team, share, rows, time(s)); ++s) {}
            if (!team.wait()) return;
            gradients(team, done, end);
            if (!sums.end(team, part)) return;
            done = end;
        }
    }

  private:
    index time(index s) const { return call.reverse ? s : call.steps - 1 - s; } // in the order of the backward walk

    void enter(RowAt<T> &row, index t, index b) const {
        Base::enter(row, records, t, b);
        for (int k = 0; k < program.states.count; ++k) row.gradient[k] = carried[k] + b * records.states[k].width;
        row.scratch = scratch + b * at.scratch;
    }

    bool step(Team &team, const Share<T> &share, RowAt<T> *rows, index t) const {
        const index active = share.active(t);
        index count = 0;
        for (index i = 0; i < active; ++i) {
            RowAt<T> &row = rows[count];
            enter(row, t, share.row(i));
            add_dy(team, share, row);
            if (Base::skipped(t, row.b)) {
                route(team, share, row);
            } else {
                ++count;
            }
        }
        for (const StageSpec &stage : program.backward) {
            if (stage.back_products.count && !share.wait(team)) return false;
            for (const BackProductSpec &b : stage.back_products) send_back(team, share, b, rows, count);
            if (!Base::means(team, share, stage, rows, count)) return false;
            interpreter.run(stage, rows, count, Base::share_of(team, share, stage.domain));
        }
        if (!share.wait(team)) return false;
        for (const BackProductSpec &b : program.state_products) send_back(team, share, b, rows, count);
        for (index i = 0; i < count; ++i) {
            for (const PlacedGradient &g : program.given_gradients) give(team, share, g, rows[i]);
            route(team, share, rows[i]);
        }
        return true;
    }

    void add_dy(const Team &team, const Share<T> &share, const RowAt<T> &row) const {
        for (int k = 0; k < program.states.count; ++k) {
            if (!call.dy[k].data) continue;
            const int domain = program.states[k].domain;
            const Range mine = Base::share_of(team, share, domain);
            const T *const dy = call.dy[k].at(row.t, row.b);
            for (index p = mine.begin; p < mine.end; ++p) {
                T *const to = row.gradient[k] + p * V;
                store(to, load(to) + load(dy + p * V, at.width(domain) - p * V));
            }
        }
    }

    // Chains from a back product's start over its terms, into its target.
    void send_back(Team &team, const Share<T> &share, const BackProductSpec &b, const RowAt<T> *rows,
                   index count) const {
        const auto start = interpreter.source(b.start), target = interpreter.source(b.target);
        const int domain = domain_of(b.target);
        const Range mine = Base::share_of(team, share, domain);
        const auto begin = [&](index i, index p, int) RNNFAST_LAMBDA {
            return b.start ? load(interpreter.base(rows[i], start) + at.at(p, start.slots)) : vec<T>{};
        };
        const auto end = [&](index i, index p, const vec<T> *sum) RNNFAST_LAMBDA {
            store(const_cast<T *>(interpreter.base(rows[i], target)) + at.at(p, target.slots), *sum);
        };
        if (b.terms.count == 0) {
            for (index i = 0; i < count; ++i) {
                for (index p = mine.begin; p < mine.end; ++p) {
                    const vec<T> sum = begin(i, p, 0);
                    end(i, p, &sum);
                }
            }
        } else {
            add_terms(
                team, b, {0, count}, mine, [&](index i) RNNFAST_LAMBDA -> const T * { return rows[i].memory; }, begin,
                end);
        }
        if (mine.end != at.vectors(domain)) return;
        for (index i = 0; i < count; ++i) {
            T *const to = const_cast<T *>(interpreter.base(rows[i], target));
            for (index p = mine.end; p < at.padded(domain) / V; ++p) store(to + at.at(p, target.slots), vec<T>{});
        }
    }

    int domain_of(const RowPlace &place) const {
        return place.space == Space::gradient ? program.states[place.index].domain : program.scratch[place.index];
    }

    // memory(row) is the row's memory; start and finish as in linalg/products.h, with vectors counted from the first of
    // all.
    template <class Memory, class Start, class Finish>
    void add_terms(Team &team, const BackProductSpec &b, Range rows, Range mine, Memory memory, Start start,
                   Finish finish) const {
        const int segments = at.segments(b);
        const index wide = at.outputs(b) / segments;
        for (int s = 0; s < segments; ++s) {
            const index first = s * wide;
            const auto clip = [&](index p) { return p < first ? 0 : p > first + wide ? wide : p - first; };
            each_group<1>(team, rows.end - rows.begin, {clip(mine.begin), clip(mine.end)}, false,
                          [&](const Group &group) RNNFAST_LAMBDA {
                              in_parts<T>(
                                  rows,
                                  [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                                      each_output<1, T>(part, group, sums,
                                                        [&](index i, index p, vec<T> *sum)
                                                            RNNFAST_LAMBDA { *sum = start(i, first + p, 0); });
                                      for (int t = 0; t < b.terms.count; ++t) {
                                          const TermSpec &spec = b.terms[t];
                                          const index slots = program.regions[spec.region].slots;
                                          const index first_unit = s * at.term_units(spec, segments);
                                          const index offset =
                                              at.region[spec.region] + first_unit * slots + spec.first * C;
                                          const SlotSpans<T> spans = at.spans(spec, segments);
                                          const auto row = [&](index more) RNNFAST_LAMBDA {
                                              return [&memory, here = offset + more](index i)
                                                         RNNFAST_LAMBDA -> const T * { return memory(i) + here; };
                                          };
                                          const T *const panels = call.panels_backward + at.term_segment(b, t, s);
                                          const auto main = term<1, T>(row(0), spans.main, panels);
                                          const auto rest =
                                              term<1, T>(row(spans.behind), spans.rest, panels + wide * main.vector);
                                          const bool two = spans.rest.units() != 0;
                                          add_in_pieces<1, T>(part, sums, group, main,
                                                              two ? rest.panels(group.block) : main.panels(group.next));
                                          add_in_pieces<1, T>(part, sums, group, rest, main.panels(group.next));
                                      }
                                  },
                                  [&](Range part, vec<T> *sums) RNNFAST_LAMBDA {
                                      each_output<1, T>(part, group, sums,
                                                        [&](index i, index p, const vec<T> *sum)
                                                            RNNFAST_LAMBDA { finish(i, first + p, sum); });
                                  });
                          });
        }
    }

    // A given input's gradient, from where the step left it to the caller's array.
    void give(const Team &team, const Share<T> &share, const PlacedGradient &g, const RowAt<T> &row) const {
        if (!call.dgiven[g.index].data) return;
        T *const to = call.dgiven[g.index].at(row.t, row.b);
        const auto source = interpreter.source(g.place);
        const T *const from = interpreter.base(row, source);
        if (source.number) {
            if (!share.by_units || team.rank == 0) *to = *from;
            return;
        }
        const int domain = program.scratch[g.place.index];
        const Range mine = Base::share_of(team, share, domain);
        for (index p = mine.begin; p < mine.end; ++p) store(to + p * V, load(from + p * V), at.width(domain) - p * V);
    }

    // The gradient of the states before a step goes where they came from.
    void route(const Team &team, const Share<T> &share, const RowAt<T> &row) const {
        const From from = masks.origin(row.t, row.b);
        const bool ends = from == From::initial || masks.previous(row.t) < 0;
        if (from == From::previous && !ends) return;
        for (int k = 0; k < program.states.count; ++k) {
            const int domain = program.states[k].domain;
            const Range mine = Base::share_of(team, share, domain);
            for (index p = mine.begin; p < mine.end; ++p) {
                T *const carry = row.gradient[k] + p * V;
                const index j = row.b * at.width(domain) + p * V, n = at.width(domain) - p * V;
                if (from == From::reset) {
                    if (T *const sum = call.d_reset_state[k]) store(sum + j, load(sum + j, n) + load(carry), n);
                    store(carry, vec<T>{});
                }
                if (ends && call.dstate[k]) store(call.dstate[k] + j, load(carry), n);
            }
        }
    }

    // The gradients of x and of the parameters, over the part's rows in the one order in which every sum runs.
    void gradients(Team &team, index done, index end) const {
        const index own = team.rank * most_rows;
        GradRow *const grad = grad_rows + own;
        Chains chains(chain_rows[team.rank], call.batch);
        index count = 0;
        for (index s = done; s < end; ++s) {
            const index t = time(s);
            for (index b = 0; b < call.batch; ++b) {
                if (t >= masks.length(b) || Base::skipped(t, b)) continue;
                chains.add(count, t);
                enter(grad[count].row, t, b);
                id_rows[own + count] = call.x.data ? 0 : *call.ids.at(t, b);
                grad[count++].x = call.x.data ? call.x.at(t, b) : nullptr;
            }
        }
        chains.end(count);
        input_gradient(team, grad, count, done, end);
        for (int j = 0; j < program.products.count; ++j) {
            const ProductSpec &p = program.products[j];
            with_count(p.count, [&]<int N>() { product_gradient<N>(team, j, p, grad, chains, count); });
        }
        for (const PlacedGradient &g : program.vector_gradients) vector_gradient(team, g, grad, count);
    }

    void input_gradient(Team &team, const GradRow *grad, index count, index done, index end) const {
        if (!call.dx.data) return;
        if (program.input.terms.count) {
            add_terms(
                team, program.input, team.share(count), {0, at.outputs(program.input)},
                [&](index i) RNNFAST_LAMBDA -> const T * { return grad[i].row.memory; },
                [](index, index, int) RNNFAST_LAMBDA { return vec<T>{}; },
                [&](index i, index p, const vec<T> *d) RNNFAST_LAMBDA {
                    store(call.dx.at(grad[i].row.t, grad[i].row.b) + p * V, *d, at.sizes.input - p * V);
                });
        }
        if (team.rank != 0 || (!call.lengths && !call.skip.data && program.input.terms.count)) return;
        for (index s = done; s < end; ++s) {
            for (index b = 0; b < call.batch; ++b) {
                const index t = time(s);
                if (t < masks.length(b) && !Base::skipped(t, b) && program.input.terms.count) continue;
                for (index j = 0; j < at.sizes.input; ++j) call.dx.at(t, b)[j] = 0;
            }
        }
    }

    template <int N>
    void product_gradient(Team &team, int j, const ProductSpec &p, const GradRow *grad, const Chains &chains,
                          index count) const {
        const index own = team.rank * most_rows, slots = at.slots_of(p), region = at.sums(p);
        const T **const left = left_rows + own;
        const auto source = interpreter.source(p.left);
        for (int s = 0; s < at.segments(p); ++s) {
            const Segment some = at.segment(p, s);
            const auto d = [&](index i, index block, int n) RNNFAST_LAMBDA {
                return load(grad[i].row.memory + region + at.at(some.block + block, slots) + n * C);
            };
            const index first = some.block * N * V;
            for (const bool input : {true, false}) { // a loop, because each call is a copy of much machine code
                if (input ? !p.x : !p.u) continue;
                for (index i = 0; i < count; ++i)
                    left[i] = input ? grad[i].x : interpreter.base(grad[i].row, source) + some.left;
                const index depth = input ? at.sizes.input : some.depth;
                const index matrix = input ? at.template w<T>(j) : at.template u<T>(j);
                const index bias = input ? at.bias_x(j) : at.bias_u(j);
                outer_product<N>(team, chains, input && !call.x.data ? nullptr : left, id_rows + own, depth,
                                 some.blocks, d, sums.matrix(matrix + first * depth), sums.exact(bias + first), N * V,
                                 outer[team.rank]);
            }
        }
    }

    void vector_gradient(Team &team, const PlacedGradient &g, const GradRow *grad, index count) const {
        const int domain = program.parameters[g.index].domain;
        const Range mine = team.share(at.vectors(domain));
        const auto source = interpreter.source(g.place);
        for (index p = mine.begin; p < mine.end; ++p) {
            for (index i = 0; i < count; ++i)
                add_wide(sums.exact(at.vector(g.index) + p * V),
                         load(interpreter.base(grad[i].row, source) + at.at(p, source.slots)));
        }
    }
};

} // namespace rnnfast::RNNFAST_ISA
