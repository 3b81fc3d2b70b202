#!/usr/bin/env bash
# scripts/stub_card/setup.sh FOLDER [ENVIRONMENT]: build the stub card in FOLDER and print how to use it. ENVIRONMENT is a
# Python environment with torch's CUDA build and the lab's dependencies; without one it is created in FOLDER (5.5 GB, once).
# Needs gcc, binutils and CUDA 13's headers.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "${1:?the folder to build in}"
folder=$(cd "$1" && pwd)
environment=${2:-$folder/venv}
if [ ! -x "$environment/bin/python" ]; then
  python3 -m venv "$environment"
  # The plain registry: pip would prefer a local CPU wheel. CUDA 13 machines have torch 2.11 today.
  PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' "$environment/bin/pip" install -q "torch==${STUB_TORCH:-2.11.0}" "$root"
  "$environment/bin/pip" uninstall -q -y collapselab
fi
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
include=(-I "$here" -I "$packages/nvidia/cu13/include")
for each in /usr/local/cuda*/include; do [ -d "$each" ] && include+=(-I "$each"); done
cd "$folder"

library() { # NAME FILE SOURCE VERSION [LINKED ...]: torch requests symbols with the library's version
  local name=$1 file=$2 source=$3 version=$4
  shift 4
  gcc -w -O1 -fPIC "${include[@]}" -c "$here/$source" -o "$name.o"
  python3 "$here/missing.py" "$packages" "$name" "$name.o" >"$name.rest.c"
  printf '%s { global: cu*; __cu*; stub_*; local: *; };\n' "$version" >"$name.map"
  [ "$version" = none ] && printf '{ global: cu*; local: *; };\n' >"$name.map"
  gcc -w -O1 -fPIC -shared "${include[@]}" "$name.o" "$name.rest.c" -o "$file" -Wl,-soname,"$file" \
    -Wl,--version-script="$name.map" "$@" -lpthread -ldl
}
library cudart libcudart.so.13 runtime.c libcudart.so.13
library cuda libcuda.so.1 driver.c none ./libcudart.so.13
library cublas libcublas.so.13 products.c libcublas.so.13 ./libcudart.so.13
library cublasLt libcublasLt.so.13 products_lt.c libcublasLt.so.13 ./libcudart.so.13
ln -sf libcuda.so.1 libcuda.so

cat >env.sh <<TEXT
export STUB_CARD=$folder STUB_PYTHON=$environment/bin/python
export PYTHONPATH=$root/src:$here
export LD_PRELOAD="$folder/libcudart.so.13 $folder/libcuda.so.1 $folder/libcublas.so.13 $folder/libcublasLt.so.13"
export TRITON_LIBCUDA_PATH=$folder LIBRARY_PATH=$folder LD_LIBRARY_PATH=$folder
export TRITON_CACHE_DIR=$folder/triton TORCHINDUCTOR_CACHE_DIR=$folder/inductor
export TORCH_CUDNN_SDPA_DEPRIORITIZED=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline
TEXT
echo "built. In a new shell: source $folder/env.sh"
echo "  \$STUB_PYTHON -m lab run --config configs/smoke.yaml --runs_dir /some/folder --device cuda"
