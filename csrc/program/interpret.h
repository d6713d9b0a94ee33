// The pointwise part of a stage, interpreted: each operation is one loop over a tile of vectors.
//
// A tile is some rows times some blocks of units: as many vectors as keep the loops long and the registers in L1. A
// register is a kilobyte, and a stage has ten to thirty. From four vectors on, an operation's loop costs no more than
// the same arithmetic fused by the compiler (its decoding is shared by the tile, and its vectors do not wait for each
// other). Rejected: machine code made at run time (a compiler in the process; a bit that differs would be nobody's),
// one pass over all rows for each operation (registers leave L1).
#pragma once

#include "cells/cell.h"
#include "program/layout.h"
#include "simd/functions.h"

namespace rnnfast::RNNFAST_ISA {

// As NumPy's: a NaN on either side is the result.
template <class T> RNNFAST_INLINE vec<T> smaller(vec<T> a, vec<T> b) { return a != a ? a : a < b ? a : b; }
template <class T> RNNFAST_INLINE vec<T> larger(vec<T> a, vec<T> b) { return a != a ? a : a > b ? a : b; }

// A batch row at one step: where everything of it lies.
template <class T> struct RowAt {
    index t, b;
    T *memory; // regions and scalars
    const T *before[most_states];
    T *after[most_states];
    T *gradient[most_states]; // backward
    T *scratch;               // backward
    const T *given[most_given];
};

template <class T> struct Interpreter {
    static constexpr int V = lanes<T>, R = vectors_of_block<T>;
    static constexpr int tile = 1024 / RNNFAST_VECTOR_BYTES; // vectors

    using Register = vec<T>[tile];

    // An operation on registers alone.
    static RNNFAST_INLINE void compute(const Instruction &code, Register *reg, index n) {
        vec<T> *const to = reg[code.to];
        const vec<T> *const a = reg[code.a], *const b = reg[code.b], *const c = reg[code.c];
        const auto each = [&](auto f) RNNFAST_LAMBDA {
            for (index i = 0; i < n; ++i) to[i] = f(i);
        };
        switch (code.op) {
        case Op::constant: {
            const vec<T> value = broadcast(T(code.value));
            each([&](index) RNNFAST_LAMBDA { return value; });
            break;
        }
        case Op::add: each([&](index i) RNNFAST_LAMBDA { return a[i] + b[i]; }); break;
        case Op::sub: each([&](index i) RNNFAST_LAMBDA { return a[i] - b[i]; }); break;
        case Op::mul: each([&](index i) RNNFAST_LAMBDA { return a[i] * b[i]; }); break;
        case Op::div: each([&](index i) RNNFAST_LAMBDA { return a[i] / b[i]; }); break;
        case Op::fma: each([&](index i) RNNFAST_LAMBDA { return rnnfast::RNNFAST_ISA::fma(a[i], b[i], c[i]); }); break;
        case Op::fnma:
            each([&](index i) RNNFAST_LAMBDA { return rnnfast::RNNFAST_ISA::fma(-a[i], b[i], c[i]); });
            break;
        case Op::neg: each([&](index i) RNNFAST_LAMBDA { return -a[i]; }); break;
        case Op::min: each([&](index i) RNNFAST_LAMBDA { return smaller<T>(a[i], b[i]); }); break;
        case Op::max: each([&](index i) RNNFAST_LAMBDA { return larger<T>(a[i], b[i]); }); break;
        case Op::abs: each([&](index i) RNNFAST_LAMBDA { return abs<T>(a[i]); }); break;
        case Op::sign: each([&](index i) RNNFAST_LAMBDA { return sign<T>(a[i]); }); break;
        case Op::sqrt: each([&](index i) RNNFAST_LAMBDA { return sqrt<T>(a[i]); }); break;
        case Op::exp: each([&](index i) RNNFAST_LAMBDA { return exp<T>(a[i]); }); break;
        case Op::expm1: each([&](index i) RNNFAST_LAMBDA { return expm1<T>(a[i]); }); break;
        case Op::log: each([&](index i) RNNFAST_LAMBDA { return log<T>(a[i]); }); break;
        case Op::log1p: each([&](index i) RNNFAST_LAMBDA { return log1p<T>(a[i]); }); break;
        case Op::sin: each([&](index i) RNNFAST_LAMBDA { return sin<T>(a[i]); }); break;
        case Op::cos: each([&](index i) RNNFAST_LAMBDA { return cos<T>(a[i]); }); break;
        case Op::sigmoid: each([&](index i) RNNFAST_LAMBDA { return sigmoid<T>(a[i]); }); break;
        case Op::tanh: each([&](index i) RNNFAST_LAMBDA { return tanh<T>(a[i]); }); break;
        case Op::relu: each([&](index i) RNNFAST_LAMBDA { return relu<T>(a[i]); }); break;
        case Op::softplus: each([&](index i) RNNFAST_LAMBDA { return softplus<T>(a[i]); }); break;
        case Op::d_sigmoid: each([&](index i) RNNFAST_LAMBDA { return d_sigmoid<T>(a[i]); }); break;
        case Op::d_tanh: each([&](index i) RNNFAST_LAMBDA { return d_tanh<T>(a[i]); }); break;
        case Op::lerp:
            each([&](index i) RNNFAST_LAMBDA { return rnnfast::RNNFAST_ISA::fma(a[i], b[i] - c[i], c[i]); });
            break;
        case Op::where: each([&](index i) RNNFAST_LAMBDA { return a[i] > vec<T>{} ? b[i] : c[i]; }); break;
        case Op::load:
        case Op::store:
        case Op::random_step:
        case Op::random_sequence:
        case Op::operations: break;
        }
    }

    const ProgramLayout<T> &at;
    const T *panels;
    std::uint64_t seed, layer;
    index first_step;

    // Where a place lies in any row: a base, and how its vectors follow each other.
    struct Source {
        RowPlace place;
        index offset, slots;
        bool number; // one for all units
        index exact; // units, where what lies behind them is not ours; or 0
    };

    Source source(const RowPlace &place) const {
        const Program &program = at.program;
        switch (place.space) {
        case Space::slot:
            return {place, at.region[place.index] + place.slot * at.C, program.regions[place.index].slots, false, 0};
        case Space::vector: return {place, at.vector(place.index), 1, false, 0};
        case Space::scalar: return {place, at.scalars + place.index, 1, true, 0};
        case Space::scratch: return {place, at.scratch_row[place.index], 1, false, 0};
        case Space::given: {
            const int domain = program.given[place.index];
            return {place, 0, 1, domain < 0, domain < 0 ? 0 : at.width(domain)};
        }
        default: return {place, 0, 1, false, 0};
        }
    }

    RNNFAST_INLINE const T *base(const RowAt<T> &row, const Source &s) const {
        const int i = s.place.index;
        switch (s.place.space) {
        case Space::before: return row.before[i];
        case Space::after: return row.after[i];
        case Space::vector: return panels + s.offset;
        case Space::given: return row.given[i];
        case Space::gradient: return row.gradient[i];
        case Space::scratch: return row.scratch + s.offset;
        default: return row.memory + s.offset;
        }
    }

    void run(const StageSpec &stage, const RowAt<T> *rows, index count, Range blocks) const {
        const index wide = blocks.end - blocks.begin;
        if (count <= 0 || wide <= 0 || stage.code.count == 0) return;
        vec<T> registers[most_registers][tile];
        if (wide < tile) {
            const index high = tile / wide;
            for (index i = 0; i < count; i += high) {
                run_tile(stage, rows + i, count - i < high ? count - i : high, blocks, registers);
            }
            return;
        }
        const index parts = (wide + tile - 1) / tile;
        for (index i = 0; i < count; ++i) {
            for (index part = 0; part < parts; ++part) {
                const Range some{blocks.begin + wide * part / parts, blocks.begin + wide * (part + 1) / parts};
                run_tile(stage, rows + i, 1, some, registers);
            }
        }
    }

  private:
    RNNFAST_SHARED void run_tile(const StageSpec &stage, const RowAt<T> *rows, index count, Range blocks,
                                 Register *reg) const {
        const index n = count * (blocks.end - blocks.begin);
        for (const Instruction &code : stage.code) {
            switch (code.op) {
            case Op::load: load_rows(source(code.place), rows, count, blocks, reg[code.to]); break;
            case Op::store: store_rows(source(code.place), stage.domain, rows, count, blocks, reg[code.a]); break;
            case Op::random_step:
            case Op::random_sequence: draw(code, rows, count, blocks, reg[code.to]); break;
            default: compute(code, reg, n);
            }
        }
    }

    RNNFAST_INLINE void load_rows(const Source &s, const RowAt<T> *rows, index count, Range blocks, vec<T> *to) const {
        for (index r = 0; r < count; ++r) {
            const T *const from = base(rows[r], s);
            if (s.number) {
                const vec<T> value = broadcast(*from);
                for (index p = blocks.begin; p < blocks.end; ++p) *to++ = value;
            } else if (s.exact) {
                for (index p = blocks.begin; p < blocks.end; ++p) *to++ = load(from + p * V, s.exact - p * V);
            } else {
                for (index p = blocks.begin; p < blocks.end; ++p) *to++ = load(from + at.at(p, s.slots));
            }
        }
    }

    // Units beyond the width are stored as zeros, up to the end of the last block of 64 bytes.
    RNNFAST_INLINE void store_rows(const Source &s, int domain, const RowAt<T> *rows, index count, Range blocks,
                                   const vec<T> *from) const {
        const index width = at.width(domain), whole = width / V, behind = at.padded(domain) / V;
        for (index r = 0; r < count; ++r) {
            T *const to = const_cast<T *>(base(rows[r], s));
            for (index p = blocks.begin; p < blocks.end; ++p, ++from) {
                if (p < whole) {
                    store(to + at.at(p, s.slots), *from);
                    continue;
                }
                store(to + at.at(p, s.slots), vec<T>{});
                store(to + at.at(p, s.slots), *from, width - p * V);
            }
            if (blocks.end != at.vectors(domain)) continue;
            for (index p = blocks.end; p < behind; ++p) store(to + at.at(p, s.slots), vec<T>{});
        }
    }

    void draw(const Instruction &code, const RowAt<T> *rows, index count, Range blocks, vec<T> *to) const {
        for (index r = 0; r < count; ++r) {
            const auto step = code.op == Op::random_step ? std::uint64_t(first_step + rows[r].t) : ~std::uint64_t(0);
            const std::uint64_t key = mix(seed, layer, std::uint64_t(code.value), step, std::uint64_t(rows[r].b));
            for (index p = blocks.begin; p < blocks.end; ++p) *to++ = uniform<T>(key, p * V);
        }
    }
};

} // namespace rnnfast::RNNFAST_ISA
