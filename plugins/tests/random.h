// Random numbers that are the same on every machine, so that two integers name a test case.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mamba_export::testing {

class Random {
 public:
  // Streams of one seed are independent of each other.
  Random(std::uint64_t seed, std::uint64_t stream) : state_(mix(seed) ^ mix(~stream)) {}

  std::uint64_t bits() { return mix(state_ += 0x9e3779b97f4a7c15u); }

  // An integer in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    const auto count = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<std::int64_t>(bits() % count);
  }

  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53;
  }

  bool chance(double probability) { return uniform(0.0, 1.0) < probability; }

  // Close to N(0,1): twelve uniform numbers, four from each draw.
  double normal() {
    double sum = 0;
    for (int draw = 0; draw < 3; ++draw) {
      const std::uint64_t word = bits();
      for (int part = 0; part < 4; ++part) {
        sum += static_cast<double>((word >> (16 * part)) & 0xffff) / 65536.0;
      }
    }
    return sum - 6.0;
  }

  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(integer(0, static_cast<std::int64_t>(from.size()) - 1))];
  }

 private:
  static std::uint64_t mix(std::uint64_t x) {  // splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  std::uint64_t state_;
};

}  // namespace mamba_export::testing
