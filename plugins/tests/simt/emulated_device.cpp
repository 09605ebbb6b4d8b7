// The emulated device for Python's tests: what it is, and what was launched on it.
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "simt.h"

namespace mamba_export::simt {
namespace {

// As in tests/plugins/emulated_device.py.
struct Launch {
  std::uint64_t kernel;  // its place in this library
  std::uint32_t blocks, threads;
  std::uint64_t shared_bytes;
};

std::vector<Launched>& log() {
  static std::vector<Launched> launches;
  return launches;
}

}  // namespace
}  // namespace mamba_export::simt

// The device of all launches that follow, which are also written down.
extern "C" __attribute__((visibility("default"))) void mamba_set_device(int processors,
                                                                        int capability,
                                                                        int shared_bytes,
                                                                        int reversed) {
  using namespace mamba_export::simt;
  device() = {processors, capability, shared_bytes, reversed != 0};
  log_launches(&log());
}

// Gives the launches since the last call, up to `room`, and forgets them. Returns how many there
// were.
extern "C" __attribute__((visibility("default"))) std::size_t mamba_take_launches(
    mamba_export::simt::Launch* to, std::size_t room) {
  using namespace mamba_export::simt;
  const std::size_t count = log().size();
  for (std::size_t i = 0; i < std::min(count, room); ++i) {
    const Launched& each = log()[i];
    Dl_info library{};
    dladdr(each.kernel, &library);
    const auto place = static_cast<const char*>(each.kernel) -
                       static_cast<const char*>(static_cast<const void*>(library.dli_fbase));
    to[i] = {static_cast<std::uint64_t>(place), each.blocks, each.threads, each.shared_bytes};
  }
  log().clear();
  return count;
}
