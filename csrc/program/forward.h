// The time loop of a described cell, forward: stage by stage, each its products, its means and its interpreted code.
//
// The input side is hoisted as in recurrence/forward.h: always for ids and for products of x alone, else where a thread
// has few rows. Hoisted sums of a chunk wait in memory of their own until the recurrent side takes their chains up
// again.
#pragma once

#include "program/step.h"

namespace rnnfast::RNNFAST_ISA {

template <class T, class W = T> class ProgramForward : ProgramPass<T> {
    using Base = ProgramPass<T>;
    using Base::at, Base::program, Base::masks, Base::initial, Base::interpreter, Base::V;
    static constexpr index chunk_bytes = 256 * 1024;
    static constexpr index few_rows = 6; // below, the input side is hoisted

    struct InputRow { // one row of the chunk's input side
        const T *x;
        index id, t, b;
    };

    const Forward<T> &call;
    const List<StageSpec> stages;
    index biases_size = 0,
          bias_at[ProgramLayout<T>::most_products]; // of a product's [P][N][V] in `biases` and in hoisted rows
    const bool hoisted;
    const index chunk; // steps whose input side is computed at once
    index *const order;
    T *const biases;
    ProgramRecords<T> records;
    History<T> waiting; // hoisted sums
    RowAt<T> *rows_;    // [threads][B], as the one below
    StepRow<T> *step_rows;
    InputRow *input_rows; // [threads][chunk * B]

  public:
    Seam seam;

    ProgramForward(const Forward<T> &call_, Carver &carver)
        : Base(call_, false, carver), call(call_), stages(call_.training ? program.forward : program.inference),
          hoisted(hoist()), chunk(chunk_steps()), order(Share<T>::carve(call_, carver)),
          biases(carver.take<T>(biases_size)), records(at, call_.steps, call_.batch, call_.tape, power(chunk), carver) {
        const index rows = call.threads * call.batch;
        rows_ = carver.take<RowAt<T>>(rows);
        step_rows = carver.take<StepRow<T>>(rows);
        input_rows = carver.take<InputRow>(rows * chunk);
        if (hoisted)
            waiting = {carver.take<T>(power(chunk) * call.batch * biases_size), call.batch, biases_size, power(chunk)};
    }

    void prepare() {
        Base::copy_states();
        for (int j = 0; j < program.products.count; ++j) {
            const ProductSpec &p = program.products[j];
            const index size = at.vectors(at.domain_of(p)) * p.count * V;
            for (index i = 0; i < size; i += V) {
                const T *const x = call.panels + at.bias_x(j) + i, *const u = call.panels + at.bias_u(j) + i;
                store(biases + bias_at[j] + i, p.x && p.u ? load(x) + load(u) : load(p.x ? x : u));
            }
        }
    }

    void run(Team &team) {
        const Share<T> share(team, call, at.vectors(0), at.unit(0), order);
        RowAt<T> *const rows = rows_ + team.rank * call.batch;
        for (index s = seam.begin(); s < call.steps; ++s) {
            if (seam.leave(team, s)) return;
            if (s % chunk == 0) project(team, share, s);
            if (!step(team, share, rows, time(s))) return;
        }
        if (share.wait(team)) finish(team, share);
    }

  private:
    static index power(index n) {
        index p = 1;
        while (p < n) p *= 2;
        return p;
    }
    index time(index s) const { return call.reverse ? call.steps - 1 - s : s; }

    bool hoist() {
        for (int j = 0; j < program.products.count; ++j) {
            bias_at[j] = biases_size;
            biases_size += at.vectors(at.domain_of(program.products[j])) * program.products[j].count * V;
        }
        if (!call.x.data) return true;
        return std::is_same_v<T, W> && call.steps > 1 && call.batch < few_rows * call.threads;
    }

    index chunk_steps() const {
        const index row = at.row + (hoisted ? biases_size : 0);
        const index steps = chunk_bytes / (index(sizeof(T)) * (row ? row : 1) * (call.batch ? call.batch : 1));
        if (steps >= call.steps) return call.steps ? call.steps : 1;
        return steps > 1 ? steps : 1;
    }

    const W *weights() const {
        if constexpr (std::is_same_v<T, W>) {
            return call.panels;
        } else {
            return reinterpret_cast<const Pair *>(call.pairs);
        }
    }

    // Whether a product's input side is done for a whole chunk.
    bool ahead(const ProductSpec &p) const { return p.x && (hoisted || (!p.left && std::is_same_v<T, W>)); }

    void project(Team &team, const Share<T> &share, index begin) const {
        InputRow *const row = input_rows + team.rank * chunk * call.batch;
        const index end = begin + chunk < call.steps ? begin + chunk : call.steps;
        index count = 0;
        for (index s = begin; s < end; ++s) {
            const index t = time(s), active = share.active(t);
            for (index i = 0; i < active; ++i) {
                const index b = share.row(i);
                if (Base::skipped(t, b)) continue;
                row[count++] = {call.x.data ? call.x.at(t, b) : nullptr, call.x.data ? 0 : index(*call.ids.at(t, b)), t,
                                b};
            }
        }
        for (int j = 0; j < program.products.count; ++j) {
            const ProductSpec &p = program.products[j];
            if (!ahead(p)) continue;
            with_count(p.count, [&]<int N>() { project_product<N>(team, share, j, p, row, count); });
        }
    }

    template <int N>
    void project_product(Team &team, const Share<T> &share, int j, const ProductSpec &p, const InputRow *row,
                         index count) const {
        const index slots = at.slots_of(p);
        for (int s = 0; s < at.segments(p); ++s) {
            const Segment part = at.segment(p, s);
            const T *const bias = biases + bias_at[j] + part.block * N * V;
            const auto start = [&](index, index block, int n)
                                   RNNFAST_LAMBDA { return load(bias + (block * N + n) * V); };
            const auto finish = [&](index i, index block, const vec<T> *sum) RNNFAST_LAMBDA {
                if (p.left) {
                    T *const to = waiting.row(row[i].t, row[i].b) + bias_at[j] + (part.block + block) * N * V;
                    unroll<N>([&](auto n) RNNFAST_LAMBDA { store(to + n * V, sum[n]); });
                } else {
                    T *const to =
                        records.memory.row(row[i].t, row[i].b) + at.sums(p) + at.at(part.block + block, slots);
                    unroll<N>([&](auto n) RNNFAST_LAMBDA { store(to + n * at.C, sum[n]); });
                }
            };
            const W *const panels = weights() + at.template w<W>(j) + part.block * N * V * depth<W>(at.sizes.input);
            const Range mine = within(Base::share_of(team, share, at.domain_of(p)), part);
            if (!call.x.data) {
                gather<N>(team, mine, panels, row, count, start, finish);
            } else if constexpr (std::is_same_v<T, W>) {
                product<N, T>(
                    team, {0, count}, mine,
                    term<N, T>([&](index i) RNNFAST_LAMBDA { return row[i].x; }, contiguous(at.sizes.input), panels),
                    start, finish);
            }
        }
    }

    // One-hot input: a column of W for each row.
    template <int N, class Start, class Finish>
    void gather(Team &team, Range blocks, const W *panels, const InputRow *row, index count, Start start,
                Finish finish) const {
        const index k = depth<W>(at.sizes.input);
        each_group<N>(team, count, blocks, false, [&](const Group &group) RNNFAST_LAMBDA {
            const index pitch = k * group.width * V;
            const W *const some = panels + group.block * k * N * V;
            for (index i = 0; i < count; ++i) {
                vec<T> z[most_vectors];
                for (index j = 0, v = 0; j < group.panels; ++j) {
                    for (int n = 0; n < group.width; ++n, ++v)
                        z[v] = weight<T>(some + j * pitch, row[i].id, group.width, n);
                }
                each_output<N, T>({i, i + 1}, group, z, [&](index, index block, vec<T> *sum) RNNFAST_LAMBDA {
                    unroll<N>([&](auto n) RNNFAST_LAMBDA { sum[n] = start(i, block, int(n)) + sum[n]; });
                    finish(i, block, sum);
                });
            }
        });
    }

    // The vectors of a segment, counted from its own first, that lie in a range of all.
    static Range within(Range all, const Segment &part) {
        const auto clip = [&](index p) {
            return p < part.block ? 0 : p > part.block + part.blocks ? part.blocks : p - part.block;
        };
        return {clip(all.begin), clip(all.end)};
    }

    bool step(Team &team, const Share<T> &share, RowAt<T> *rows, index t) const {
        const index active = share.active(t);
        if (!share.wait(team)) return false; // the units of the step before, of all threads
        index count = 0;
        for (index i = 0; i < active; ++i) {
            RowAt<T> &row = rows[count];
            Base::enter(row, records, t, share.row(i));
            if (Base::skipped(t, row.b)) {
                pass(team, share, row);
            } else {
                ++count;
            }
        }
        const bool falling = (t + call.calls) % 2;
        for (const StageSpec &stage : stages) {
            if (&stage != stages.begin() && !share.wait(team)) return false;
            for (const int j : stage.products) {
                const ProductSpec &p = program.products[j];
                if (ahead(p) && !p.left) continue; // done with the chunk
                with_count(p.count, [&]<int N>() { step_sums<N>(team, share, j, p, rows, count, falling); });
            }
            if (!Base::means(team, share, stage, rows, count)) return false;
            interpreter.run(stage, rows, count, Base::share_of(team, share, stage.domain));
        }
        for (index i = 0; i < active; ++i) show(team, share, t, share.row(i));
        return true;
    }

    template <int N>
    void step_sums(Team &team, const Share<T> &share, int j, const ProductSpec &p, const RowAt<T> *rows, index count,
                   bool falling) const {
        StepRow<T> *const step = step_rows + team.rank * call.batch;
        const index slots = at.slots_of(p);
        const bool wait = ahead(p);
        const auto left = interpreter.source(p.left);
        for (int s = 0; s < at.segments(p); ++s) {
            const Segment part = at.segment(p, s);
            for (index i = 0; i < count; ++i) {
                const RowAt<T> &row = rows[i];
                step[i].x = call.x.data ? call.x.at(row.t, row.b) : nullptr;
                step[i].left = p.left ? interpreter.base(row, left) + part.left : nullptr;
                step[i].slots = row.memory + at.sums(p);
                step[i].start = (wait ? waiting.row(row.t, row.b) : biases) + bias_at[j] + part.block * N * V;
            }
            Step<T, W> product{};
            product.rows = step;
            product.features = wait || !p.x ? 0 : at.sizes.input;
            product.units = p.left ? part.depth : 0;
            product.w = weights() + at.template w<W>(j) + part.block * N * V * depth<W>(at.sizes.input);
            product.u = weights() + at.template u<W>(j) + part.block * N * V * depth<W>(part.depth);
            product.pitch = {N * V, 0};
            step_product<N, false>(
                team, count, within(Base::share_of(team, share, at.domain_of(p)), part), falling, product,
                [](vec<T> *) RNNFAST_LAMBDA {},
                [=, this](index i, index block, const vec<T> *sum) RNNFAST_LAMBDA {
                    T *const to = step[i].slots + at.at(part.block + block, slots);
                    unroll<N>([&](auto n) RNNFAST_LAMBDA { store(to + n * at.C, sum[n]); });
                });
        }
    }

    // A skipped row: its states go on as they are.
    void pass(const Team &team, const Share<T> &share, const RowAt<T> &row) const {
        for (int k = 0; k < program.states.count; ++k) {
            const Range mine = Base::share_of(team, share, program.states[k].domain);
            for (index p = mine.begin; p < mine.end; ++p) store(row.after[k] + p * V, load(row.before[k] + p * V));
            if (mine.end != at.vectors(program.states[k].domain)) continue;
            for (index i = mine.end * V; i < records.states[k].width; ++i) row.after[k][i] = 0;
        }
    }

    // Writes a row's y, in this thread's units.
    void show(const Team &team, const Share<T> &share, index t, index b) const {
        for (int k = 0; k < program.states.count; ++k) {
            if (!call.y[k].data) continue;
            const int domain = program.states[k].domain;
            const Range mine = Base::share_of(team, share, domain);
            const T *const from = records.states[k].row(t, b);
            T *const to = call.y[k].at(t, b);
            for (index p = mine.begin; p < mine.end; ++p)
                store(to + p * V, load(from + p * V), at.width(domain) - p * V);
        }
    }

    // Final states, and zeros where a row had ended.
    void finish(const Team &team, const Share<T> &share) const {
        if (share.by_units && team.rank != 0) return;
        for (index b = share.rows.begin; b < share.rows.end; ++b) {
            const index length = masks.length(b), last = call.reverse ? 0 : length - 1;
            for (int k = 0; k < program.states.count; ++k) {
                const History<T> &states = records.states[k];
                const index width = at.width(program.states[k].domain);
                if (call.final_state[k]) {
                    __builtin_memcpy(call.final_state[k] + b * width,
                                     length ? states.row(last, b) : initial.row(k, b, states.width),
                                     std::size_t(width) * sizeof(T));
                }
                for (index t = length; call.y[k].data && t < call.steps; ++t) {
                    T *const y = call.y[k].at(t, b);
                    for (index j = 0; j < width; ++j) y[j] = 0;
                }
            }
        }
    }
};

} // namespace rnnfast::RNNFAST_ISA
