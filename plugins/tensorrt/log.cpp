#include "log.h"

#include <atomic>
#include <cstdio>

namespace mamba_export::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* found) noexcept { finder = found; }

void log_error(const std::string& message) noexcept {
  try {
    const std::string line = "mamba_export: " + message;
    nvinfer1::ILoggerFinder* const known = finder;
    nvinfer1::ILogger* const logger = known == nullptr ? nullptr : known->findLogger();
    if (logger != nullptr) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
    } else {
      std::fprintf(stderr, "%s\n", line.c_str());
    }
  } catch (...) {
    // No memory for the line, or a logger that throws: what failed is still returned as a failure.
  }
}

}  // namespace mamba_export::trt
