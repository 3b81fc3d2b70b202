// CUDA's runtime (libcudart) in host memory. Allocations, copies, streams, events and the rules of recording are real; kernels
// are counted and not run. Other functions that torch needs return success (missing.py).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cuda_runtime_api.h"
#undef cudaGetDeviceProperties

#include "card.h"

#define CONTEXT_BYTES (600ul << 20)    // taken by a context
#define COPIED_AT_MOST (64ul << 20)    // larger copies within the card are skipped: nobody reads their result
#define SET_AT_MOST (256ul << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread cudaError_t last_error;
static __thread int current_device;

static cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// --- messages --------------------------------------------------------------------------------------------------------

static FILE *log_file(void) {
  static FILE *file;
  static int asked;
  if (!asked) {
    asked = 1;
    const char *name = getenv("STUB_LOG");
    if (name) file = fopen(name, "a");
  }
  return file;
}

API void stub_note(const char *format, ...) {
  FILE *file = log_file();
  if (!file) return;
  va_list rest;
  va_start(rest, format);
  fprintf(file, "%d ", (int)getpid());
  vfprintf(file, format, rest);
  fputc('\n', file);
  fflush(file);
  va_end(rest);
}

API void stub_complain(const char *format, ...) {
  char text[400];
  va_list rest;
  va_start(rest, format);
  vsnprintf(text, sizeof text, format, rest);
  va_end(rest);
  fprintf(stderr, "STUB CARD: %s\n", text);
  stub_note("COMPLAINT %s", text);
}

// --- the card --------------------------------------------------------------------------------------------------------

static double number(const char *variable, double otherwise) {
  const char *text = getenv(variable);
  return text && *text ? atof(text) : otherwise;
}

API size_t stub_total_bytes(void) { return (size_t)(number("STUB_GB", 139.8) * (double)(1ul << 30)); }

API int stub_attribute(int which) {
  int capability = (int)number("STUB_CAPABILITY", 90);
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor: return capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return capability % 10;
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 0x7fffffff;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return 32;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 227 << 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 228 << 10;
    case cudaDevAttrReservedSharedMemoryPerBlock: return 1 << 10;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrTotalConstantMemory: return 65536;
    case cudaDevAttrL2CacheSize: return 60 << 20;
    case cudaDevAttrGlobalMemoryBusWidth: return 6144;
    case cudaDevAttrMemoryClockRate: return 3201000;
    case cudaDevAttrClockRate: return 1980000;
    case cudaDevAttrTextureAlignment: return 512;
    case cudaDevAttrConcurrentKernels: case cudaDevAttrUnifiedAddressing: case cudaDevAttrManagedMemory:
    case cudaDevAttrCooperativeLaunch: case cudaDevAttrMemoryPoolsSupported: case cudaDevAttrGpuOverlap:
      return 1;
    default: return 0;
  }
}

API cudaError_t cudaGetDeviceCount(int *count) {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  *count = (int)number("STUB_CARDS", 1);
  if (visible) {
    int named = *visible && *visible != '-';
    for (const char *c = visible; *c; c++) named += *c == ',';
    if (named < *count) *count = named;
  }
  return *count ? cudaSuccess : result(cudaErrorNoDevice);
}
API cudaError_t cudaGetDevice(int *device) { return *device = current_device, cudaSuccess; }
API cudaError_t cudaSetDevice(int device) { return current_device = device, cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
  return *value = stub_attribute(which), cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "NVIDIA H200");
  p->totalGlobalMem = stub_total_bytes();
  p->major = stub_attribute(cudaDevAttrComputeCapabilityMajor);
  p->minor = stub_attribute(cudaDevAttrComputeCapabilityMinor);
  p->multiProcessorCount = stub_attribute(cudaDevAttrMultiProcessorCount);
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->sharedMemPerBlock = stub_attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  p->sharedMemPerBlockOptin = stub_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  p->sharedMemPerMultiprocessor = stub_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  p->reservedSharedMemPerBlock = 1 << 10;
  p->regsPerBlock = p->regsPerMultiprocessor = p->totalConstMem = 65536;
  p->l2CacheSize = stub_attribute(cudaDevAttrL2CacheSize);
  p->memoryBusWidth = 6144;
  p->textureAlignment = 512;
  p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = p->managedMemory = p->cooperativeLaunch = 1;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
  return snprintf(text, size, "0000:%02x:00.0", device + 1), cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int *can, int one, int other) { return *can = 1, cudaSuccess; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}

// --- errors ----------------------------------------------------------------------------------------------------------

API cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
API cudaError_t cudaPeekAtLastError(void) { return last_error; }
API const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return "an error of the stub card";
  }
}
API const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    default: return "cudaErrorUnknown";
  }
}

// --- streams and recording -------------------------------------------------------------------------------------------

typedef struct { int recording, nodes, mode, priority; unsigned long long number; } Stream;
typedef struct { int nodes; } Graph;

static int global_recordings;  // streams recorded in the mode that restricts every thread
static pthread_t recorder;
static __thread int thread_mode = cudaStreamCaptureModeGlobal;
static unsigned long long launches, replays, waits, recordings;
static int last_nodes;

API unsigned long long stub_launches(void) { return launches; }
API unsigned long long stub_replays(void) { return replays; }
API unsigned long long stub_waits(void) { return waits; }
API int stub_last_nodes(void) { return last_nodes; }

// The default streams are not objects but the values 0, 1 and 2.
static Stream *real_stream(cudaStream_t stream) { return (size_t)stream > 2 ? (Stream *)stream : NULL; }
static Stream *recording_stream(cudaStream_t stream) {
  Stream *found = real_stream(stream);
  return found && found->recording ? found : NULL;
}

API int stub_forbidden(const char *call) {
  if (!global_recordings || thread_mode == cudaStreamCaptureModeRelaxed) return 0;
  if (thread_mode == cudaStreamCaptureModeThreadLocal && !pthread_equal(recorder, pthread_self())) return 0;
  stub_complain("%s while a stream is being recorded", call);
  return 1;
}
#define REFUSE_WHILE_RECORDING if (stub_forbidden(__func__)) return result(cudaErrorStreamCaptureUnsupported)

API void stub_launch(const char *kernel, void *handle) {
  Stream *stream = recording_stream(handle);
  launches++;
  if (stream) {
    stream->nodes++;
    stub_note("node %s", kernel);
    return;
  }
  if (!real_stream(handle) && global_recordings && pthread_equal(recorder, pthread_self()))
    stub_complain("%s goes to the default stream while another is being recorded", kernel);
  if (getenv("STUB_LOG_ALL")) stub_note("launch %s", kernel);
}

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  Stream *made = calloc(1, sizeof *made);
  made->priority = priority;
  return *stream = (cudaStream_t)made, cudaSuccess;
}
API cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
API cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
  Stream *found = real_stream(stream);
  return *priority = found ? found->priority : 0, cudaSuccess;
}
API cudaError_t cudaStreamQuery(cudaStream_t stream) { REFUSE_WHILE_RECORDING; return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  waits++;
  if (recording_stream(stream)) stub_complain("a stream is waited for while it is being recorded");
  REFUSE_WHILE_RECORDING;
  return cudaSuccess;
}
API cudaError_t cudaDeviceSynchronize(void) { waits++; REFUSE_WHILE_RECORDING; return cudaSuccess; }
API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t call, void *data) { return call(data), cudaSuccess; }
API cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void *data, unsigned flags) {
  return call(stream, cudaSuccess, data), cudaSuccess;
}
API cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
  int before = thread_mode;
  thread_mode = *mode;
  return *mode = before, cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = recording_stream(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
    unsigned long long *number, cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
    size_t *count) {
  Stream *found = recording_stream(stream);
  if (number && found) *number = found->number;
  if (graph) *graph = (cudaGraph_t)found;
  if (nodes) *nodes = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return status ? cudaStreamIsCapturing(stream, status) : cudaSuccess;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode) {
  Stream *stream = real_stream(handle);
  if (!stream) {
    stub_complain("the default stream cannot be recorded");
    return result(cudaErrorStreamCaptureUnsupported);
  }
  *stream = (Stream){.recording = 1, .mode = mode, .priority = stream->priority, .number = ++recordings};
  if (mode == cudaStreamCaptureModeGlobal) global_recordings++, recorder = pthread_self();
  return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
  Stream *stream = recording_stream(handle);
  if (!stream) return result(cudaErrorIllegalState);
  stream->recording = 0;
  if (stream->mode == cudaStreamCaptureModeGlobal) global_recordings--;
  Graph *made = calloc(1, sizeof *made);
  made->nodes = last_nodes = stream->nodes;
  stub_note("recorded %d nodes", made->nodes);
  return *graph = (cudaGraph_t)made, cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags) {
  return *made = calloc(1, 8), cudaSuccess;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) { return replays++, cudaSuccess; }
API cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return free(graph), cudaSuccess; }
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return free(graph), cudaSuccess; }
API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
  return *count = ((Graph *)graph)->nodes, cudaSuccess;
}

// --- events: they hold a time ----------------------------------------------------------------------------------------

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  return *event = calloc(1, sizeof(double)), cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t event) { return free(event), cudaSuccess; }
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *(double *)event = 1e3 * now.tv_sec + 1e-6 * now.tv_nsec;
  return cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecordWithFlags(event, stream, 0); }
API cudaError_t cudaEventQuery(cudaEvent_t event) { REFUSE_WHILE_RECORDING; return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t event) { waits++; REFUSE_WHILE_RECORDING; return cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  double passed = *(double *)end - *(double *)begin;
  return *ms = passed > 1e-3 ? passed : 1e-3, cudaSuccess;
}

// --- memory ----------------------------------------------------------------------------------------------------------

typedef struct { char *begin; size_t bytes; enum place place; } Range;
static Range ranges[1 << 16];
static int range_count;
static size_t used;

static Range *range_of(const void *address) {  // under the lock
  for (int i = 0; i < range_count; i++)
    if ((char *)address >= ranges[i].begin && (char *)address < ranges[i].begin + ranges[i].bytes) return &ranges[i];
  return NULL;
}
static void add_range(void *begin, size_t bytes, enum place place) {
  pthread_mutex_lock(&lock);
  if (range_count == sizeof ranges / sizeof *ranges) stub_complain("too many allocations for the stub"), abort();
  ranges[range_count++] = (Range){begin, bytes, place};
  if (place == ON_CARD) used += bytes;
  pthread_mutex_unlock(&lock);
}
static void drop_range(void *begin, int unmap) {
  pthread_mutex_lock(&lock);
  Range *found = range_of(begin);
  if (found && found->begin == begin) {
    if (unmap) munmap(begin, found->bytes);
    if (found->place == ON_CARD) used -= found->bytes;
    *found = ranges[--range_count];
  }
  pthread_mutex_unlock(&lock);
}
// Pages are allocated when touched: kernels touch none, so a card of 140 GB fits anywhere.
static cudaError_t allocate(void **address, size_t bytes, enum place place) {
  size_t whole = (bytes + 4095) / 4096 * 4096;
  *address = mmap(NULL, whole ? whole : 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*address == MAP_FAILED) return *address = NULL, result(cudaErrorMemoryAllocation);
  add_range(*address, whole ? whole : 4096, place);
  return cudaSuccess;
}
API enum place stub_place(const void *address) {
  pthread_mutex_lock(&lock);
  Range *found = range_of(address);
  enum place place = found ? found->place : NOWHERE;
  pthread_mutex_unlock(&lock);
  return place;
}

API cudaError_t cudaMalloc(void **address, size_t bytes) {
  REFUSE_WHILE_RECORDING;
  if (used + bytes + CONTEXT_BYTES > stub_total_bytes()) return *address = NULL, result(cudaErrorMemoryAllocation);
  return allocate(address, bytes, ON_CARD);
}
API cudaError_t cudaFree(void *address) {
  if (!address) return cudaSuccess;
  REFUSE_WHILE_RECORDING;
  return drop_range(address, 1), cudaSuccess;
}
API cudaError_t cudaMallocAsync(void **address, size_t bytes, cudaStream_t stream) { return cudaMalloc(address, bytes); }
API cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return cudaFree(address); }
API cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
  REFUSE_WHILE_RECORDING;
  return allocate(address, bytes, ON_HOST);
}
API cudaError_t cudaFreeHost(void *address) { return drop_range(address, 1), cudaSuccess; }
API cudaError_t cudaHostRegister(void *address, size_t bytes, unsigned flags) {
  return add_range(address, bytes, ON_HOST), cudaSuccess;
}
API cudaError_t cudaHostUnregister(void *address) { return drop_range(address, 0), cudaSuccess; }
API cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) { return allocate(address, 4096, ON_CARD); }
API cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = stub_total_bytes();
  *free_bytes = *total - CONTEXT_BYTES - used;
  return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
  memset(found, 0, sizeof *found);
  enum place place = stub_place(address);
  found->type = place == ON_CARD ? cudaMemoryTypeDevice : place == ON_HOST ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  found->devicePointer = place == NOWHERE ? NULL : (void *)address;
  found->hostPointer = place == ON_HOST ? (void *)address : NULL;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
  static int one;
  return *pool = (cudaMemPool_t)&one, cudaSuccess;
}
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr which, void *value) {
  return *(unsigned long long *)value = 0, cudaSuccess;
}

static void copy(void *to, const void *from, size_t bytes) {
  if (bytes <= COPIED_AT_MOST || stub_place(to) != ON_CARD || stub_place(from) != ON_CARD) memcpy(to, from, bytes);
}
API cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  waits++;
  REFUSE_WHILE_RECORDING;
  return copy(to, from, bytes), cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  if (recording_stream(stream)) {
    if (stub_place(to) == NOWHERE || stub_place(from) == NOWHERE) stub_complain("a copy of pageable memory is recorded");
    stub_launch("copy", stream);
  } else {
    launches++;
    copy(to, from, bytes);
  }
  return cudaSuccess;
}
API cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
    size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
  if (recording_stream(stream)) return stub_launch("copy of rows", stream), cudaSuccess;
  for (size_t row = 0; row < height; row++) memcpy((char *)to + row * to_pitch, (char *)from + row * from_pitch, width);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyPeerAsync(void *to, int there, const void *from, int here, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes), cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void *address, int value, size_t bytes, cudaStream_t stream) {
  if (recording_stream(stream)) stub_launch("fill", stream);
  else if (bytes <= SET_AT_MOST) memset(address, value, bytes);
  return cudaSuccess;
}
API cudaError_t cudaMemset(void *address, int value, size_t bytes) { return cudaMemsetAsync(address, value, bytes, NULL); }
API cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *address) { return result(cudaErrorNotSupported); }
API cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t event) { return result(cudaErrorNotSupported); }

// --- kernels ---------------------------------------------------------------------------------------------------------

typedef struct { const void *function; const char *name; } Kernel;
static Kernel *kernels;
static int kernel_count;

static const char *name_of(const void *function) {
  for (int i = kernel_count - 1; i >= 0; i--)
    if (kernels[i].function == function) return kernels[i].name;
  return "a kernel";
}
API void **__cudaRegisterFatBinary(void *binary) {
  static void *handle;
  return &handle;
}
API void __cudaRegisterFunction(void **handle, const char *function, char *device, const char *name, int limit,
    uint3 *thread, uint3 *block, dim3 *block_size, dim3 *grid_size, int *warp) {
  if (!log_file()) return;  // names are for the log alone
  if (kernel_count % 65536 == 0) kernels = realloc(kernels, (kernel_count + 65536) * sizeof *kernels);
  kernels[kernel_count++] = (Kernel){function, name};
}
API char __cudaInitModule(void **handle) { return 1; }

typedef struct { dim3 grid, block; size_t shared; cudaStream_t stream; } Call;
static __thread Call calls[16];
static __thread int depth;
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
  return calls[depth++] = (Call){grid, block, shared, stream}, 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  Call call = calls[--depth];
  *grid = call.grid, *block = call.block, *shared = call.shared, *(cudaStream_t *)stream = call.stream;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(void **kernel, const void *function) { return *kernel = (void *)function, cudaSuccess; }

static cudaError_t launch(const void *kernel, dim3 grid, dim3 block, cudaStream_t stream) {
  unsigned threads = block.x * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 || !threads || threads > 1024) {
    stub_complain("%s: a grid of %u x %u x %u with %u threads", name_of(kernel), grid.x, grid.y, grid.z, threads);
    return result(cudaErrorInvalidConfiguration);
  }
  return stub_launch(name_of(kernel), stream), cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launch(kernel, grid, block, stream);
}
API cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launch(kernel, grid, block, stream);
}
API cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
    cudaStream_t stream) {
  return launch(kernel, grid, block, stream);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *call, const void *kernel, void **arguments) {
  return launch(kernel, call->gridDim, call->blockDim, call->stream);
}
API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->binaryVersion = found->ptxVersion = (int)number("STUB_CAPABILITY", 90);
  found->maxDynamicSharedSizeBytes = 48 << 10;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *kernel, int block,
    size_t shared, unsigned flags) {
  return *count = 2, cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *kernel, int block, size_t shared) {
  return *count = 2, cudaSuccess;
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *how) {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
  char versioned[200];
  snprintf(versioned, sizeof versioned, "%s_v2", name);
  *found = driver ? dlsym(driver, name) : NULL;
  if (driver && !*found) *found = dlsym(driver, versioned);
  if (!*found) stub_note("the driver has no %s", name);
  if (how) *how = *found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
