// CUDA's driver interface (libcuda), the part that torch and Triton's launchers use.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

#include "card.h"

static const CUcontext CONTEXT = (CUcontext)0x1000;  // the only one; only its address matters
typedef struct { char *name; } Function;

API CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int *version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice *device, int number) { return *device = number, CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
API CUresult cuDeviceGetName(char *text, int size, CUdevice device) { return snprintf(text, size, "NVIDIA H200"), CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
  return *value = stub_attribute(which), CUDA_SUCCESS;
}
API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) { return *bytes = stub_total_bytes(), CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext *context) { return *context = CONTEXT, CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }
API CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
API CUresult cuCtxGetLimit(size_t *value, CUlimit which) { return *value = 0, CUDA_SUCCESS; }
API CUresult cuCtxSetLimit(CUlimit which, size_t value) { return CUDA_SUCCESS; }
API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { return *context = CONTEXT, CUDA_SUCCESS; }
API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  return *flags = 0, *active = 1, CUDA_SUCCESS;
}

API CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  if (stub_forbidden(__func__)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return *module = calloc(1, 8), CUDA_SUCCESS;
}
API CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *which, void **values) {
  return cuModuleLoadData(module, image);
}
API CUresult cuModuleLoad(CUmodule *module, const char *path) { return cuModuleLoadData(module, path); }
API CUresult cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction *found, CUmodule module, const char *name) {
  Function *made = calloc(1, sizeof *made);
  made->name = strdup(name);
  return *found = (CUfunction)made, CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction function) {
  *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 64 : 0;
  return CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) { return CUDA_SUCCESS; }
API CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache which) { return CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult error, const char **text) { return *text = "an error of the stub card", CUDA_SUCCESS; }
API CUresult cuGetErrorName(CUresult error, const char **text) { return *text = "CUDA_ERROR_UNKNOWN", CUDA_SUCCESS; }

static CUresult launch(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, CUstream stream) {
  const char *name = ((Function *)function)->name;
  if (!x || !y || !z || x > 0x7fffffff || y > 65535 || z > 65535 || !threads || threads > 1024) {
    stub_complain("%s: a grid of %u x %u x %u with %u threads", name, x, y, z, threads);
    return CUDA_ERROR_INVALID_VALUE;
  }
  return stub_launch(name, stream), CUDA_SUCCESS;
}
API CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, CUstream stream, void **arguments, void **more) {
  return launch(function, x, y, z, bx * by * bz, stream);
}
API CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by,
    unsigned bz, unsigned shared, CUstream stream, void **arguments) {
  return launch(function, x, y, z, bx * by * bz, stream);
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig *call, CUfunction function, void **arguments, void **more) {
  unsigned threads = call->blockDimX * call->blockDimY * call->blockDimZ;
  return launch(function, call->gridDimX, call->gridDimY, call->gridDimZ, threads, call->hStream);
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, CUfunction function, int threads, size_t shared) {
  return *count = 2, CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveClusters(int *count, CUfunction function, const CUlaunchConfig *call) {
  return *count = 1, CUDA_SUCCESS;
}
API CUresult cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr address) {
  enum place place = stub_place((void *)address);
  if (which != CU_POINTER_ATTRIBUTE_DEVICE_POINTER) return memset(value, 0, 4), CUDA_SUCCESS;
  *(CUdeviceptr *)value = address;
  return place == NOWHERE ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
API CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
    const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *steps,
    CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
    CUtensorMapFloatOOBfill fill) {
  return CUDA_SUCCESS;
}
API CUresult cuGetProcAddress_v2(const char *name, void **found, int version, cuuint64_t flags,
    CUdriverProcAddressQueryResult *how) {
  *found = dlsym(dlopen("libcuda.so.1", RTLD_LAZY), name);
  if (how) *how = *found ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
API CUresult cuGetExportTable(const void **table, const CUuuid *which) { return *table = NULL, CUDA_ERROR_NOT_FOUND; }
