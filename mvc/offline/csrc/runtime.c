// Stands in front of libcudart, preloaded: torch sees one device whose memory is the host's. Launches are refused with an
// error that stays until it is asked for; a launch that did nothing would leave wrong numbers behind. Who measures what a
// launch costs the host asks for just that: MVC_STANDIN_LAUNCHES is 1.
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#define DONE return cudaSuccess

static __thread cudaError_t last_error = cudaSuccess;

static cudaError_t launch(void) {
  if (standin("MVC_STANDIN_LAUNCHES")) DONE;
  return last_error = cudaErrorNoKernelImageForDevice;
}

cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetDeviceCount(int *count) { *count = 1; DONE; }
cudaError_t cudaGetDevice(int *device) { *device = 0; DONE; }
cudaError_t cudaSetDevice(int device) { DONE; }
cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags) { DONE; }
cudaError_t cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; DONE; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; DONE; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  strncpy(p->name, getenv("MVC_STANDIN_NAME"), sizeof p->name - 1);
  p->major = standin("MVC_STANDIN_MAJOR");
  p->minor = standin("MVC_STANDIN_MINOR");
  p->multiProcessorCount = standin("MVC_STANDIN_SMS");
  p->totalGlobalMem = standin("MVC_STANDIN_MEMORY");
  p->l2CacheSize = standin("MVC_STANDIN_L2");
  p->sharedMemPerBlockOptin = standin("MVC_STANDIN_SHARED_BLOCK");
  p->sharedMemPerMultiprocessor = standin("MVC_STANDIN_SHARED_SM");
  p->sharedMemPerBlock = 48 << 10;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->regsPerMultiprocessor = p->regsPerBlock = 65536;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxBlocksPerMultiProcessor = 32;
  p->totalConstMem = 65536;
  p->textureAlignment = 512;
  p->unifiedAddressing = p->concurrentKernels = 1;
  DONE;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  struct cudaDeviceProp p;
  cudaGetDeviceProperties(&p, device);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    default: *value = 0;
  }
  DONE;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; DONE; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; DONE; }
cudaError_t cudaDeviceSynchronize(void) { DONE; }

cudaError_t cudaMalloc(void **pointer, size_t size) {
  return posix_memalign(pointer, 512, size ? size : 512) ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaMallocAsync(void **pointer, size_t size, cudaStream_t stream) { return cudaMalloc(pointer, size); }
cudaError_t cudaMallocHost(void **pointer, size_t size) { return cudaMalloc(pointer, size); }
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return cudaMalloc(pointer, size); }
cudaError_t cudaFree(void *pointer) { free(pointer); DONE; }
cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream) { free(pointer); DONE; }
cudaError_t cudaFreeHost(void *pointer) { free(pointer); DONE; }
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) { *free_bytes = *total = standin("MVC_STANDIN_MEMORY"); DONE; }
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) { memmove(to, from, size); DONE; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  memmove(to, from, size);
  DONE;
}
cudaError_t cudaMemset(void *to, int value, size_t size) { memset(to, value, size); DONE; }
cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) { memset(to, value, size); DONE; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
  memset(attributes, 0, sizeof *attributes);
  attributes->type = cudaMemoryTypeDevice;
  attributes->devicePointer = (void *)pointer;
  DONE;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaMalloc((void **)stream, 8); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  return cudaMalloc((void **)stream, 8);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { DONE; }
cudaError_t cudaStreamQuery(cudaStream_t stream) { DONE; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { DONE; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { DONE; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  DONE;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  DONE;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { DONE; }
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaMalloc((void **)event, 8); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return cudaMalloc((void **)event, 8); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { DONE; }
cudaError_t cudaEventQuery(cudaEvent_t event) { DONE; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { DONE; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) { DONE; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { DONE; }

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value) { DONE; }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->binaryVersion = attributes->ptxVersion = 10 * standin("MVC_STANDIN_MAJOR") + standin("MVC_STANDIN_MINOR");
  DONE;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *f, int block, size_t shared) {
  *count = 1;
  DONE;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *f, int block, size_t shared,
                                                                   unsigned flags) {
  *count = 1;
  DONE;
}

cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launch();
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **arguments) { return launch(); }
// What code of nvcc 13 calls.
cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launch();
}
cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t f, dim3 grid, dim3 block, void **arguments, size_t shared,
                                    cudaStream_t stream) {
  return launch();
}
