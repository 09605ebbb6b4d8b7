# mamba_export_cuda_architectures(RESULT architecture...)
#
# Sets RESULT to those of the architectures that the CUDA compiler knows, as device code, and the
# last of them as PTX, too, for what comes after it.
function(mamba_export_cuda_architectures result)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch
    OUTPUT_VARIABLE listed RESULT_VARIABLE failed ERROR_QUIET)
  set(known "")
  foreach(architecture IN LISTS ARGN)
    string(REGEX MATCH "^[0-9]+" number "${architecture}")
    if(failed OR "${listed}\n" MATCHES "compute_${number}[^0-9]")
      list(APPEND known "${architecture}")
    endif()
  endforeach()
  list(POP_BACK known last)
  list(TRANSFORM known APPEND "-real")
  set(${result} "${known};${last}" PARENT_SCOPE)
endfunction()
