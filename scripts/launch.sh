#!/usr/bin/env bash
# Start a run on one or several GPUs of this machine:
#   scripts/launch.sh --config configs/gpt2_wikitext2.yaml --name first
# GPUS=2 uses two of them. For several machines pass accelerate's own options in ACCELERATE, as in
#   ACCELERATE="--num_machines 2 --machine_rank 0 --main_process_ip HOST --main_process_port 29500" GPUS=16 scripts/launch.sh ...
# (untested: we had one machine; all machines must see the same runs_dir and cache). In a container GPUs need --ipc=host.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
gpus=${GPUS:-$(.venv/bin/python -c 'import torch; print(torch.cuda.device_count())')}
options=(--num_processes "$((gpus > 0 ? gpus : 1))" --num_machines 1 --mixed_precision no --dynamo_backend no)
[ "$gpus" -gt 1 ] && options+=(--multi_gpu)
[ "$gpus" -eq 0 ] && options+=(--cpu)
# shellcheck disable=SC2206 # ACCELERATE holds several words on purpose
exec .venv/bin/accelerate launch "${options[@]}" ${ACCELERATE:-} -m collapselab run "$@"
