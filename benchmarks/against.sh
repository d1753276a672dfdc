#!/bin/sh
# Measures two trees in turns on one machine and compares them:
#   benchmarks/against.sh BASE HEAD RESULTS [PASSES]
# Each tree has its .venv and runs its own benchmarks; those of one name are compared.
set -eu
base=$(cd "$1" && pwd) head=$(cd "$2" && pwd) passes=${4:-5}
mkdir -p "$3"
results=$(cd "$3" && pwd)

measure() {
  (cd "$2" && .venv/bin/python -m pytest -q benchmarks/test_hot.py -k "${BENCHMARKS:-compiled}" \
    --benchmark-json="$results/$1.json" --benchmark-max-time="${SECONDS_EACH:-0.2}" \
    -o addopts= -p no:xdist -p no:cacheprovider > "$results/$1.log" 2>&1) ||
    { cat "$results/$1.log"; exit 1; }
}

pass=1
while [ "$pass" -le "$passes" ]; do
  measure "base-$pass" "$base"
  measure "head-$pass" "$head"
  pass=$((pass + 1))
done
code=0
"$head/.venv/bin/python" "$head/benchmarks/compare.py" "$results" > "$results/summary.md" || code=$?
tee -a "${GITHUB_STEP_SUMMARY:-/dev/null}" < "$results/summary.md"
exit "$code"
