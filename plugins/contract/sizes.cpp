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

// Whether every axis of an output, and its element type, are those of some input.
constexpr bool follows_inputs(const Contract& contract, const TensorSpec& output) {
  const auto some = [&](const auto& has) {
    for (const TensorSpec& input : contract.inputs) {
      if (has(input)) return true;
    }
    return false;
  };
  if (!some([&](const TensorSpec& input) { return input.element == output.element; })) return false;
  if (output.axes.leading && !some([](const TensorSpec& input) { return input.axes.leading; })) {
    return false;
  }
  for (std::size_t i = 0; i < output.axes.count; ++i) {
    const Axis& axis = output.axes.axis[i];
    const auto has = [&](const TensorSpec& input) {
      return input.axes.find(axis) < input.axes.count;
    };
    if (!some(has)) return false;
  }
  return true;
}

constexpr bool outputs_follow_inputs() {
  for (const TensorSpec& output : kOutputs) {
    if (!follows_inputs(contract_of(output.op), output)) return false;
  }
  return true;
}
static_assert(outputs_follow_inputs(), "an output has an axis or an element type of no input");

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
  if (shape.rank > kMaxRank || !axes.has_rank(shape.rank)) throw NodeError(must());
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

std::optional<std::vector<InputAxis>> axes_of(const Contract& contract, const TensorSpec& output,
                                              const std::vector<std::vector<Known>>& inputs) {
  const auto fits = [&](std::size_t i) {
    return contract.inputs[i].axes.has_rank(inputs[i].size());
  };
  const auto leading_of = [&](std::size_t i) {
    return inputs[i].size() - contract.inputs[i].axes.count;
  };
  std::size_t leading = 0;
  if (output.axes.leading) {
    std::size_t i = 0;
    while (i < inputs.size() && !(contract.inputs[i].axes.leading && fits(i))) ++i;
    if (i == inputs.size()) return std::nullopt;
    leading = leading_of(i);
  }
  std::vector<InputAxis> found;
  for (std::size_t k = 0; k < leading + output.axes.count; ++k) {
    Known most = Known::kNothing;
    InputAxis best = {};
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!fits(i) || (k < leading && leading_of(i) != leading)) continue;
      const Axes& axes = contract.inputs[i].axes;
      const std::size_t axis =
          k < leading ? k : leading_of(i) + axes.find(output.axes.axis[k - leading]);
      if (axis == inputs[i].size() || inputs[i][axis] <= most) continue;
      most = inputs[i][axis];
      best = {i, axis};
    }
    if (most == Known::kNothing) return std::nullopt;
    found.push_back(best);
  }
  return found;
}

std::size_t input_with(const Contract& contract, Element element) {
  std::size_t input = 0;
  while (contract.inputs[input].element != element) ++input;
  return input;
}

}  // namespace mamba_export
