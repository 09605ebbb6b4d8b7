// Memory in which a step too far is noticed: each operand lies against a page that nobody may
// touch, at its end or at its start. Where AddressSanitizer is on, the other side is poisoned too.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) (static_cast<void>(start), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) (static_cast<void>(start), static_cast<void>(size))
#endif

namespace mamba_export::testing {

class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t capacity) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    capacity_ = (capacity + page - 1) / page * page;
    mapped_ = capacity_ + 2 * page;
    void* const map =
        mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::runtime_error("no address space for guarded memory");
    map_ = static_cast<char*>(map);
    first_ = map_ + page;
    if (mprotect(first_, capacity_, PROT_READ | PROT_WRITE) != 0) {
      throw std::runtime_error("no memory for an operand");
    }
    ASAN_POISON_MEMORY_REGION(first_, capacity_);
    placed_ = first_;
  }
  GuardedMemory(GuardedMemory&& other) noexcept
      : map_(other.map_),
        first_(other.first_),
        placed_(other.placed_),
        capacity_(other.capacity_),
        mapped_(other.mapped_) {
    other.map_ = nullptr;
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  GuardedMemory& operator=(GuardedMemory&&) = delete;
  ~GuardedMemory() {
    if (map_ == nullptr) return;
    ASAN_UNPOISON_MEMORY_REGION(first_, capacity_);
    munmap(map_, mapped_);
  }

  // Returns `bytes` that end (or start) at a guard page, with a pattern on their free side. What
  // was placed before is gone.
  char* place(std::size_t bytes, bool at_end) {
    if (bytes > capacity_) throw std::runtime_error("an operand is larger than its memory");
    poison();
    placed_ = at_end ? first_ + capacity_ - bytes : first_;
    bytes_ = bytes;
    at_end_ = at_end;
    ASAN_UNPOISON_MEMORY_REGION(margin(), margin_bytes());
    std::memset(margin(), kPattern, margin_bytes());
    poison();
    ASAN_UNPOISON_MEMORY_REGION(placed_, bytes);
    return placed_;
  }

  // Whether the free side still holds the pattern. What was placed may be read until the next call
  // of place().
  bool margin_intact() {
    ASAN_UNPOISON_MEMORY_REGION(margin(), margin_bytes());
    const char* const bytes = margin();
    return std::all_of(bytes, bytes + margin_bytes(), [](char b) { return b == kPattern; });
  }

  // All that may be placed in.
  void* memory() const { return first_; }
  std::size_t capacity() const { return capacity_; }

  // An address that nobody may read or write.
  void* forbidden() const { return map_; }

 private:
  static constexpr char kPattern = 0x5a;
  static constexpr std::size_t kMargin = 256;

  // All but the operand and its margin is poisoned already: granules of eight bytes, and what is
  // left of the last one stands before the pattern.
  void poison() {
    const char* const low = at_end_ ? margin() : placed_;
    ASAN_POISON_MEMORY_REGION(low, bytes_ + margin_bytes());
  }

  std::size_t margin_bytes() const { return std::min(kMargin, capacity_ - bytes_); }
  char* margin() const { return at_end_ ? placed_ - margin_bytes() : placed_ + bytes_; }

  char* map_ = nullptr;
  char* first_ = nullptr;
  char* placed_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t mapped_ = 0;
  std::size_t bytes_ = 0;
  bool at_end_ = true;
};

}  // namespace mamba_export::testing
