// How many threads a call uses: the only place that decides it. Nothing here depends on an instruction set.
#pragma once

#include "kernels.h"

namespace rnnfast {

constexpr int most_threads = 4096; // that anybody may ask for

// Asks OpenMP for the default and watches for fork(). Called once, when the extension module is imported.
void find_threads();

int default_threads();
void set_default_threads(int threads);

// The CPUs that this process may use: no call uses more threads, unless the default is higher.
void set_cpus(int cpus);

// A call of fewer multiply-adds than this runs on one thread; a test sets it to 0.
void set_small_work(double work);

// The most threads that a call of so many multiply-adds uses here and now; asked <= 0: the default.
int threads_for(int asked, double work);

// The same for a recurrent call, whose threads have rows of their own, or, where the batch is too small for that, parts
// of the units and wait for each other after each step. No thread is without a part, and where more threads are there
// the longest share is never longer.
int threads_for_steps(int asked, double work_per_step, index steps, index batch, index parts);

// Whether the threads of a call that has begun at `start` have lost nearly all of its time, in all `lost` nanoseconds,
// with waiting for each other. Then others have the cores, and a barrier costs milliseconds.
bool is_crowd(std::int64_t lost, std::int64_t start, int threads);

// Threads that have lost so many nanoseconds may be a crowd's. A test sets it to 0: then any are.
void set_patience(std::int64_t lost);

// For a second, calls run on one thread.
void note_crowd();

// How many threads the system has let a call have that was to have more; 0: it has refused none since it was asked
// last.
int refused_threads();

} // namespace rnnfast
