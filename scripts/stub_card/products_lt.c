// cuBLASLt: empty descriptors, one algorithm that always fits, and products that are launches.
#include <stdlib.h>
#include <string.h>

#include "cublasLt.h"

#include "card.h"

API size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }
API cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return *handle = calloc(1, 64), 0; }
API cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *made, cublasComputeType_t how, cudaDataType_t type) {
  return *made = calloc(1, 256), 0;
}
API cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType type, uint64_t rows, uint64_t columns,
    int64_t stride) {
  return *made = calloc(1, 256), 0;
}
API cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *made) { return *made = calloc(1, 256), 0; }
API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t *results, int *found) {
  memset(results, 0, sizeof *results);
  results->wavesCount = 1;
  return *found = 1, 0;
}
API cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void *alpha, const void *a,
    cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
    cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm,
    void *workspace, size_t bytes, cudaStream_t stream) {
  return stub_launch(__func__, stream), 0;
}
