// The creators of all ops.
#pragma once

#include <NvInferRuntime.h>

#include <vector>

namespace mamba_export::trt {

// They live as long as the library. Creators are called from several threads at once: they have
// nothing that changes.
const std::vector<nvinfer1::IPluginCreatorInterface*>& creators();

}  // namespace mamba_export::trt
