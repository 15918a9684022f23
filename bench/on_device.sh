#!/usr/bin/env bash
# Everything that is measured on a card, in order: most information first, each part in less than ten minutes.
#
#   bash bench/on_device.sh FOLDER PART...
#
# FOLDER takes the JSON lines and the logs; PART is one or more of
#   kernels     the two ceilings, then every kernel: right, share of its roofline, beside PyTorch's calls
#   generate    Llama-3.1-8B's shape: three personas, deterministic and fast, beside transformers in the same process
#   grade       label grades a second, deterministic and fast
#   shapes      Mistral Small 22B and Qwen2.5 32B, the engine alone
#   shapes-hf   the same two beside transformers, with fewer requests
#
# Needs: torch for CUDA, triton, transformers, orjson, llguidance, click, rich and matplotlib. The package need not be
# installed. Where there is no git repository, set WARMENG_COMMIT to the commit.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '4,15p' "$0"; exit 2; }
folder=$1; shift
mkdir -p "$folder" .typing/warmeng
for name in kernels engine finetune study bench cli; do ln -sfn "../../$name" ".typing/warmeng/$name"; done
export PYTHONPATH="$PWD/.typing${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

failed=0
measure() {  # LOG ARGUMENTS...: one command, its output kept beside its lines
  local log=$folder/$1.log; shift
  echo "== warmeng bench $*"
  timeout 590 python3 -c 'from warmeng.cli.main import main; main()' bench "$@" --device cuda --save "$folder" 2>&1 |
    tee "$log" || failed=1
}

for part in "$@"; do
  case $part in
    kernels)
      measure roofline roofline
      measure kernels kernels --budget 0.1 --seconds 420 ;;
    generate)
      measure generate-8b generate --shape llama-3.1-8b --random-weights --both --requests 1024 \
        --curve 32,128,512 --seconds 400 ;;
    grade)
      measure grade-8b grade --requests 512 --repeats 2
      measure grade-8b-fast grade --requests 512 --repeats 2 --fast ;;
    shapes)
      measure generate-22b generate --shape mistral-small-22b --random-weights --requests 256 --repeats 1 --both \
        --baseline none --seconds 240
      measure generate-32b generate --shape qwen2.5-32b --random-weights --requests 192 --repeats 1 --both \
        --baseline none --seconds 240 ;;
    shapes-hf)
      measure generate-22b-hf generate --shape mistral-small-22b --random-weights --requests 128 --repeats 1 \
        --seconds 240
      measure generate-32b-hf generate --shape qwen2.5-32b --random-weights --requests 128 --repeats 1 --seconds 240 ;;
    *) echo "no part $part" >&2; exit 2 ;;
  esac
done
exit $failed
