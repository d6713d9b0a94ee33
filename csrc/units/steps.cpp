// The products of a step.
#define RNNFAST_DEFINES_STEPS
#include "linalg/step.h"

namespace rnnfast::RNNFAST_ISA {

RNNFAST_STEPS(template, RNNFAST_REAL, RNNFAST_REAL)

} // namespace rnnfast::RNNFAST_ISA
