// Dimensions as TensorRT hands them to a plugin before it knows them.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <stdexcept>

namespace mamba_export::testing {

// A dimension with a value that only the harness may see, unless it is a constant.
class Dimension final : public nvinfer1::IDimensionExpr {
 public:
  Dimension(std::int64_t value, bool constant) : value_{value}, inner_(value, constant) {
    mImpl = &inner_;
  }
  std::int64_t value() const { return value_; }

 private:
  class Inner final : public nvinfer1::apiv::VDimensionExpr {
   public:
    Inner(std::int64_t value, bool constant) : value_(value), constant_(constant) {}
    bool isConstant() const override { return constant_; }
    std::int64_t getConstantValue() const override {
      if (!constant_) throw std::logic_error("a plugin asks for a dimension that is not known yet");
      return value_;
    }
    bool isSizeTensor() const override { return false; }

   private:
    std::int64_t value_;
    bool constant_;
  };

  std::int64_t value_;
  Inner inner_;
};

// Every axis of an output is one of an input, so no plugin needs to compute a dimension.
class NoExpressions final : public nvinfer1::IExprBuilder {
 public:
  NoExpressions() { mImpl = &inner_; }

 private:
  class Inner final : public nvinfer1::apiv::VExprBuilder {
   public:
    using Expression = nvinfer1::IDimensionExpr;
    const Expression* constant(std::int64_t) override { return refuse(); }
    const Expression* operation(nvinfer1::DimensionOperation, const Expression&,
                                const Expression&) override {
      return refuse();
    }
    const Expression* declareSizeTensor(std::int32_t, const Expression&,
                                        const Expression&) override {
      return refuse();
    }

   private:
    static const Expression* refuse() { throw std::logic_error("a plugin computes a dimension"); }
  };

  Inner inner_;
};

}  // namespace mamba_export::testing
