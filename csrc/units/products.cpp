// The products that all passes share.
#define RNNFAST_DEFINES_PRODUCTS
#include "linalg/outer.h"

namespace rnnfast::RNNFAST_ISA {

RNNFAST_PRODUCTS(template, RNNFAST_REAL, RNNFAST_REAL)
RNNFAST_TURN(template, RNNFAST_REAL)

} // namespace rnnfast::RNNFAST_ISA
