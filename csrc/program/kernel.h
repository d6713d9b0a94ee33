// The row of the kernel table that runs any described cell, of one instruction set and one real type.
#pragma once

#include "kernels.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> struct Described {
    static const CellKernel<T> kernel;
    static void pointwise(Op op, const T *x, T *y, index n); // y[i] = op(x[i])
};

} // namespace rnnfast::RNNFAST_ISA
