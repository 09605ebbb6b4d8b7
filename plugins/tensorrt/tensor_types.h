// Which element types the tensors of a node may have together.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>

#include "contract.h"

namespace mamba_export::trt {

// Whether a tensor may have its type beside those before it; inputs stand before outputs. Nothing
// after `position` is looked at.
bool fits(const Contract& contract, const nvinfer1::DataType* types, std::size_t position);

// Returns the types that a node has, of those of its inputs. Throws NodeError if they do not fit.
Types types_of(const Contract& contract, const nvinfer1::DataType* inputs);

nvinfer1::DataType data_type(Element element, Types types);

}  // namespace mamba_export::trt
