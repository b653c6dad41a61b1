#!/usr/bin/env bash
# HiGHS 1.16.0 prints two lines on file descriptor 1 when its Python object is made, before any option can be set.
#
# One would expect that `output_flag = False` keeps it silent, as it does in 1.15.1: the option can be set only on an
# object, though, and making the object is what prints. `contextlib.redirect_stdout` does not help, since the lines do
# not go through Python. A program whose standard output is JSON prints no JSON any more.
#
# Seen on 2026-11-30 with Python 3.11.7 on Linux x86-64:
#   highspy==1.15.1: nothing
#   highspy==1.16.0: Running HiGHS 1.16.0 (git hash: f3f113d): Copyright (c) 2026 under MIT licence terms
#                   Includes third-party software components, see THIRD_PARTY_NOTICES.md for full details
#
# Fails when that is no longer so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

program='
import contextlib, io
import highspy
with contextlib.redirect_stdout(io.StringIO()):
    solver = highspy.Highs()
solver.setOptionValue("output_flag", False)
solver.addVar(0.0, 1.0)
solver.run()
'

lines_printed_by() {
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/python" -m pip install --quiet --disable-pip-version-check "highspy==$1"
    "$folder/$1/bin/python" -c "$program" | wc -l
}

before=$(lines_printed_by 1.15.1)
after=$(lines_printed_by 1.16.0)
echo "lines on standard output: $before with highspy 1.15.1, $after with highspy 1.16.0"
[ "$before" -eq 0 ] && [ "$after" -eq 2 ]
