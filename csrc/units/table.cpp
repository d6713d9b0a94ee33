// The kernel table of one instruction set and one dtype, and what of it is small: packing.
#include "isa/table.h"
#include "cells/cells.h"
#include "linalg/dense.h"
#include "probes/ceilings.h"
#include "program/kernel.h"
#include "recurrence/layout.h"
#include "recurrence/passes.h"

namespace rnnfast::RNNFAST_ISA {
namespace {

using real = RNNFAST_REAL;

template <class Cell> struct Entries {
    using L = Layout<Cell, real>;
    static index panel_size(const Sizes &s) { return L(s).size; }
    static index panel_size_backward(const Sizes &s) { return L(s).back_size; }
    static index gradient_size(const Sizes &s) { return 2 * L(s).size - L(s).bias_ih; }
    static index tape_size(const Sizes &s, index steps, index batch) {
        return Records<Cell, real>::size(L(s), steps, batch);
    }
    static index unit_parts(const Sizes &s) { return L(s).unit_parts(); }
    static void pack(const Sizes &s, const Weights<const real> &w, real *panels) {
        L(s).template move<false>(panels, w);
    }
    static void unpack(const Sizes &s, const real *panels, const Weights<real> &w) {
        L(s).template move<true>(panels, w);
    }
    static void pack_backward(const Sizes &s, const Weights<const real> &w, real *panels, bool dx) {
        L(s).pack_backward(panels, w, dx);
    }
    static constexpr bool narrows = std::is_same_v<real, float>;
    static index pairs_size(const Sizes &s) { return narrows ? L(s).pairs() : 0; }
    static void to_pairs(const Sizes &s, const real *panels, std::uint32_t *pairs) {
        if constexpr (narrows) L(s).to_pairs(panels, reinterpret_cast<Pair *>(pairs));
    }
    static std::size_t bytes(const Forward<real> &call) {
        if constexpr (narrows) {
            if (call.pairs) return forward_bytes<Cell, real, Pair>(call);
        }
        return forward_bytes<Cell, real, real>(call);
    }
    static void forward(const Forward<real> &call) {
        if constexpr (narrows) {
            if (call.pairs) return run_forward<Cell, real, Pair>(call);
        }
        run_forward<Cell, real, real>(call);
    }
    static constexpr CellKernel<real> kernel{Cell::gates,
                                             Cell::states,
                                             panel_size,
                                             panel_size_backward,
                                             gradient_size,
                                             tape_size,
                                             unit_parts,
                                             pack,
                                             pack_backward,
                                             unpack,
                                             pairs_size,
                                             to_pairs,
                                             bytes,
                                             forward,
                                             run_backward<Cell, real>};
};

#define RNNFAST_ROW(Cell) Entries<Cell>::kernel,
#define RNNFAST_STRING(name) RNNFAST_QUOTE(name)
#define RNNFAST_QUOTE(name) #name

constexpr Table<real> rows{
    RNNFAST_STRING(RNNFAST_ISA),
    lanes<real>,
    {RNNFAST_EACH_KIND(RNNFAST_ROW)},
    &Described<real>::kernel,
    {Dense<real>::panel_size, Dense<real>::panel_size_backward, Dense<real>::pack, Dense<real>::pack_backward,
     Dense<real>::unpack, run_dense_forward<real>, run_dense_backward<real>},
    Described<real>::pointwise,
    fma_peak<real>,
    read_bandwidth<real>,
};

} // namespace
} // namespace rnnfast::RNNFAST_ISA

namespace rnnfast {

#define RNNFAST_JOIN(a, b, c) a##_##b##_##c
#define RNNFAST_TABLE(isa, dtype) RNNFAST_JOIN(table, isa, dtype)

extern const Table<RNNFAST_REAL> RNNFAST_TABLE(RNNFAST_ISA, RNNFAST_REAL_NAME) = RNNFAST_ISA::rows;

} // namespace rnnfast
