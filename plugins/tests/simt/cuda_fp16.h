// Conversions of float16; see simt.h.
#pragma once

#include "../elements.h"

struct __half {
  std::uint16_t bits;
};

inline __half __ushort_as_half(std::uint16_t bits) { return {bits}; }
inline std::uint16_t __half_as_ushort(__half x) { return x.bits; }
inline float __half2float(__half x) {
  return mamba_export::testing::decode(mamba_export::ElementType::kFloat16, &x.bits);
}
inline __half __float2half_rn(float x) {
  using namespace mamba_export;
  __half result;
  testing::encode(ElementType::kFloat16,
                  static_cast<float>(testing::round_to(ElementType::kFloat16, x)), &result.bits);
  return result;
}
