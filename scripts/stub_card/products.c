// Functions of cuBLAS that return data; missing.py generates its products and the rest.
#include <stdlib.h>

#include "card.h"

typedef struct { void *stream; } Handle;

API int cublasCreate_v2(Handle **handle) { return *handle = calloc(1, sizeof(Handle)), 0; }
API int cublasDestroy_v2(Handle *handle) { return free(handle), 0; }
API int cublasSetStream_v2(Handle *handle, void *stream) { return handle->stream = stream, 0; }
API int cublasGetStream_v2(Handle *handle, void **stream) { return *stream = handle->stream, 0; }
API int cublasGetMathMode(Handle *handle, int *mode) { return *mode = 0, 0; }
API int cublasGetPointerMode_v2(Handle *handle, int *mode) { return *mode = 0, 0; }
