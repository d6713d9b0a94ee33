#include "parallel/policy.h"

#include <algorithm>
#include <atomic>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif
#include <pthread.h>

namespace rnnfast {

namespace {

int openmp_threads = 1; // what OpenMP would use if nobody limited it
std::atomic<int> wanted_by_default{1};
std::atomic<bool> forked{false};
// A fork and a join cost 5 to 10 us: below this many multiply-adds a second thread costs more than it saves.
std::atomic<double> small_work{4e5};

// What OpenMP gives a thread that nobody has limited: OMP_NUM_THREADS, else the CPUs that this process may use. A new
// thread is asked, because a limit (omp_set_num_threads, threadpoolctl) holds in the thread that set it, and rnnfast
// may be imported under one.
int threads_of_openmp() {
    int threads = 1;
#ifdef _OPENMP
    std::thread([&] { threads = omp_get_max_threads(); }).join();
#endif
    return threads;
}

// Too little work for threads that wait for each other at each step.
bool step_is_small(double work) { return work < small_work / 8; }

} // namespace

void find_threads() {
    wanted_by_default = openmp_threads = threads_of_openmp();
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

int default_threads() { return wanted_by_default; }
void set_default_threads(int threads) { wanted_by_default = threads; }
void set_small_work(double work) { small_work = work; }

int threads_for(int asked, double work) {
    if (forked || work < small_work) return 1; // OpenMP's threads do not survive fork()
    const int wanted = asked > 0 ? asked : wanted_by_default.load();
#ifdef _OPENMP
    if (const int limit = omp_get_max_threads(); limit < openmp_threads) return std::min(wanted, limit);
#endif
    return wanted;
}

// Few rows are partitioned by units: each thread reads a part of the weights, and all wait for each other after each
// step. So a row's work counts half, and each step must be worth its barrier. docs/lab/cpu-tuning.md has the times.
int threads_for_steps(int asked, double work_per_step, index steps, index batch) {
    const double work = work_per_step * static_cast<double>(steps);
    const int threads = threads_for(asked, 2 * work);
    if (batch >= 2 * threads) return threads_for(asked, work);
    return step_is_small(work_per_step) ? 1 : threads;
}

} // namespace rnnfast
