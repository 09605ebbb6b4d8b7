// Arithmetic of the reference: what a float32 computation should give, and how far a correct one
// may be off.
//
// A value is kept in double, next to a bound on the error of *any* correct float32 evaluation of
// the same formula. Each operation adds its own rounding to the errors it inherits, so a bound
// follows the length and the values of its case. No tolerance is tuned.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace mamba_export::testing {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnit = 0x1p-24;             // half a unit in the last place of float32
constexpr double kTiny = 0x1p-148;            // rounding of results that are subnormal
constexpr double kMaxFloat = 0x1.fffffep127;  // a result above may become infinite
constexpr double kSmallNormal = 0x1p-126;     // a result below may become zero

struct Bounded {
  double value = 0;
  double error = 0;  // infinite: nothing is promised, as where float32 may overflow on the way

  bool finite() const { return std::isfinite(value); }
  bool specified() const { return error < kInfinity; }
  bool is_nan() const { return specified() && std::isnan(value); }
  bool is_infinite() const { return specified() && std::isinf(value); }
};

inline Bounded unspecified() { return {0, kInfinity}; }
inline Bounded not_a_number() { return {std::numeric_limits<double>::quiet_NaN(), 0}; }

// `value` after an operation that rounds `roundings` times and inherits `error`.
inline Bounded rounded(double value, double error, double roundings = 1) {
  if (!std::isfinite(value)) return {value, 0};
  error += roundings * kUnit * std::fabs(value) + kTiny;
  return std::fabs(value) + error > kMaxFloat ? unspecified() : Bounded{value, error};
}

inline Bounded operator+(Bounded a, Bounded b) {
  if (a.is_nan() || b.is_nan()) return not_a_number();
  if (!a.specified() || !b.specified()) return unspecified();
  return rounded(a.value + b.value, a.error + b.error);
}

inline Bounded operator*(Bounded a, Bounded b) {
  if (a.is_nan() || b.is_nan()) return not_a_number();
  if (!a.specified() || !b.specified()) return unspecified();
  if (a.is_infinite() && b.is_infinite()) return {a.value * b.value, 0};
  if (a.is_infinite()) std::swap(a, b);
  if (b.is_infinite()) {
    // Infinity times a number that float32 may take for zero, or whose sign it may lose.
    const bool zero = a.value == 0 && a.error == 0;
    if (!zero && std::fabs(a.value) - a.error < kSmallNormal) return unspecified();
    return {a.value * b.value, 0};
  }
  return rounded(a.value * b.value,
                 std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error);
}

// a * b * c in any order.
inline Bounded product(Bounded a, Bounded b, Bounded c) {
  const Bounded left = a * b;
  const Bounded pairs[] = {left, b * c, a * c};
  for (const Bounded& pair : pairs) {
    if (pair.is_nan()) return not_a_number();
  }
  // Also what would overflow, or underflow before it meets an infinity, in another order.
  const bool infinite = a.is_infinite() || b.is_infinite() || c.is_infinite();
  for (const Bounded& pair : pairs) {
    if (!pair.specified()) return unspecified();
    if (infinite && pair.value != 0 && std::fabs(pair.value) < kSmallNormal) return unspecified();
  }
  Bounded result = left * c;
  if (result.specified() && result.finite()) {
    result.error += kTiny * (std::fabs(a.value) + std::fabs(b.value) + std::fabs(c.value));
  }
  return result;
}

// A sum in any order.
class Sum {
 public:
  void add(Bounded term) {
    nan_ = nan_ || term.is_nan();
    if (term.is_infinite()) {
      (term.value > 0 ? plus_ : minus_) = true;
    } else if (!term.is_nan()) {
      specified_ = specified_ && term.specified();
      value_ += term.value;
      magnitude_ += std::fabs(term.value);
      error_ += term.error;
    }
    ++terms_;
  }

  Bounded total() const {
    if (nan_ || (plus_ && minus_)) return not_a_number();
    const double error = error_ + terms_ * (kUnit * magnitude_ + kTiny);
    if (!specified_ || magnitude_ + error > kMaxFloat) return unspecified();
    if (plus_ || minus_) return {plus_ ? kInfinity : -kInfinity, 0};
    return {value_, error};
  }

 private:
  double value_ = 0;
  double magnitude_ = 0;
  double error_ = 0;
  int terms_ = 0;
  bool nan_ = false;
  bool plus_ = false;
  bool minus_ = false;
  bool specified_ = true;
};

// The value and bound of a monotone function of `x`, itself computed to within `roundings`.
template <class F>
Bounded monotone(Bounded x, double roundings, const F& f) {
  if (x.is_nan()) return not_a_number();
  if (!x.specified()) return unspecified();
  const double value = f(x.value);
  if (x.is_infinite()) return {value, 0};
  const double above = f(x.value + x.error);
  const double below = f(x.value - x.error);
  return rounded(value, std::max(above - value, value - below), roundings);
}

// exp(min(x, 0)). The kernels take powers of 2, which rounds the exponent twice more; a decay below
// the smallest normal number may be 0.
inline Bounded decay(Bounded x) {
  if (x.is_nan() || !x.specified()) return x;
  const double value = std::exp(std::min(x.value, 0.0));
  if (x.is_infinite()) return {value, 0};
  const double shift = x.error + 2 * kUnit * std::fabs(x.value);
  const double spread = shift < 0.01 ? 1.01 * shift : std::expm1(shift);
  const double flushed = value < 2 * kSmallNormal ? kSmallNormal : 0;
  return rounded(value, std::min(1.0, value * spread) + flushed, 4);
}

// log(1 + exp(x)).
inline Bounded softplus(Bounded x) {
  if (x.finite()) x.error += kUnit * std::fabs(x.value);
  return monotone(x, 4,
                  [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::fabs(v))); });
}

inline Bounded clamp(Bounded x, double low, double high) {
  if (x.is_nan() || !x.specified()) return x;
  const auto limit = [=](double v) { return std::min(std::max(v, low), high); };
  const double value = limit(x.value);
  if (x.is_infinite()) return {value, 0};
  return {value, std::max(limit(x.value + x.error) - value, value - limit(x.value - x.error))};
}

// x / (1 + exp(-x)); not monotone, but its slope is below 1.1.
inline Bounded silu(Bounded x) {
  if (x.is_nan()) return not_a_number();
  if (!x.specified()) return unspecified();
  if (x.is_infinite()) return x.value > 0 ? x : not_a_number();  // -inf / inf
  const double value = x.value / (1 + std::exp(-x.value));
  // exp(-x) overflows below -88, where the result may be -0.
  const double lost = x.value < -87 ? std::fabs(value) : 0;
  return rounded(value, 1.1 * x.error + lost, 4 + 2 * std::max(-x.value, 0.0));
}

// 1 / sqrt(x) of a sum of squares.
inline Bounded inverse_root(Bounded x) {
  if (x.is_nan() || !x.specified()) return x;
  if (x.value == 0 && x.error == 0) return {kInfinity, 0};
  if (x.value - x.error <= 0) return unspecified();
  const auto f = [](double v) { return 1 / std::sqrt(v); };
  const double value = f(x.value);
  return rounded(value, x.is_infinite() ? 0 : f(x.value - x.error) - value, 3);
}

}  // namespace mamba_export::testing
