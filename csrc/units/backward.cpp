// Backward, for all cells.
#include "recurrence/backward.h"
#include "cells/cells.h"

namespace rnnfast::RNNFAST_ISA {

#define RNNFAST_BACKWARD(Cell) template void run_backward<Cell, RNNFAST_REAL>(const Backward<RNNFAST_REAL> &);
RNNFAST_EACH_CELL(RNNFAST_BACKWARD)

} // namespace rnnfast::RNNFAST_ISA
