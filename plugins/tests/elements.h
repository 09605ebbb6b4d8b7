// Values of the three element types as exact doubles, by their definition and not by bit tricks:
// the kernels' conversions are under test.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "element_type.h"

namespace mamba_export::testing {

struct Format {
  int precision;     // bits of the significand, the hidden one included
  int min_exponent;  // of the smallest normal number
  double max;
};

inline Format format(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return {11, -14, 65504.0};
    case ElementType::kBFloat16:
      return {8, -126, 0x1.fep127};
    default:
      return {24, -126, 0x1.fffffep127};
  }
}

// Rounds to the nearest number of a type, ties to even; what is too large becomes infinite.
inline double round_to(ElementType type, double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const Format f = format(type);
  const int exponent = std::max(std::ilogb(value), f.min_exponent);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, f.precision - 1 - exponent)),
                                    exponent - f.precision + 1);
  if (std::fabs(rounded) <= f.max) return rounded;
  return std::copysign(std::numeric_limits<double>::infinity(), value);
}

// Writes a number that the type holds exactly.
inline void encode(ElementType type, float value, void* to) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  auto half = static_cast<std::uint16_t>(bits >> 16);
  if (type == ElementType::kFloat32) {
    std::memcpy(to, &bits, sizeof bits);
    return;
  }
  if (type == ElementType::kFloat16) {
    const auto sign = static_cast<std::uint16_t>(half & 0x8000u);
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) {
      half = 0x7e00u;
    } else if (std::isinf(value)) {
      half = 0x7c00u;
    } else if (magnitude < 0x1p-14f) {
      half = static_cast<std::uint16_t>(std::ldexp(magnitude, 24));
    } else {
      const int exponent = std::ilogb(magnitude);
      half = static_cast<std::uint16_t>(((exponent + 14) << 10) +
                                        static_cast<int>(std::ldexp(magnitude, 10 - exponent)));
    }
    half = static_cast<std::uint16_t>(half | sign);
  }
  std::memcpy(to, &half, sizeof half);
}

inline float decode(ElementType type, const void* from) {
  float value;
  if (type == ElementType::kFloat32) {
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, from, sizeof half);
  if (type == ElementType::kBFloat16) {
    const std::uint32_t bits = std::uint32_t{half} << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  if (exponent == 31) {
    value = fraction == 0 ? std::numeric_limits<float>::infinity()
                          : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return (half & 0x8000u) != 0 ? -value : value;
}

}  // namespace mamba_export::testing
