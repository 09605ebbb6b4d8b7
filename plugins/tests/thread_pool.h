// A caller's loop for kernels under test: threads of its own, and items in a random order.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "parallel_for.h"
#include "random.h"

namespace mamba_export::testing {

class ThreadPool {
 public:
  ThreadPool(int threads, Random random) : threads_(threads), random_(random) {}

  ParallelFor parallel_for() { return {&ThreadPool::run, this}; }

  // How many loops a kernel has asked for.
  int loops() const { return loops_; }

 private:
  static void run(void* pool, std::size_t items, ParallelFor::Body body, void* context) {
    auto& self = *static_cast<ThreadPool*>(pool);
    ++self.loops_;
    std::vector<std::size_t> order(items);
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = items; i > 1; --i) {
      const auto other = self.random_.integer(0, static_cast<std::int64_t>(i) - 1);
      std::swap(order[i - 1], order[static_cast<std::size_t>(other)]);
    }
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      for (std::size_t i; (i = next.fetch_add(1)) < items;) body(context, order[i]);
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < self.threads_; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  }

  int threads_;
  Random random_;
  int loops_ = 0;
};

}  // namespace mamba_export::testing
