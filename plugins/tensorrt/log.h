// Errors go to the logger of the runtime that loaded this library.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>

namespace mamba_export::trt {

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Writes to standard error if no runtime has given its logger.
void log_error(const std::string& message) noexcept;

// Runs `body`; logs what it throws and returns `failed`: nothing may be thrown into the runtime.
template <class Result, class F>
Result guarded(Result failed, const F& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    log_error(error.what());
  } catch (...) {
    log_error("an exception of an unknown type");
  }
  return failed;
}

}  // namespace mamba_export::trt
