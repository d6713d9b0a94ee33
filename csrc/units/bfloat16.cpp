// Forward with weights in bfloat16, for all cells, and the products of its steps: float32 alone.
#define RNNFAST_DEFINES_PAIR_STEPS
#include "cells/cells.h"
#include "recurrence/forward.h"

namespace rnnfast::RNNFAST_ISA {

RNNFAST_STEPS(template, float, Pair)

#define RNNFAST_FORWARD(Cell)                                                                                          \
    template std::size_t forward_bytes<Cell, float, Pair>(const Forward<float> &);                                     \
    template void run_forward<Cell, float, Pair>(const Forward<float> &);
RNNFAST_EACH_CELL(RNNFAST_FORWARD)

} // namespace rnnfast::RNNFAST_ISA
