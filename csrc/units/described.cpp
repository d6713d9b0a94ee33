// The row of the kernel table that runs any described cell, and the pointwise functions.
#include "program/backward.h"
#include "program/forward.h"
#include "program/kernel.h"
#include "recurrence/passes.h"

namespace rnnfast::RNNFAST_ISA {
namespace {

using real = RNNFAST_REAL;
constexpr bool narrows = std::is_same_v<real, float>;
using Narrow = ProgramForward<real, std::conditional_t<narrows, Pair, real>>;

using L = ProgramLayout<real>;

index panel_size(const Sizes &s) { return L(s).size; }
index panel_size_backward(const Sizes &s) { return L(s).back_size; }
index gradient_size(const Sizes &s) { return 2 * L(s).size - L(s).matrices; }
index tape_size(const Sizes &s, index steps, index batch) {
    return ProgramRecords<real>::tape_size(L(s), steps, batch);
}
index unit_parts(const Sizes &s) { return L(s).unit_parts(); }
void pack(const Sizes &s, const Weights<const real> &w, real *panels) { L(s).move<false>(panels, w); }
void unpack(const Sizes &s, const real *panels, const Weights<real> &w) { L(s).move<true>(panels, w); }
void pack_backward(const Sizes &s, const Weights<const real> &w, real *panels, bool dx) {
    L(s).pack_backward(panels, w, dx);
}
index pairs_size(const Sizes &s) { return narrows ? L(s).pairs : 0; }
template <class T> void narrow_panels(const Sizes &s, const T *panels, std::uint32_t *pairs) {
    if constexpr (narrows) ProgramLayout<T>(s).to_pairs(panels, reinterpret_cast<Pair *>(pairs));
}
void to_pairs(const Sizes &s, const real *panels, std::uint32_t *pairs) { narrow_panels(s, panels, pairs); }
std::size_t forward_bytes(const Forward<real> &call) {
    return call.pairs ? bytes_of<Narrow>(call) : bytes_of<ProgramForward<real>>(call);
}
void forward(const Forward<real> &call) {
    call.pairs ? run_pass<Narrow>(call, call.memory) : run_pass<ProgramForward<real>>(call, call.memory);
}
void pointwise(Op op, const real *x, real *y, index n) {
    using I = Interpreter<real>;
    const FlushDenormals flush;
    const Instruction code{op, 1, 0, 0, 0, {}, 0};
    vec<real> registers[2][I::tile] = {};
    for (index i = 0; i < n; i += I::tile * I::V) {
        const index some = n - i < I::tile * I::V ? n - i : I::tile * I::V;
        for (index j = 0; j < some; j += I::V) registers[0][j / I::V] = load(x + i + j, some - j);
        I::compute(code, registers, I::tile);
        for (index j = 0; j < some; j += I::V) store(y + i + j, registers[1][j / I::V], some - j);
    }
}
void backward(const Backward<real> &call) { run_pass<ProgramBackward<real>>(call, nullptr); }

} // namespace

template <>
const CellKernel<real> Described<real>::kernel{
    0,      0,          panel_size, panel_size_backward, gradient_size, tape_size, unit_parts, pack, pack_backward,
    unpack, pairs_size, to_pairs,   forward_bytes,       forward,       backward};
template <> void Described<real>::pointwise(Op op, const real *x, real *y, index n) {
    RNNFAST_ISA::pointwise(op, x, y, n);
}

} // namespace rnnfast::RNNFAST_ISA
