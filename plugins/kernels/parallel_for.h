// How a kernel uses several threads: through a loop that its caller lends it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mamba_export {

// Calls a body once for every item, on threads of the caller's pool. A kernel never makes threads
// of its own, and its result does not depend on how many there are.
class ParallelFor {
 public:
  using Body = void (*)(void* context, std::size_t item);
  using Run = void (*)(void* pool, std::size_t items, Body body, void* context);

  // One thread: the caller's.
  constexpr ParallelFor() = default;

  // `run` calls body(context, item) for 0 <= item < items, in any order, and waits for all.
  constexpr ParallelFor(Run run, void* pool) : run_(run), pool_(pool) {}

  // Runs `body(std::int64_t item)` for every item. `item_ns` is a rough cost of one: a loop that
  // is shorter than waking the threads stays on this one.
  template <class F>
  void operator()(std::int64_t items, double item_ns, const F& body) const {
    if (run_ == nullptr || items < 2 || static_cast<double>(items) * item_ns < kWorthThreadsNs) {
      for (std::int64_t i = 0; i < items; ++i) body(i);
      return;
    }
    const Body call = [](void* context, std::size_t item) {
      (*static_cast<const F*>(context))(static_cast<std::int64_t>(item));
    };
    run_(pool_, static_cast<std::size_t>(items), call, const_cast<F*>(&body));
  }

 private:
  static constexpr double kWorthThreadsNs = 20e3;

  Run run_ = nullptr;
  void* pool_ = nullptr;
};

}  // namespace mamba_export
