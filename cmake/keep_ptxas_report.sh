#!/bin/sh
# Runs a compiler; what its assembler says of kernels goes to a file beside the object, the rest to
# the terminal.
for word in "$@"; do
  if [ "$previous" = -o ]; then object=$word; fi
  previous=$word
done
messages=$("$@" 2>&1)
status=$?
printf '%s\n' "$messages" | grep -E '^(ptxas info|    [0-9]+ bytes)' >"$object.ptxas"
printf '%s\n' "$messages" | grep -vE '^(ptxas info|    [0-9]+ bytes|$)'
exit $status
