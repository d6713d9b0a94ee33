// How many threads a call uses: the only place that decides it. Nothing here depends on an instruction set.
#pragma once

#include "kernels.h"

namespace rnnfast {

constexpr int most_threads = 4096; // that anybody may ask for

// Asks OpenMP for the default and watches for fork(). Called once, when the extension module is imported.
void find_threads();

int default_threads();
void set_default_threads(int threads);

// A call of fewer multiply-adds than this runs on one thread; a test sets it to 0.
void set_small_work(double work);

// The most threads that a call of so many multiply-adds uses here and now; asked <= 0: the default.
int threads_for(int asked, double work);

// The same for a recurrent call, whose threads wait for each other after each step where the batch is small.
int threads_for_steps(int asked, double work_per_step, index steps, index batch);

} // namespace rnnfast
