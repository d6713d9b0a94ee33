// The row of the kernel table that runs any described cell, of one instruction set and one real type.
#pragma once

#include "kernels.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> struct DescribedKernel {
    static const CellKernel<T> table;
};

} // namespace rnnfast::RNNFAST_ISA
