// Stands in for tensor_core.cuh's machine instructions; see simt.h.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../elements.h"
#include "cuda_runtime.h"

namespace mamba_export::simt::tensor_core {

template <class T>
constexpr ElementType kTypeOf = ElementType::kFloat32;
template <>
inline constexpr ElementType kTypeOf<Float16> = ElementType::kFloat16;
template <>
inline constexpr ElementType kTypeOf<BFloat16> = ElementType::kBFloat16;

inline unsigned char* dynamic_shared() { return static_cast<unsigned char*>(shared_memory()); }

inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - dynamic_shared());
}

inline unsigned lane() { return threadIdx.x % kWarp; }

// What a thread has asked for, and what has not arrived before it waits for it.
struct Copy {
  std::uint32_t to;
  std::array<unsigned char, 16> bytes;
};
inline std::vector<Copy>& copies() {
  static std::array<std::vector<Copy>, 1024> of_threads;
  return of_threads[threadIdx.x];
}

inline void copy_async(std::uint32_t to, const void* from, bool there) {
  Copy copy{to, {}};
  if (there) std::memcpy(copy.bytes.data(), from, copy.bytes.size());
  copies().push_back(copy);
  std::memset(dynamic_shared() + to, 0xff, copy.bytes.size());
}

inline void wait_for_copies() {
  for (const Copy& copy : copies()) {
    std::memcpy(dynamic_shared() + copy.to, copy.bytes.data(), copy.bytes.size());
  }
  copies().clear();
}

// Element pairs of the lane in four matrices, whose rows' addresses the lanes have.
template <bool kTransposed>
void load_any(std::uint32_t (&m)[4], std::uint32_t row) {
  const auto* const rows = static_cast<const unsigned char*>(exchange(&row, sizeof row));
  for (unsigned i = 0; i < 4; ++i) {
    const auto element = [&](unsigned r, unsigned column) {
      std::uint32_t address;
      std::memcpy(&address, rows + (8 * i + r) * kExchangeBytes, sizeof address);
      std::uint16_t bits;
      std::memcpy(&bits, dynamic_shared() + address + 2 * column, sizeof bits);
      return std::uint32_t{bits};
    };
    const unsigned line = lane() / 4, pair = lane() % 4 * 2;
    m[i] = kTransposed ? element(pair, line) | element(pair + 1, line) << 16
                       : element(line, pair) | element(line, pair + 1) << 16;
  }
  // On a GPU the warp has read when one of its threads goes on.
  warp_barrier();
}

inline void load_matrices(std::uint32_t (&m)[4], std::uint32_t row) { load_any<false>(m, row); }
inline void load_transposed(std::uint32_t (&m)[4], std::uint32_t row) { load_any<true>(m, row); }

template <class T>
void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  std::array<float, 12> mine;  // of a, then of b
  const std::uint32_t packed[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const auto bits = static_cast<std::uint16_t>(packed[i / 2] >> (16 * (i % 2)));
    mine[i] = testing::decode(kTypeOf<T>, &bits);
  }
  const auto* const all = static_cast<const unsigned char*>(exchange(&mine, sizeof mine));
  const auto of_lane = [&](unsigned from, unsigned i) {
    float value;
    std::memcpy(&value, all + from * kExchangeBytes + i * sizeof value, sizeof value);
    return value;
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned line = lane() / 4, column = lane() % 4 * 2 + i % 2;
    double sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned from = k % 8 / 2, which = k / 8 * 4 + k % 2;
      const double left = of_lane(line * 4 + from, which + i / 2 * 2);
      sum += left * of_lane(column * 4 + from, 8 + k / 8 * 2 + k % 2);
    }
    d[i] += static_cast<float>(sum);
  }
}

template <class T>
std::uint32_t pack(float low, float high) {
  std::uint16_t bits[2];
  const float values[2] = {low, high};
  for (int i = 0; i < 2; ++i) {
    const double rounded = testing::round_to(kTypeOf<T>, static_cast<double>(values[i]));
    testing::encode(kTypeOf<T>, static_cast<float>(rounded), &bits[i]);
  }
  return std::uint32_t{bits[0]} | std::uint32_t{bits[1]} << 16;
}

inline float exp2_of_product(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

}  // namespace mamba_export::simt::tensor_core
