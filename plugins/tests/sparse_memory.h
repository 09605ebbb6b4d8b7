// An operand of many gigabytes in a few megabytes: the same pages stand at every place but one,
// which has pages of its own. What is written there stays; an offset that lost its upper half ends
// in the other pages or in none.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>

namespace mamba_export::testing {

class SparseMemory {
 public:
  // Of `size` bytes, those from `first` to `end` are kept; all others share kPeriod bytes.
  SparseMemory(std::size_t size, std::size_t first, std::size_t end) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    // The last page is nobody's, nor is as much again before the operand.
    mapped_ = (size + kPeriod - 1) / kPeriod * kPeriod + page;
    base_ = static_cast<char*>(check(mmap(nullptr, 2 * mapped_, PROT_NONE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) +
            mapped_;
    const int file = memfd_create("operand", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, kPeriod) != 0) throw std::runtime_error("no memory file");
    for (std::size_t at = 0; at + page < mapped_; at += kPeriod) {
      check(mmap(base_ + at, kPeriod, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0));
    }
    close(file);
    const std::size_t from = first / page * page;
    const std::size_t to = std::min((end + page - 1) / page * page, mapped_ - page);
    if (to > from) {
      check(mmap(base_ + from, to - from, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    }
  }
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;
  ~SparseMemory() { munmap(base_ - mapped_, 2 * mapped_); }

  char* data() const { return base_; }

 private:
  static constexpr std::size_t kPeriod = std::size_t{8} << 20;

  static void* check(void* map) {
    if (map == MAP_FAILED) throw std::runtime_error("no address space for a large operand");
    return map;
  }

  char* base_ = nullptr;
  std::size_t mapped_ = 0;
};

}  // namespace mamba_export::testing
