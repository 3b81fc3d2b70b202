#!/usr/bin/env bash
# The first check of the lab on a GPU: is it correct, does it reproduce its bits, how fast is it. The most important
# steps come first, and each has a time limit, so that even a short session on a card gives results.
#   scripts/gpu_check.sh [FOLDER]     writes the log, the figures and the runs to FOLDER (gpu_check)
# PYTHON: a Python with torch's CUDA build and the lab's dependencies (.venv's, else python3). SECONDS_LEFT: for all
# steps together (540). WIKITEXT: a folder that holds wikitext-2 (else the lab's speeches are the text). STUB=1 rehearses
# the check on scripts/stub_card, where the tests of numbers fail; SLOWER=5 gives each step five times its time.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=${1:-gpu_check}
budget=${SECONDS_LEFT:-540}
mkdir -p "$out" && out=$(cd "$out" && pwd)
rm -rf "$out/runs"
export PYTHONPATH=$PWD/src:$PWD/scripts/stub_card${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline
export COLLAPSELAB_CACHE=${COLLAPSELAB_CACHE:-$out/cache} # kernels are compiled once for all steps:
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$out/triton} TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$out/inductor}
module=$([ "${STUB:-0}" = 1 ] && echo lab || echo collapselab)
lab() { "$python" -m "$module" "$@"; }
: >"$out/log.txt"
: >"$out/table.txt"

step() { # NAME SECONDS COMMAND ...: runs a command for so long at most; a line of the table says how it ended
  local name=$1 most=$(($2 * ${SLOWER:-1})) left=$((budget - SECONDS)) began=$SECONDS code=0
  shift 2
  [ "$most" -gt "$left" ] && most=$left
  if [ "$left" -lt 15 ]; then
    code=none
  else
    printf '\n=== %s (at %s s)\n' "$name" "$SECONDS" | tee -a "$out/log.txt"
    timeout --kill-after=5 "$most" "$@" >>"$out/log.txt" 2>&1 || code=$?
  fi
  case $code in
    0) code=ok ;;
    none) code="left out, no time" ;;
    124 | 137) code="not finished in $most s" ;;
    *) code="FAILED with exit code $code" ;;
  esac
  printf '%-46s %4s s  %s\n' "$name" "$((SECONDS - began))" "$code" | tee -a "$out/table.txt"
}
figures() { # FILE COMMAND ...: keeps the JSON document that a bench ends with
  local file=$1
  shift
  set -o pipefail # in the shell of its own that a step has
  "$@" | tee "$file.txt" && tail -n 1 "$file.txt" >"$file" && rm "$file.txt"
}
finish() {
  printf '\n=== how it went\n'
  cat "$out/table.txt"
  "$python" scripts/gpu_figures.py "$out" || true
  printf '=== complaints\n'
  grep -aE '[Ee]rror:|FAILED|STUB CARD: [a-z]' "$out/log.txt" | cut -c1-300 | tail -n 8
}
trap finish EXIT
export -f lab figures
export python module out STUB=${STUB:-0}

{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  "$python" -c 'from collapselab.runtime.parallel import environment, unused_gpu; print(environment(), unused_gpu() or "")'
} 2>&1 | tee -a "$out/log.txt"

# Kernels beside their definitions, the engine beside the network.
step "the engine's tests" 110 env LAB_TEST_GPU=1 "$python" -m pytest tests/test_engine.py -q -p no:cacheprovider --maxfail=12 \
  -k "(kernel or bf16 or ties or penalty or variants or another_generation) and not hopper"

# Tokens per second of the sampler at 128, 512 and 1,024 tokens, with parity; transformers' generate once.
for case in 1 2 3; do
  step "sampling, case $case" 60 bash -c \
    'figures "$out/sampling-$0.json" lab bench sampling --device cuda --ours --repeats 2 --only "$0"' "$case"
done
step "generate, 128 tokens" 30 "$python" scripts/gpu_figures.py "$out" generate

# Generations 0 and 1 as Drayson et al. ran them, but for the weights: GPT-2's size, drawn at random.
text=(--mixing.tokens 1984512)
[ -d "${WIKITEXT:-/nowhere}/wikitext-2" ] && text=(--data-dir "$WIKITEXT" --corpus.source wikitext-2 --mixing.tokens null)
step "two generations of GPT-2 124M" 190 bash -c 'lab "$@"' lab run --name gpt2 --runs-dir "$out/runs" --device cuda \
  --generations 1 "${text[@]}" --corpus.tokenizer gpt2 --model.layers 12 --model.width 768 --model.heads 12 \
  --model.context 1024 --training.block 512 --training.batch-size 8 --training.precision bf16_pure --training.lr 5e-5 \
  --training.schedule linear --training.min-lr-ratio 0 --training.weight-decay 0 --training.beta2 0.999 \
  --training.loss-on-last 256 --mixing.start 0 --sampling.prompt real_prefix --sampling.prompt-tokens 256 \
  --sampling.top-k 50 --evaluation.precision bf16

# A chain that is killed in training, ended in training and gone on with has the bits of one that was left alone.
small=(run --config configs/smoke.yaml --runs-dir "$out/runs" --device cuda --deterministic true --generations 1
  --mixing.tokens 98304 --training.checkpoint-steps 8)
strike() { # SIGNAL GENERATION VERB ...: sends the signal when the generation has its first checkpoint
  local signal=$1 generation=$2 chain="$out/runs/struck/arm=main/seed=1"
  shift 2
  "$python" -m "$module" "$@" --name struck &
  local process=$!
  until compgen -G "$chain/gen_00$generation/train.unfinished/*/manifest.json" >/dev/null; do
    kill -0 "$process" 2>/dev/null || { echo "it was over before it could be struck" && return 1; }
    sleep 0.05
  done
  kill "-$signal" "$process"
  wait "$process"
  echo "$signal in generation $generation: exit code $?"
}
export -f strike
step "a deterministic chain" 70 bash -c 'lab "$@" --name whole' lab "${small[@]}"
step "  another, killed in generation 0" 45 bash -c 'strike KILL 0 "$@"' lab "${small[@]}"
step "  gone on with, ended in generation 1" 45 bash -c 'strike TERM 1 "$@"' lab "${small[@]}"
step "  gone on with to its end" 45 bash -c 'lab "$@" --name struck' lab "${small[@]}"
step "  has the same bits" 15 "$python" scripts/gpu_figures.py "$out" same

# Training, with cuDNN's attention and with torch's own (which the sampler takes in any case).
step "training" 100 bash -c 'figures "$out/training.json" lab bench training --device cuda --ours --repeats 2 --only 1'
step "training, torch's own attention" 60 env TORCH_CUDNN_SDPA_DEPRIORITIZED=1 bash -c \
  'figures "$out/training-flash.json" lab bench training --device cuda --ours --repeats 2 --only 1'
