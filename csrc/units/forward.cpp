// Forward, for all cells.
#include "recurrence/forward.h"
#include "cells/cells.h"

namespace rnnfast::RNNFAST_ISA {

#define RNNFAST_FORWARD(Cell)                                                                                          \
    template std::size_t forward_bytes<Cell, RNNFAST_REAL, RNNFAST_REAL>(const Forward<RNNFAST_REAL> &);               \
    template void run_forward<Cell, RNNFAST_REAL, RNNFAST_REAL>(const Forward<RNNFAST_REAL> &);
RNNFAST_EACH_CELL(RNNFAST_FORWARD)

} // namespace rnnfast::RNNFAST_ISA
