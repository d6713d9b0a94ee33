// The passes over a sequence as the table knows them. Each pass is compiled for all cells in a unit
// of its own (csrc/units), so that an edit of one compiles one file per instruction set and dtype.
#pragma once

#include "parallel/pass.h"

namespace rnnfast::RNNFAST_ISA {

// W is what the panels hold: T, or Pair (bfloat16).
template <class Cell, class T, class W> std::size_t forward_bytes(const Forward<T> &); // that run_forward takes
template <class Cell, class T, class W> void run_forward(const Forward<T> &);
template <class Cell, class T> void run_backward(const Backward<T> &);

} // namespace rnnfast::RNNFAST_ISA
