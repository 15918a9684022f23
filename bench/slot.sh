#!/usr/bin/env bash
# What is measured in the minutes of one call on a card:
#
#   bash bench/slot.sh FOLDER first|second|STAGE,STAGE... [SECONDS]
#
# FOLDER gets slot.jsonl (one line a stage), slot.log, tests.log and compile.log. The kernels of the 8B shape are
# compiled by many processes while others run the kernels' tests; no failing test ends anything.
#
# Needs: torch for CUDA, triton, transformers, orjson, click and rich; pytest and pytest-xdist for the tests. The
# package need not be installed. Where there is no git repository, set WARMENG_COMMIT to the commit.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,10p' "$0"; exit 2; }
folder=$1 plan=$2 seconds=${3:-345} began=$SECONDS
mkdir -p "$folder"
bash .ci/link
export PYTHONPATH="$PWD/.typing${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export PYTHONSAFEPATH=1  # this folder's "kernels" is not the distribution of that name that transformers imports
export WARMENG_DEBUG=1   # tracebacks in the logs
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton-cache} TRITON_INTERPRET=0

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true

shards=${WARMENG_SHARDS:-8}
if [ "$shards" != 0 ]; then
  for ((i = 0; i < shards; i++)); do
    timeout 120 python3 tests/kernels/gpu/compile_only.py 90 --shard "$i/$shards" >> "$folder/compile.log" 2>&1 &
  done
  (
    timeout "${WARMENG_TEST_SECONDS:-120}" python3 -c 'import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))' -n 8 --maxfail=40 \
      tests/kernels/gpu --ignore tests/kernels/gpu/test_compiled.py > "$folder/tests.log" 2>&1
    echo "tests ended with $? after $((SECONDS - began)) s" | tee -a "$folder/tests.log" > "$folder/tests.done"
    tail -3 "$folder/tests.log"
  ) &
else
  touch "$folder/tests.done"
fi
python3 -m warmeng.bench.slot "$folder" "$plan" --seconds "$((seconds - (SECONDS - began)))" \
  --wait-for "$folder/tests.done" ${WARMENG_SLOT_OPTIONS:-} 2>&1 | tee "$folder/slot.log"
