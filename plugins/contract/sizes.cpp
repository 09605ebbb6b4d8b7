#include "sizes.h"

#include <algorithm>

#include "node_error.h"

namespace mamba_export {
namespace {

std::string text(const Shape& shape) {
  const std::size_t shown = std::min(shape.rank, kMaxRank);
  std::string text = "[";
  for (std::size_t i = 0; i < shown; ++i) {
    const std::string dim = shape.dims[i] < 0 ? "?" : std::to_string(shape.dims[i]);
    text += (i == 0 ? "" : ", ") + dim;
  }
  return text + (shape.rank > shown ? ", ...]" : "]");
}

// Whether shapes of the same rank may be the same: what is not known yet is.
bool agree(const Shape& a, const Shape& b) {
  return std::equal(a.dims.begin(), a.dims.begin() + a.rank, b.dims.begin(),
                    [](std::int64_t x, std::int64_t y) { return x == y || x < 0 || y < 0; });
}

}  // namespace

std::string Sizes::described() const {
  std::string text;
  if (leading_input_ != nullptr) text = "rows " + std::to_string(rows());
  for (char letter = 'A'; letter <= 'Z'; ++letter) {
    if (of_[index(letter)].input == nullptr) continue;
    text +=
        (text.empty() ? "" : ", ") + std::string(1, letter) + " " + std::to_string((*this)[letter]);
  }
  return text;
}

std::int64_t Sizes::rows() const {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i < leading_.rank; ++i) rows *= leading_.dims[i];
  return rows;
}

void Sizes::add(const TensorSpec& spec, const Shape& shape) {
  const Axes& axes = spec.axes;
  const auto must = [&] {
    return std::string(spec.op) + ": input '" + spec.name + "' must have shape [" + axes.text +
           "], found " + text(shape);
  };
  const auto differs = [&](const std::string& axis, const std::string& found, const char* other,
                           const std::string& expected) {
    throw NodeError(must() + ", so " + axis + " = " + found + ", but '" + other + "' has " + axis +
                    " = " + expected);
  };
  if (shape.rank > kMaxRank || shape.rank < axes.count ||
      (shape.rank > axes.count && !axes.leading)) {
    throw NodeError(must());
  }
  const std::size_t first = shape.rank - axes.count;
  if (axes.leading) {
    Shape found = shape;
    found.rank = first;
    if (leading_input_ == nullptr) {
      leading_ = found;
      leading_input_ = spec.name;
    }
    if (found.rank != leading_.rank || !agree(found, leading_)) {
      differs("...", text(found), leading_input_, text(leading_));
    }
  }
  for (std::size_t i = 0; i < axes.count; ++i) {
    if (shape.dims[first + i] < 0) continue;
    const auto [letter, less] = axes.axis[i];
    const std::int64_t found = shape.dims[first + i] + less;
    Size& known = of_[index(letter)];
    if (known.input == nullptr) known = {found, spec.name};
    if (known.size != found) {
      differs(std::string(1, letter), std::to_string(found), known.input,
              std::to_string(known.size));
    }
  }
}

Shape Sizes::shape_of(const TensorSpec& spec) const {
  Shape shape;
  if (spec.axes.leading) shape = leading_;
  for (std::size_t i = 0; i < spec.axes.count; ++i) {
    const auto [letter, less] = spec.axes.axis[i];
    shape.dims[shape.rank++] = (*this)[letter] - less;
  }
  return shape;
}

AxisSource source_of(const Contract& contract, const Axis& axis) {
  for (std::size_t input = 0;; ++input) {
    const Axes& axes = contract.inputs[input].axes;
    for (std::size_t i = 0; i < axes.count; ++i) {
      if (axes.axis[i].letter == axis.letter && axes.axis[i].less == axis.less) return {input, i};
    }
  }
}

std::size_t input_with(const Contract& contract, Element element) {
  std::size_t input = 0;
  while (contract.inputs[input].element != element) ++input;
  return input;
}

}  // namespace mamba_export
