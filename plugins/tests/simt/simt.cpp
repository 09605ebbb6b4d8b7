#include "simt.h"

#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace mamba_export::simt {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr unsigned kMaxThreads = 1024;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fibre {
  ucontext_t start;
  jmp_buf at;
  bool exists = false;
  State state = State::kReady;
  Place place;
  // Two, because a fast thread may be at its next exchange while a slow one still reads this one.
  unsigned turn = 0;
};

struct Warp {
  unsigned char values[2][kWarp][kExchangeBytes];
};

[[noreturn]] void fail(const char* what, const Fibre& fibre) {
  std::fprintf(stderr, "simt: %s (thread %u of block %u)\n", what, fibre.place.thread.x,
               fibre.place.block.x);
  std::abort();
}

class Machine {
 public:
  Machine() : fibres_(kMaxThreads), warps_(kMaxThreads / kWarp) {
    void* const map = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) std::abort();
    stacks_ = static_cast<char*>(map);
  }

  void run_block(Dim index, Dim size, const std::function<void()>& thread) {
    thread_ = &thread;
    count_ = size.x * size.y * size.z;
    for (unsigned i = 0; i < count_; ++i) {
      Fibre& fibre = fibres_[i];
      fibre.state = State::kReady;
      fibre.turn = 0;
      fibre.place = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, index};
    }
    while (run_ready()) release();
  }

  Fibre& running() { return fibres_[running_]; }
  Warp& warp() { return warps_[running_ / kWarp]; }

  void wait(State state) {
    Fibre& fibre = running();
    fibre.state = state;
    if (_setjmp(fibre.at) == 0) _longjmp(scheduler_, 1);
  }

  std::vector<unsigned char> shared = std::vector<unsigned char>(kSharedBytes);
  Device device;
  std::vector<Launched>* log = nullptr;
  unsigned outer_blocks = ~0u;  // how many of a grid run at each end

 private:
  // Lets every thread that can run do so until it waits; returns whether one is left.
  bool run_ready() {
    // Volatile: these live across longjmp.
    volatile bool alive = false;
    for (volatile unsigned i = 0; i < count_; i = i + 1) {
      running_ = device.reversed ? count_ - 1 - i : i;
      Fibre& fibre = fibres_[running_];
      if (fibre.state == State::kReady && _setjmp(scheduler_) == 0) resume(fibre);
      alive = alive || fibres_[running_].state != State::kDone;
    }
    return alive;
  }

  // A fibre outlives its thread and then runs that of the next block: making one is slow.
  void resume(Fibre& fibre) {
    if (fibre.exists) _longjmp(fibre.at, 1);
    fibre.exists = true;
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = stacks_ + running_ * kStackBytes;
    fibre.start.uc_stack.ss_size = kStackBytes;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, &Machine::enter, 0);
    setcontext(&fibre.start);
    std::abort();
  }

  static void enter();

  // Opens the barriers at which all threads have arrived; in the reverse order only one warp's, so
  // that it goes ahead of the others as far as it can.
  void release() {
    bool opened = false;
    unsigned at_block = 0, done = 0;
    const unsigned warps = (count_ + kWarp - 1) / kWarp;
    for (unsigned i = 0; i < warps && !(opened && device.reversed); ++i) {
      const unsigned first = (device.reversed ? warps - 1 - i : i) * kWarp;
      const unsigned end = first + kWarp < count_ ? first + kWarp : count_;
      unsigned at_warp = 0;
      for (unsigned thread = first; thread < end; ++thread) {
        at_warp += fibres_[thread].state == State::kAtWarpBarrier;
        at_block += fibres_[thread].state == State::kAtBlockBarrier;
        done += fibres_[thread].state == State::kDone;
      }
      if (at_warp == end - first) opened = set_ready(first, end);
    }
    if (at_block == count_) opened = set_ready(0, count_);
    if (opened) return;
    for (unsigned i = 0; i < count_; ++i) {
      if (fibres_[i].state == State::kDone) continue;
      fail(done > 0 ? "threads ended while others wait" : "threads wait at different barriers",
           fibres_[i]);
    }
  }

  bool set_ready(unsigned first, unsigned end) {
    for (unsigned i = first; i < end; ++i) fibres_[i].state = State::kReady;
    return true;
  }

  std::vector<Fibre> fibres_;
  std::vector<Warp> warps_;
  char* stacks_ = nullptr;
  const std::function<void()>* thread_ = nullptr;
  unsigned count_ = 0;
  unsigned running_ = 0;
  jmp_buf scheduler_;
};

// The static shared memory of all kernels: the calling thread's variables of this library.
struct StaticShared {
  unsigned char* first = nullptr;
  std::size_t bytes = 0;
};

thread_local unsigned char beside_shared;  // one more of them

StaticShared static_shared() {
  // They may come into being only now that an address is asked for.
  std::pair<const unsigned char*, StaticShared> search{&beside_shared, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* library, std::size_t, void* data) {
        auto& [inside, found] = *static_cast<decltype(search)*>(data);
        auto* const first = static_cast<unsigned char*>(library->dlpi_tls_data);
        for (int i = 0; first != nullptr && i < library->dlpi_phnum; ++i) {
          const auto& segment = library->dlpi_phdr[i];
          const std::less<> before;
          if (segment.p_type != PT_TLS || before(inside, first)) continue;
          if (before(inside, first + segment.p_memsz)) found = {first, segment.p_memsz};
        }
        return found.first != nullptr ? 1 : 0;
      },
      &search);
  if (search.second.first == nullptr) {
    std::fprintf(stderr, "simt: the static shared memory is not to be found\n");
    std::abort();
  }
  return search.second;
}

Machine& machine() {
  static Machine* const only = new Machine;
  return *only;
}

void Machine::enter() {
  Machine& self = machine();
  for (;;) {
    (*self.thread_)();
    self.wait(State::kDone);
  }
}

}  // namespace

Place& here() { return machine().running().place; }

void* shared_memory() { return machine().shared.data(); }

void block_barrier() { machine().wait(State::kAtBlockBarrier); }

void warp_barrier() { machine().wait(State::kAtWarpBarrier); }

const void* exchange(const void* value, std::size_t bytes) {
  if (bytes > kExchangeBytes) fail("an exchange of too many bytes", machine().running());
  Fibre& fibre = machine().running();
  auto& values = machine().warp().values[fibre.turn++ % 2];
  std::memcpy(values[fibre.place.thread.x % kWarp], value, bytes);
  warp_barrier();
  return values;
}

void run_grid(const void* kernel, Dim grid, Dim block, std::size_t shared_bytes,
              const std::function<void()>& thread) {
  static std::mutex only_one;  // threads may launch, but there is one device
  const std::lock_guard<std::mutex> lock(only_one);
  Machine& self = machine();
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || shared_bytes > kSharedBytes) {
    std::fprintf(stderr, "simt: a launch of %u threads and %zu bytes\n", threads, shared_bytes);
    std::abort();
  }
  const unsigned blocks = grid.x * grid.y * grid.z;
  if (self.log != nullptr) self.log->push_back({kernel, blocks, threads, shared_bytes});
  const StaticShared fixed = static_shared();
  for (unsigned i = 0; i < blocks; ++i) {
    if (i >= self.outer_blocks && blocks - i > self.outer_blocks) continue;
    const unsigned index = self.device.reversed ? blocks - 1 - i : i;
    std::memset(self.shared.data(), 0xff, shared_bytes);
    std::memset(fixed.first, 0xff, fixed.bytes);
    self.run_block({index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y}, block,
                   thread);
  }
}

Device& device() { return machine().device; }

void run_outer_blocks(unsigned count) { machine().outer_blocks = count; }

void log_launches(std::vector<Launched>* log) { machine().log = log; }

}  // namespace mamba_export::simt
