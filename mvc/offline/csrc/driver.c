// A stand-in for libcuda.so.1: one device, on which nothing can be launched. Triton and Inductor ask it what the card is.
#include <cuda.h>
#include <string.h>

#include "standin.h"

#define DONE return CUDA_SUCCESS
#define REFUSED return CUDA_ERROR_NO_BINARY_FOR_GPU
#undef cuDeviceGetUuid

static const CUcontext context = (CUcontext)1;

CUresult cuInit(unsigned flags) { DONE; }
CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION; DONE; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = 0; DONE; }
CUresult cuDeviceGetCount(int *count) { *count = 1; DONE; }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) { strncpy(name, getenv("MVC_STANDIN_NAME"), length); DONE; }

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = standin("MVC_STANDIN_MAJOR"); break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = standin("MVC_STANDIN_MINOR"); break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = standin("MVC_STANDIN_SMS"); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = standin("MVC_STANDIN_SHARED_BLOCK"); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = standin("MVC_STANDIN_SHARED_SM"); break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = standin("MVC_STANDIN_L2"); break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    default: *value = 0;
  }
  DONE;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) { *flags = 0; *active = 1; DONE; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice device) { *c = context; DONE; }
CUresult cuCtxGetCurrent(CUcontext *c) { *c = context; DONE; }
CUresult cuCtxSetCurrent(CUcontext c) { DONE; }
CUresult cuCtxPushCurrent(CUcontext c) { DONE; }
CUresult cuCtxPopCurrent(CUcontext *c) { *c = context; DONE; }
CUresult cuCtxGetDevice(CUdevice *device) { *device = 0; DONE; }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { *value = 1 << 20; DONE; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { DONE; }
CUresult cuCtxSynchronize(void) { DONE; }

CUresult cuModuleLoadData(CUmodule *module, const void *image) { *module = (CUmodule)1; DONE; }
CUresult cuModuleUnload(CUmodule module) { DONE; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) { *function = (CUfunction)1; DONE; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  DONE;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) { DONE; }
CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) { DONE; }
CUresult cuOccupancyMaxActiveClusters(int *count, CUfunction function, const CUlaunchConfig *config) { *count = 1; DONE; }

CUresult cuGetErrorString(CUresult error, const char **text) { *text = "the stand-in device launches nothing"; DONE; }
CUresult cuGetErrorName(CUresult error, const char **text) { *text = "stand-in device"; DONE; }
CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)data = pointer;
  else *(int *)data = 0;
  DONE;
}
CUresult cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult *status) {
  *function = NULL;
  return CUDA_ERROR_NOT_FOUND;
}
// Their arguments, of which there are many, do not matter.
CUresult encode_tiled(void) __asm__("cuTensorMapEncodeTiled");
CUresult encode_im2col(void) __asm__("cuTensorMapEncodeIm2col");
CUresult encode_tiled(void) { REFUSED; }
CUresult encode_im2col(void) { REFUSED; }

// Refused, or nothing is done: see runtime.c.
static CUresult launch(void) { return standin("MVC_STANDIN_LAUNCHES") ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU; }

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void **arguments, void **extra) { return launch(); }
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **arguments, void **extra) { return launch(); }
CUresult cuLaunchKernelExHandle(void) { return launch(); }
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                   unsigned bz, unsigned shared, CUstream stream, void **arguments) { return launch(); }
