// The fused cells, and which kinds each of them is. The units of csrc/units compile all passes for each cell.
#pragma once

#include "cells/elman.h"
#include "cells/gru.h"
#include "cells/lstm.h"

#define RNNFAST_EACH_CELL(F) F(Elman) F(Lstm) F(GruAfter) F(GruBefore)

// A cell per fused kind, in the order of enum Kind.
#define RNNFAST_EACH_KIND(F) F(Elman) F(Elman) F(Elman) F(Lstm) F(GruAfter) F(GruBefore)
