#!/usr/bin/env bash
# Everything that is measured on a card, in order: most information first, each part in less than ten minutes.
#
#   bash bench/on_device.sh FOLDER PART...
#
# FOLDER takes the JSON lines and the logs; PART is one or more of
#   smoke       the kernels' tests on the card, then 96 requests of a small shape: run it before anything else
#   kernels     the two ceilings, then every kernel: right, share of its roofline, beside PyTorch's calls
#   generate    Llama-3.1-8B's shape: three personas, deterministic and fast, the engine alone
#   generate-hf the same shape with fewer requests, and transformers in the same process
#   grade       label grades a second, deterministic and fast
#   shapes      Mistral Small 22B and Qwen2.5 32B, the engine alone
#   hf-22b, hf-32b  these two with fewer requests, and transformers in the same process
#
# The first command that fails ends it: device time is better spent on finding out why. What a call had measured by
# then is in FOLDER too, in a file that ends in .partial.
#
# Needs: torch for CUDA, triton, transformers, orjson, llguidance, click, rich and matplotlib; smoke needs pytest too. The
# package need not be installed. Where there is no git repository, set WARMENG_COMMIT to the commit.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '4,16p' "$0"; exit 2; }
folder=$1; shift
mkdir -p "$folder" .typing/warmeng
for name in kernels engine finetune study bench cli; do ln -sfn "../../$name" ".typing/warmeng/$name"; done
export PYTHONPATH="$PWD/.typing${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export PYTHONSAFEPATH=1  # this folder's "kernels" is not the distribution of that name that transformers imports
export WARMENG_DEBUG=1   # tracebacks in the logs

run() {  # LOG SECONDS COMMAND...: one command, its output kept
  local log=$folder/$1.log seconds=$2; shift 2
  timeout "$seconds" "$@" 2>&1 | tee "$log" || { echo "on_device.sh: failed or out of time, see $log" >&2; exit 1; }
}

measure() {  # LOG ARGUMENTS...: one bench, its output kept beside its lines
  local log=$1; shift
  echo "== warmeng bench $*"
  run "$log" 590 python3 -c 'from warmeng.cli.main import main; main()' bench "$@" --device cuda --save "$folder"
}

for part in "$@"; do
  case $part in
    smoke)
      run smoke-tests 480 env TRITON_INTERPRET=0 python3 -m pytest -x tests/kernels/gpu --ignore tests/kernels/gpu/test_compiled.py
      measure smoke generate --shape smollm2-135m --random-weights --requests 96 --repeats 1 --both --baseline none \
        --seconds 60 ;;
    kernels)
      measure roofline roofline
      measure kernels kernels --budget 0.1 --seconds 420 ;;
    generate)
      measure generate-8b generate --shape llama-3.1-8b --random-weights --both --requests 1024 \
        --curve 32,128,512 --baseline none --seconds 400 ;;
    generate-hf)
      measure generate-8b-hf generate --shape llama-3.1-8b --random-weights --both --requests 512 --repeats 1 \
        --curve 32,128,512 --seconds 450 ;;
    grade)
      measure grade-8b grade --requests 512 --repeats 2
      measure grade-8b-fast grade --requests 512 --repeats 2 --fast ;;
    shapes)
      measure generate-22b generate --shape mistral-small-22b --random-weights --requests 256 --repeats 1 --both \
        --baseline none --seconds 240
      measure generate-32b generate --shape qwen2.5-32b --random-weights --requests 192 --repeats 1 --both \
        --baseline none --seconds 240 ;;
    hf-22b)
      measure generate-22b-hf generate --shape mistral-small-22b --random-weights --requests 256 --repeats 1 \
        --seconds 420 ;;
    hf-32b)
      measure generate-32b-hf generate --shape qwen2.5-32b --random-weights --requests 256 --repeats 1 \
        --seconds 420 ;;
    *) echo "no part $part" >&2; exit 2 ;;
  esac
done
