"""Deaths of trials with their causes, in our words after the wordings of real threads.

Above each case stands where its wording comes from. `DEVICE`, `HOST`, `CRASHED` and `FAILED` say
what it is; the numbers, paths and names are made up.
"""

from __future__ import annotations

from autobatch.oom import Evidence
from autobatch.records import Outcome

DEVICE = Outcome.OUT_OF_MEMORY
HOST = Outcome.HOST_OUT_OF_MEMORY
CRASHED = Outcome.CRASHED
FAILED = Outcome.FAILED

EXHAUSTED = ("ResourceExhaustedError", "OpError", "Exception", "BaseException", "object")
INTERNAL = ("InternalError", "OpError", "Exception", "BaseException", "object")
UNKNOWN = ("UnknownError", "OpError", "Exception", "BaseException", "object")
NOT_FOUND = ("NotFoundError", "OpError", "Exception", "BaseException", "object")
INVALID = ("InvalidArgumentError", "OpError", "Exception", "BaseException", "object")
CANCELLED = ("CancelledError", "OpError", "Exception", "BaseException", "object")
RUNTIME = ("RuntimeError", "Exception", "BaseException", "object")
VALUE = ("ValueError", "Exception", "BaseException", "object")
TYPE = ("TypeError", "Exception", "BaseException", "object")
OS = ("OSError", "Exception", "BaseException", "object")
XLA = ("XlaRuntimeError", "RuntimeError", "Exception", "BaseException", "object")
JAX = ("JaxRuntimeError", "RuntimeError", "Exception", "BaseException", "object")

HINT = (
    "\nHint: If you want to see a list of allocated tensors when OOM happens, add "
    "report_tensor_allocations_upon_oom to RunOptions for current allocation info. This isn't "
    "available when running in Eager mode."
)
BENIGN = (
    "2021-07-09 00:20:31.1: W tensorflow/core/common_runtime/bfc_allocator.cc:271] Allocator "
    "(GPU_0_bfc) ran out of memory trying to allocate 3.27GiB with freed_by_count=0. The caller "
    "indicates that this is not a failure, but may mean that there could be performance gains if "
    "more memory were available.\n"
)
TIGHT = (
    "2021-07-09 00:20:36.3: W tensorflow/core/common_runtime/bfc_allocator.cc:456] Allocator "
    "(GPU_0_bfc) ran out of memory trying to allocate 1.50GiB (rounded to 1610612736)requested by "
    "op model/conv/Conv2D\nIf the cause is memory fragmentation maybe the environment variable "
    "'TF_GPU_ALLOCATOR=cuda_malloc_async' will improve the situation.\n"
)
NO_CUDNN = (
    "E tensorflow/stream_executor/cuda/cuda_dnn.cc:319] Loaded runtime CuDNN library: 7.5.0 but "
    "source was compiled with: 7.6.0.  CuDNN library major and minor version needs to match\n"
)
NO_CONVOLUTION = (
    "Failed to get convolution algorithm. This is probably because cuDNN failed to initialize, so "
    "try looking to see if a warning log message was printed above.\n\t [[node conv1/Conv2D]]"
)
EMULATED_BFC = (
    "W0000 00:00:1795.9 8442 bfc_allocator.cc:502] Allocator (bfc_cpu_allocator_for_gpu) ran out "
    "of memory trying to allocate 381.47MiB (rounded to 400000000)requested by op \n"
    "Current allocation summary follows.\n"
    "W0000 00:00:1795.9 8442 bfc_allocator.cc:513] <allocator contains no memory>\n"
)


def _told(types: tuple[str, ...], message: str, **more: object) -> Evidence:
    return Evidence(exception_types=types, message=message, **more)  # type: ignore[arg-type]


def _died(status: int, log: str = "", **more: object) -> Evidence:
    return Evidence(exit_status=status, log=log, **more)  # type: ignore[arg-type]


def _oom(shape: str, device: str, allocator: str) -> str:
    return (
        f"OOM when allocating tensor with shape[{shape}] and type float on "
        f"/job:localhost/replica:0/task:0/device:{device} by allocator {allocator}"
    )


MEMORY: dict[str, tuple[Outcome, Evidence]] = {
    # dBeker/Faster-RCNN-TensorFlow-Python3#110
    "bfc": (DEVICE, _told(EXHAUSTED, _oom("25088,4096", "GPU:0", "GPU_0_bfc") + HINT)),
    # santi-pdp/segan#42: TensorFlow 1 named no allocator
    "old bfc": (DEVICE, _told(EXHAUSTED, "OOM when allocating tensor with shape[100,4096,32]")),
    # titu1994/tf-eager-examples#2
    "eager": (
        DEVICE,
        _told(EXHAUSTED, _oom("60000,16,28,28", "GPU:0", "GPU_0_bfc") + " [Op:FusedBatchNorm]"),
    ),
    # tensorflow/tensorflow#13591
    "scalar": (DEVICE, _told(EXHAUSTED, "OOM when allocating tensor with shape[]")),
    # Azure/MachineLearningNotebooks#880: the first line says nothing of memory
    "two roots": (
        DEVICE,
        _told(
            EXHAUSTED,
            "2 root error(s) found.\n  (0) Resource exhausted: "
            + _oom("16,112,112,147", "GPU:0", "GPU_0_bfc")
            + "\n\t [[{{node resnet/conv1}}]]"
            + HINT
            + "\n  (1) Resource exhausted: "
            + _oom("16,112,112,147", "GPU:0", "GPU_0_bfc"),
        ),
    ),
    # the same, where the other root is a cancelled step
    "two kinds of root": (
        DEVICE,
        _told(
            CANCELLED,
            "2 root error(s) found.\n  (0) CANCELLED:  Function was cancelled before it was "
            "started\n  (1) RESOURCE_EXHAUSTED:  " + _oom("8,9", "GPU:1", "GPU_1_bfc"),
        ),
    ),
    # TensorFlow 2.21 on the emulated device, seen here
    "graph on the emulated device": (
        DEVICE,
        _told(
            EXHAUSTED,
            "Graph execution error:\n\nDetected at node Conv2D defined at (most recent call last):"
            '\n  File "a.py", line 12, in <module>\n\n'
            + _oom("64,256,256,64", "CPU:0", "bfc_cpu_allocator_for_gpu")
            + "\n\t [[{{node Conv2D}}]]"
            + HINT
            + " [Op:__inference_f_12]",
            device="cpu",
        ),
    ),
    # the emulated device without its BFC pool
    "cpu allocator, cpu probed": (
        DEVICE,
        _told(EXHAUSTED, _oom("9,9", "CPU:0", "cpu"), device="cpu"),
    ),
    # tensorflow/tensorflow#45238
    "cpu allocator, gpu probed": (HOST, _told(EXHAUSTED, _oom("1,512,647,3", "CPU:0", "cpu"))),
    # tensorflow/tensorflow#57620
    "mklcpu": (HOST, _told(EXHAUSTED, _oom("512,64,112,112", "CPU:0", "mklcpu"))),
    "bfc cpu, gpu probed": (
        HOST,
        _told(EXHAUSTED, _oom("7,7", "CPU:0", "bfc_cpu_allocator_for_gpu")),
    ),
    # tensorflow/tensorflow#11915
    "pinned pool": (HOST, _told(EXHAUSTED, _oom("1000,1000", "CPU:0", "cuda_host_bfc"))),
    # IBM/tensorflow-large-model-support#61
    "pinned pool in the log": (
        HOST,
        _died(-6, TIGHT.replace("GPU_0_bfc", "gpu_host_bfc") + "Aborted (core dumped)\n"),
    ),
    # microsoft/DirectML#34
    "DirectML": (DEVICE, _told(EXHAUSTED, _oom("16,128,98,98", "DML:0", "DmlAllocator"))),
    # iperov/DeepFaceLab#5581
    "no shape": (DEVICE, _told(EXHAUSTED, "failed to allocate memory [Op:Mul]")),
    # iperov/DeepFaceLab#5533
    "no shape, two roots": (
        DEVICE,
        _told(
            EXHAUSTED,
            "2 root error(s) found.\n  (0) Resource exhausted: failed to allocate memory\n"
            "\t [[node mul_89]]" + HINT,
        ),
    ),
    # tensorflow/tensorflow#7025
    "dst tensor": (DEVICE, _told(INTERNAL, "Dst tensor is not initialized.\n\t [[{{node a}}]]")),
    # tensorflow/tensorflow#71744
    "copy to the device": (
        DEVICE,
        _told(
            INTERNAL,
            "Failed copying input tensor from /job:localhost/replica:0/task:0/device:CPU:0 to "
            "/job:localhost/replica:0/task:0/device:GPU:0 in order to run _EagerConst: Dst tensor "
            "is not initialized.",
        ),
    ),
    # jax-ml/jax#13428
    "XLA": (
        DEVICE,
        _told(
            XLA,
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 6291456 bytes.\n"
            "BufferAssignment OOM Debugging.\nBufferAssignment stats:",
        ),
    ),
    "XLA in fit": (
        DEVICE,
        _told(
            EXHAUSTED,
            "Graph execution error:\n\nOut of memory while trying to allocate 4770354232 bytes.\n"
            "\t [[{{node StatefulPartitionedCall}}]] [Op:__inference_one_step_on_iterator_9]",
        ),
    ),
    # kingoflolz/mesh-transformer-jax#66
    "XLA request": (
        DEVICE,
        _told(
            RUNTIME,
            "Resource exhausted: Failed to allocate request for 32.00MiB (33554432B) on device "
            "ordinal 0",
        ),
    ),
    # tensorflow/tensorflow#60607
    "CUBIN": (
        DEVICE,
        _told(INTERNAL, "Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ),
    # tensorflow/tensorflow#60607, DESIGN: what XLA does after an OOM
    "XLA aborts": (
        DEVICE,
        _died(
            -6,
            "F tensorflow/tsl/framework/bfc_allocator.cc:700] Check failed: h != "
            "kInvalidChunkHandle \nFatal Python error: Aborted\n",
            device="cpu",
        ),
    ),
    # tensorflow/tensorflow#7272
    "context": (
        DEVICE,
        _told(
            INTERNAL,
            "failed initializing StreamExecutor for CUDA device ordinal 0: Internal: failed call "
            "to cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY; total memory reported: 849",
        ),
    ),
    # google-research/bert#791
    "implicit initialization": (
        DEVICE,
        _told(
            INTERNAL,
            "CUDA runtime implicit initialization on GPU:0 failed. Status: out of memory",
        ),
    ),
    # talmolab/sleap#2001
    "pinned host memory": (
        HOST,
        _told(
            INTERNAL,
            "failed to alloc 34359738368 bytes on host: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        ),
    ),
    # Accenture/AIR#7
    "pinned host memory, then death": (
        HOST,
        _died(
            -6,
            "E tensorflow/stream_executor/cuda/cuda_driver.cc:893] failed to alloc 966367744 bytes "
            "on host: CUDA_ERROR_OUT_OF_MEMORY: out of memory\nW ./tensorflow/core/common_runtime/"
            "gpu/gpu_host_allocator.h:44] could not allocate pinned host memory of size: 966367744",
        ),
    ),
    # tensorflow/tensorflow#12237
    "growth ends in death": (
        DEVICE,
        _died(
            -6,
            "I tensorflow/stream_executor/cuda/cuda_driver.cc:739] failed to allocate 2.12G "
            "(2282521344 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory\nAborted\n",
        ),
    ),
    # tensorflow/tensorflow#45423
    "cuBLAS": (
        DEVICE,
        _told(INTERNAL, "failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED"),
    ),
    # tensorflow/tensorflow#38565
    "cuDNN": (DEVICE, _told(UNKNOWN, "Could not create cudnn handle: CUDNN_STATUS_ALLOC_FAILED")),
    # NVIDIA-Genomics-Research/rapids-single-cell-examples#11
    "cuSPARSE": (
        DEVICE,
        _told(("CuSparseError", "RuntimeError", "Exception"), "CUSPARSE_STATUS_ALLOC_FAILED"),
    ),
    # PaddlePaddle/PaddleX#740, the status that means memory
    "cuSolver": (
        DEVICE,
        _told(INTERNAL, "cuSolver call failed with status CUSOLVER_STATUS_ALLOC_FAILED"),
    ),
    # cupy/cupy#1063
    "cuFFT": (DEVICE, _told(("CuFFTError", "RuntimeError", "Exception"), "CUFFT_ALLOC_FAILED")),
    # tensorflow/tensorflow#8710
    "cuFFT plan 2": (
        DEVICE,
        _died(
            -6,
            "E tensorflow/stream_executor/cuda/cuda_fft.cc:165] failed to create cuFFT "
            "batched plan:2\nF tensorflow/stream_executor/cuda/cuda_fft.cc:435] failed\n",
        ),
    ),
    # BVLC/caffe#1026
    "cuRAND": (
        DEVICE,
        _died(
            -6,
            "F0902 13:30:41 math_functions.cu:359] Check failed: status == "
            "CURAND_STATUS_SUCCESS (102 vs. 0)  CURAND_STATUS_ALLOCATION_FAILED\n",
        ),
    ),
    # tensorflow/tensorflow#36510
    "NCCL": (
        DEVICE,
        _told(
            UNKNOWN,
            "NCCL error: unhandled cuda error",
            log="tf-run:2950:3374 [0] include/alloc.h:40 NCCL WARN Cuda failure 'out of memory'\n",
        ),
    ),
    # NVIDIA/nccl#290
    "NCCL's shared memory": (
        HOST,
        _told(
            INTERNAL,
            "NCCL error: unhandled system error",
            log="[1] include/shm.h:28 NCCL WARN Call to posix_fallocate failed : No space left on "
            "device\n[1] NCCL INFO include/shm.h:41 -> 2\n",
        ),
    ),
    # tensorflow/tensorflow#60783
    "scratch": (
        DEVICE,
        _told(
            UNKNOWN,
            "CUDNN failed to allocate the scratch space for the runner or to find a working "
            "no-scratch runner.",
        ),
    ),
    # tensorflow/tensorflow#24044
    "no secondary algorithm": (
        DEVICE,
        _died(
            -6,
            "E tensorflow/stream_executor/cuda/cuda_dnn.cc:82] The primary convolution "
            "algorithm failed memory allocation, while a secondary algorithm is not provided.",
        ),
    ),
    # tensorflow/tensorflow#12251
    "no algorithm without scratch": (
        DEVICE,
        _told(NOT_FOUND, "No algorithm without scratch worked!"),
    ),
    # tensorflow/tensorflow#33666 with the log of #31274
    "convolution algorithm, log": (DEVICE, _told(UNKNOWN, NO_CONVOLUTION, log=TIGHT)),
    # tensorflow/tensorflow#32548: growing instead of taking all memory cured it
    "convolution algorithm, little left": (
        DEVICE,
        _told(
            UNKNOWN,
            NO_CONVOLUTION,
            device_free_bytes=90 << 20,
            device_limit_bytes=11 << 30,
        ),
    ),
    "convolution algorithm, smaller ran": (
        DEVICE,
        _told(UNKNOWN, NO_CONVOLUTION, smaller_size_passed=True),
    ),
    # tensorflow/tensorflow#45068
    "no algorithm, smaller ran": (
        DEVICE,
        _told(NOT_FOUND, "No algorithm worked!\n\t [[node c]]", smaller_size_passed=True),
    ),
    # tensorflow/tensorflow#9489: freeing memory cured it
    "cuBLAS not initialized, growth failed": (
        DEVICE,
        _told(
            INTERNAL,
            "Blas GEMM launch failed : a.shape=(32, 25088), b.shape=(25088, 8), m=32, n=8, k=25088",
            log="E tensorflow/stream_executor/cuda/cuda_blas.cc:238] failed to create cublas "
            "handle: CUBLAS_STATUS_NOT_INITIALIZED\nE tensorflow/stream_executor/cuda/"
            "cuda_driver.cc:828] failed to allocate 32.00M (33554432 bytes) from device: "
            "CUDA_ERROR_OUT_OF_MEMORY: out of memory\n",
        ),
    ),
    # tensorflow/tensorflow#48041: a memory limit cured it
    "cuSolver instance, little left": (
        DEVICE,
        _died(
            -6,
            "F tensorflow/core/util/cuda_solvers.cc:115] Check failed: cusolverDnCreate("
            "&cusolver_dn_handle) == CUSOLVER_STATUS_SUCCESS Failed to create cuSolverDN instance.",
            device_free_bytes=60 << 20,
            device_limit_bytes=4 << 30,
        ),
    ),
    # keras-team/keras#13889
    "HIP": (
        DEVICE,
        _told(
            INTERNAL,
            "failed to allocate 890.06M (933298432 bytes) from device: HIP_ERROR_OutOfMemory",
        ),
    ),
    # ROCm/tensorflow-upstream#82
    "HIP 1002": (
        DEVICE,
        _died(
            -6,
            "E tensorflow/stream_executor/rocm/rocm_driver.cc:601] failed to allocate 7.35G "
            "(7889485824 bytes) from device: hipError_t(1002)\nAborted (core dumped)\n",
        ),
    ),
    # ROCm/MIOpen#47
    "MIOpen": (
        DEVICE,
        _died(
            -6,
            "MIOpen Error: /src/hip/handlehip.cpp:70: Memory not available to allocate "
            "buffer: 655360000\nF tensorflow/stream_executor/rocm/rocm_dnn.cc:1603] Check "
            "failed: status == miopenStatusSuccess (7 vs. 0)Unable to find a suitable "
            "algorithm for doing forward convolution\n",
        ),
    ),
    # ROCm/legacy-rocm-build#1088 names the family of statuses
    "rocBLAS": (DEVICE, _told(INTERNAL, "rocBLAS error: rocblas_status_memory_error")),
    # ollama/ollama#6257
    "Metal": (
        DEVICE,
        _told(
            INTERNAL,
            "Error: command buffer exited with error status.\n\tInsufficient Memory "
            "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        ),
    ),
    # safx/waifu2x-metal#3
    "Metal, before": (
        DEVICE,
        _died(
            -5,
            'Error Domain=MTLCommandBufferErrorDomain Code=8 "Insufficient Memory (IOAF code 8)"',
        ),
    ),
    # tensorflow/tpu#385
    "TPU compile": (
        DEVICE,
        _told(
            EXHAUSTED,
            "Compilation failure: Ran out of memory in memory space hbm. Used 8.38G of 8.00G hbm. "
            "Exceeded hbm capacity by 385.25M.",
        ),
    ),
    # huggingface/transformers#22328
    "TPU reserve": (
        DEVICE,
        _told(
            EXHAUSTED,
            "Attempting to reserve 10.51G at the bottom of memory. That was not possible. There "
            "are 8.97G free, 0B reserved, and 8.97G reservable.",
        ),
    ),
    # googlecolab/colabtools#5126
    "TPU buffer": (
        DEVICE,
        _told(
            RUNTIME,
            "Bad StatusOr access: RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting "
            "to allocate 129.50M. That was not possible. There are 78.17M free.; (0x0x0_HBM0)",
        ),
    ),
    # tensorflow/tensorflow#9487
    "bad_alloc": (
        HOST,
        _died(
            -6,
            "terminate called after throwing an instance of 'std::bad_alloc'\n"
            "  what():  std::bad_alloc\nAborted (core dumped)\n",
        ),
    ),
    # lengstrom/fast-style-transfer#185: behind a warning that decides nothing
    "bad_alloc after a warning": (
        HOST,
        _died(
            134,
            "W tensorflow/core/framework/allocator.cc:122] Allocation of 3456000000 exceeds "
            "10% of system memory.\nterminate called after throwing an instance of "
            "'std::bad_alloc'\n",
        ),
    ),
    # NVIDIA/cccl#2092
    "thrust": (
        DEVICE,
        _died(
            -6,
            "terminate called after throwing an instance of 'thrust::system::detail::"
            "bad_alloc'\n  what():  std::bad_alloc: cudaErrorMemoryAllocation: out of memory",
        ),
    ),
    # keras-team/keras#895
    "MemoryError": (HOST, _told(("MemoryError", "Exception", "BaseException"), "")),
    # MIC-DKFZ/nnUNet#2213
    "numpy": (
        HOST,
        _told(
            ("_ArrayMemoryError", "MemoryError", "Exception"),
            "Unable to allocate 1.61 GiB for an array with shape (753, 536, 536) and data type "
            "float64",
        ),
    ),
    # tensorflow/tensorflow#39442: numpy inside tf.data, under the device's usual status
    "numpy in tf.data": (
        HOST,
        _told(
            EXHAUSTED,
            "2 root error(s) found.\n  (0) Resource exhausted:  MemoryError: Unable to allocate "
            "4.00 MiB for an array with shape (512, 512, 2) and data type float64\nTraceback (most "
            "recent call last):\n\n\t [[{{node PyFunc}}]]" + HINT,
        ),
    ),
    # microsoft/Graphormer#7
    "fork": (HOST, _told(OS, "[Errno 12] Cannot allocate memory")),
    # JingyunLiang/VRT#49
    "torch on the host": (
        HOST,
        _told(
            RUNTIME,
            "[enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 116813856768 bytes. Error code 12 (Cannot allocate memory)",
        ),
    ),
    # pytorch/pytorch#108861
    "shared memory": (
        HOST,
        _told(
            RUNTIME,
            "DataLoader worker (pid 11011) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory. Please try to raise your shared memory "
            "limit.",
        ),
    ),
    # msr-fiddle/pipedream#28
    "shared memory in the log": (
        HOST,
        _died(
            -7,
            "ERROR: Unexpected bus error encountered in worker. This might be caused by "
            "insufficient shared memory (shm).\n",
        ),
    ),
    # pytorch/ci-infra#490
    "shared memory is a file system": (
        HOST,
        _told(OS, "[Errno 28] No space left on device: '/dev/shm/psm_5a4f'"),
    ),
    # ray-project/ray#30312: the node's memory, whatever the class is called
    "Ray": (
        HOST,
        _told(
            ("OutOfMemoryError", "RayError", "Exception"),
            "Task was killed due to the node running low on memory.\nMemory on the node was "
            "21.91GB / 33.28GB",
        ),
    ),
    # kubeflow/kubeflow#1261, with memory.events of the control group
    "kernel": (HOST, _died(-9, "Epoch 1/5\n", host_oom_kills=1)),
    # jupyter/docker-stacks#736: as a shell reports it
    "kernel through a shell": (HOST, _died(137, "", host_oom_kills=2)),
    # kubernetes/kubernetes#56891
    "kernel's own log": (
        HOST,
        _died(
            -9,
            "[Wed Dec 6] python invoked oom-killer: gfp_mask=0xd0, order=0\n"
            "Memory cgroup out of memory: Killed process 812 (python)\n",
        ),
    ),
    # pytorch/pytorch#5040, killed by the kernel
    "kernel killed a data worker": (
        HOST,
        _told(
            RUNTIME,
            "DataLoader worker (pid 46794) is killed by signal: Killed.",
            host_oom_kills=1,
        ),
    ),
    "kernel killed a pool's process": (
        HOST,
        _told(
            ("BrokenProcessPool", "BrokenExecutor", "RuntimeError", "Exception"),
            "A process in the process pool was terminated abruptly while the future was running "
            "or pending.",
            host_oom_kills=1,
        ),
    ),
    # DESIGN section 1: data beyond the emulated device, seen here
    "data beyond the device": (DEVICE, _died(-11, EMULATED_BFC, device="cpu", phase="building")),
    # DESIGN section 1: oneDNN on the emulated device
    "oneDNN": (
        DEVICE,
        _died(139, EMULATED_BFC + "Fatal Python error: Segmentation fault\n", device="cpu"),
    ),
    # tensorflow/models#9809: the log's traceback is all there is
    "traceback in the log": (
        DEVICE,
        _died(
            1,
            'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n'
            "tensorflow.python.framework.errors_impl.ResourceExhaustedError: "
            + _oom("3,3", "GPU:0", "GPU_0_bfc")
            + "\n",
        ),
    ),
    # tensorflow/tensorflow#60790 shows the form of such lines
    "cancelled, the log tells": (
        DEVICE,
        _told(
            CANCELLED,
            "[_Derived_]RecvAsync is cancelled.",
            log="W tensorflow/core/framework/op_kernel.cc:1830] OP_REQUIRES failed at conv_ops.cc:1"
            " : RESOURCE_EXHAUSTED: " + _oom("4,4", "GPU:0", "GPU_0_bfc") + "\n",
        ),
    ),
    # a user's handler that fails while it handles: our own case
    "the context of a user's error": (
        DEVICE,
        _told(
            VALUE,
            "could not train",
            causes=((EXHAUSTED, _oom("3,3,512,1024", "GPU:0", "GPU_0_bfc") + HINT),),
        ),
    ),
    "quoted by a user's error": (
        DEVICE,
        _told(VALUE, "step failed: " + _oom("3,3", "GPU:0", "GPU_0_bfc")),
    ),
    # tensorflow/tensorflow#22088
    "a note of a distributed step": (
        DEVICE,
        _told(
            ("AbortedError", "OpError", "Exception"),
            "Collective ops is aborted by: ",
            causes=(((), "RESOURCE_EXHAUSTED: " + _oom("2,2", "GPU:3", "GPU_3_bfc")),),
        ),
    ),
    # pytorch/pytorch#59778
    "torch, before its own class": (
        DEVICE,
        _told(RUNTIME, "CUDA out of memory. Tried to allocate 2.26 GiB (GPU 0; 6.00 GiB total)"),
    ),
    # carolchenyx/MGFN.#35
    "torch": (
        DEVICE,
        _told(
            ("OutOfMemoryError", "RuntimeError", "Exception"),
            "CUDA out of memory. Tried to allocate 1.70 GiB. GPU 0 has a total capacity of 6 GiB",
        ),
    ),
    # adityaarun1/Detectron.pytorch#11
    "torch, short": (DEVICE, _told(RUNTIME, "CUDA error: out of memory")),
    # rowanz/neural-motifs#58
    "torch, old": (
        DEVICE,
        _told(RUNTIME, "cuda runtime error (2) : out of memory at /pytorch/aten/THCTensor.cu:25"),
    ),
    # kyuz0/amd-strix-halo-image-video-toolboxes#3
    "torch on ROCm": (
        DEVICE,
        _told(
            ("torch.OutOfMemoryError", "RuntimeError"),
            "HIP out of memory. Tried to allocate 3.31 GiB. GPU 0 has a total capacity of 128 GiB",
        ),
    ),
    # pytorch/pytorch#105839
    "torch on MPS": (
        DEVICE,
        _told(
            RUNTIME,
            "MPS backend out of memory (MPS allocated: 1.45 GB, other allocations: 7.42 GB, max "
            "allowed: 9.07 GB). Tried to allocate 563.62 MB on private pool.",
        ),
    ),
    # kijai/ComfyUI-SUPIR#183: the class alone says it
    "torch without words": (
        DEVICE,
        _told(("OutOfMemoryError", "RuntimeError", "Exception"), "Allocation on device"),
    ),
    # vllm-project/vllm-omni#1199, likewise for other back ends of torch
    "torch on another back end": (
        DEVICE,
        _told(RUNTIME, "NPU out of memory. Tried to allocate 52.00 MiB (NPU 0; 60.96 GiB total"),
    ),
    # mila-iqia/milabench#301
    "torch on Gaudi": (
        DEVICE,
        _told(
            RUNTIME,
            "[Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::2684354 (2)MB",
        ),
    ),
    # intel/torch-xpu-ops#1598
    "torch on XPU": (
        DEVICE,
        _told(
            RUNTIME,
            "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        ),
    ),
    # intel/torch-xpu-ops#1170: it may be memory
    "torch on XPU, resources, smaller ran": (
        DEVICE,
        _told(
            RUNTIME,
            "UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
            smaller_size_passed=True,
        ),
    ),
    # pytorch/pytorch#1059, microsoft/NeuronBlocks#26: works with smaller batches
    "torch's cuDNN, smaller ran": (
        DEVICE,
        _told(
            RUNTIME,
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
            "non-contiguous input.",
            smaller_size_passed=True,
        ),
    ),
    # octo-models/octo#22
    "JAX's constants": (
        DEVICE,
        _told(XLA, "INTERNAL: Failed to allocate 98697216 bytes for new constant"),
    ),
    # jax-ml/jax#5733: before jaxlib had a class of its own
    "JAX, old": (
        DEVICE,
        _told(
            RUNTIME,
            "Resource exhausted: Out of memory while trying to allocate 4398046511104 bytes.: "
            "while running replica 0 and partition 0 of a replicated computation",
        ),
    ),
    # ecmwf-lab/ai-models-graphcast#18
    "JAX": (
        DEVICE,
        _told(
            JAX,
            "RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (3206250496B) on device "
            "ordinal 0",
        ),
    ),
    # cupy/cupy#7678: its class is a MemoryError, its memory the device's
    "CuPy": (
        DEVICE,
        _told(
            ("OutOfMemoryError", "MemoryError", "Exception"),
            "Out of memory allocating 805,306,368 bytes (allocated so far: 536,870,912 bytes, "
            "limit set to: 1,073,741,824 bytes).",
        ),
    ),
    # cupy/cupy#314
    "CuPy's runtime": (
        DEVICE,
        _told(("CUDARuntimeError", "RuntimeError"), "cudaErrorMemoryAllocation: out of memory"),
    ),
    # microsoft/onnxruntime#20038
    "ONNX": (
        DEVICE,
        _told(
            ("RuntimeException", "Exception"),
            "bfc_arena.cc:368 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "
            "onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) Failed to allocate "
            "memory for requested buffer of size 2830172160",
        ),
    ),
    # PaddlePaddle/Paddle#42228
    "Paddle": (
        DEVICE,
        _told(
            RUNTIME,
            "ResourceExhaustedError:\n\nOut of memory error on GPU 0. Cannot allocate 98.000244MB "
            "memory on GPU 0, 6.000000GB memory has been allocated",
        ),
    ),
    # ildoonet/tf-pose-estimation#623 shows the form of such a death
    "status of a launch": (
        DEVICE,
        _died(
            -6,
            "F ./tensorflow/core/util/gpu_launch_config.h:129] Non-OK-status: GpuLaunchKernel(f, n)"
            " status: Internal: out of memory\n",
        ),
    ),
    # tensorflow/tensorflow#39442, under another status and without a size
    "MemoryError in tf.data": (
        HOST,
        _told(
            UNKNOWN, "MemoryError: \nTraceback (most recent call last):\n\n\t [[{{node PyFunc}}]]"
        ),
    ),
    # libtensorflow_cc: a batch is made on the CPU
    "a batch of tf.data": (
        HOST,
        _told(EXHAUSTED, "Failed to allocate memory for the batch of component 0"),
    ),
    "a batch of tf.data on the emulated device": (
        DEVICE,
        _told(EXHAUSTED, "Failed to allocate memory for the batch of component 0", device="cpu"),
    ),
    # microsoft/Graphormer#7, in a shell
    "fork in the log": (HOST, _died(-11, "/bin/sh: fork: Cannot allocate memory\n")),
    # only text, as from a record of another program
    "text alone": (
        DEVICE,
        Evidence(
            message="jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory "
            "while trying to allocate 285212672 bytes."
        ),
    ),
}

OTHER: dict[str, tuple[Outcome, Evidence]] = {
    # talmolab/sleap#2142: the warning says so itself
    "a benign warning, then a bug": (FAILED, _told(TYPE, "'NoneType' is not iterable", log=BENIGN)),
    "a benign warning, then a segfault": (CRASHED, _died(-11, BENIGN)),
    "a benign warning with a rounded size": (
        CRASHED,
        _died(-11, BENIGN.replace("3.27GiB", "3.27GiB (rounded to 3511165440)")),
    ),
    "a benign warning in two lines": (
        CRASHED,
        _died(-6, BENIGN.replace(" The caller", "\nThe caller")),
    ),
    # yuxng/PoseCNN#31
    "a share of system memory, then a segfault": (
        CRASHED,
        _died(
            -11,
            "W tensorflow/core/framework/allocator.cc:101] Allocation of 411041792 exceeds "
            "10% of free system memory.\n",
        ),
    ),
    # a log that tells of an earlier failure which the program survived
    "an old failure in the log": (FAILED, _told(VALUE, "labels must be 0 or 1", log=TIGHT)),
    # tensorflow/serving#1382
    "gRPC": (
        FAILED,
        _told(EXHAUSTED, "Received message larger than max (32243844 vs. 4194304)" + HINT),
    ),
    # flwrlabs/flower#3006
    "gRPC, sent": (
        FAILED,
        _told(
            ("_MultiThreadedRendezvous", "RpcError", "Exception"),
            "<_MultiThreadedRendezvous of RPC that terminated with:\n\tstatus = "
            'StatusCode.RESOURCE_EXHAUSTED\n\tdetails = "Sent message larger than max (544715979 '
            'vs. 536870912)"',
        ),
    ),
    # GoogleCloudPlatform/python-docs-samples#1238
    "quota": (FAILED, _told(EXHAUSTED, "Resource has been exhausted (e.g. check quota).")),
    # GoogleCloudPlatform/stable-diffusion-on-gcp#12
    "quota of GPUs": (
        FAILED,
        _told(
            ("ResourceExhausted", "GoogleAPICallError", "Exception"),
            "429 The following quota metrics exceed quota limits: nvidia_l4_gpus",
        ),
    ),
    # tensorflow/tensorboard#6454
    "rate limit": (FAILED, _told(EXHAUSTED, "Rate limit exceeded. Please try again later.")),
    # tensorflow/io#1682
    "open files": (
        FAILED,
        _told(
            EXHAUSTED, "/data/part-3.parquet; Too many open files" + HINT, smaller_size_passed=True
        ),
    ),
    # tensorflow/tensorflow#4350, with the hint that TensorFlow appends
    "disk": (
        FAILED,
        _told(EXHAUSTED, "/tmp/model/ckpt-1.data; No space left on device [Op:SaveV2]" + HINT),
    ),
    "disk, from Python": (FAILED, _told(OS, "[Errno 28] No space left on device: '/tmp/x.h5'")),
    # GoogleCloudPlatform/gcs-connector-for-pytorch#48
    "HTTP": (FAILED, _told(EXHAUSTED, "HTTP 429 when writing gs://b/c", smaller_size_passed=True)),
    # an internal error of another kind, after a failure that was survived long ago
    "an internal error, long after a failure": (
        FAILED,
        _told(INTERNAL, "Could not find compiler for platform CUDA", log=TIGHT + "step\n" * 50),
    ),
    # a status that says nothing more
    "exhausted, of what, smaller ran": (
        CRASHED,
        _told(EXHAUSTED, "{{node x}}" + HINT, smaller_size_passed=True),
    ),
    "exhausted, of what?": (CRASHED, _told(EXHAUSTED, "./model/model-49.tempstate57" + HINT)),
    # tensorflow/tensorflow#33666
    "cuDNN's version": (FAILED, _told(UNKNOWN, NO_CONVOLUTION, log=NO_CUDNN)),
    "cuDNN's version, smaller ran": (
        FAILED,
        _told(UNKNOWN, NO_CONVOLUTION, log=NO_CUDNN, smaller_size_passed=True),
    ),
    # tensorflow/tensorflow#24828
    "convolution algorithm, nothing known": (CRASHED, _told(UNKNOWN, NO_CONVOLUTION)),
    "convolution algorithm, ample memory": (
        CRASHED,
        _told(
            UNKNOWN,
            NO_CONVOLUTION,
            device_free_bytes=20 << 30,
            device_limit_bytes=24 << 30,
        ),
    ),
    # tensorflow/tensorflow#27088
    "cuBLAS not initialized, nothing known": (
        CRASHED,
        _told(
            INTERNAL, "failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED", log=BENIGN
        ),
    ),
    # NVlabs/stylegan2-ada#23
    "cuSolver, nothing known": (
        CRASHED,
        _died(
            -6,
            "F tensorflow/core/kernels/cuda_solvers.cc:94] Check failed: cusolverDnCreate("
            "&cusolver_dn_handle) == CUSOLVER_STATUS_SUCCESS\n",
        ),
    ),
    # tensorflow/tensorflow#61631
    "overflow of a shape": (
        FAILED,
        _told(
            INVALID,
            "Encountered overflow when multiplying 44407488056105 with 96070284019968, result: -1 "
            "[Op:Tile]",
        ),
    ),
    # GPflow/GPflow#1439
    "2 GB of a proto": (
        FAILED,
        _told(VALUE, "Cannot create a tensor proto whose content is larger than 2GB."),
    ),
    "tensor too large": (
        FAILED,
        _told(INTERNAL, "tensor is too large: failed to allocate 4294967296 elements"),
    ),
    "array too big": (
        FAILED,
        _told(
            VALUE,
            "array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible "
            "size.",
        ),
    ),
    # tensorflow/tensorflow#46247
    "illegal address": (
        CRASHED,
        _died(
            -6,
            "E tensorflow/stream_executor/cuda/cuda_event.cc:29] Error polling for event "
            "status: failed to query event: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory "
            "access was encountered\nF gpu_event_mgr.cc:220] Unexpected Event status: 1\n",
        ),
    ),
    "illegal address, told": (
        FAILED,
        _told(
            INTERNAL,
            "GPU sync failed: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
            smaller_size_passed=True,
        ),
    ),
    # tensorflow/tensorflow#25866
    "launch failure": (
        FAILED,
        _told(INTERNAL, "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"),
    ),
    # tensorflow/tensorflow#16187
    "resources of a launch": (
        FAILED,
        _told(
            INTERNAL,
            "WhereOp: Could not launch cub::DeviceReduce::Sum to count number of true indices. "
            "temp_storage_bytes: 1, status: too many resources requested for launch",
        ),
    ),
    # triton-lang/triton#8182
    "memory on the chip": (
        FAILED,
        _told(
            ("OutOfResources", "TritonError", "Exception"),
            "out of resource: shared memory, Required: 131072, Hardware limit: 101376. Reducing "
            "block sizes or `num_stages` may help.",
        ),
    ),
    # karpathy/nanoGPT#470
    "device assert": (FAILED, _told(RUNTIME, "CUDA error: device-side assert triggered")),
    # tensorflow/tensorflow#44869
    "no device": (
        FAILED,
        _told(RUNTIME, "failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device"),
    ),
    # tensorflow/tensorflow#48558
    "busy device": (
        FAILED,
        _told(
            INTERNAL,
            "CUDA runtime implicit initialization on GPU:0 failed. Status: all CUDA-capable "
            "devices are busy or unavailable",
        ),
    ),
    # livepeer/lpms#244
    "kernel image": (
        FAILED,
        _told(
            INTERNAL,
            "CUDA runtime implicit initialization on GPU:0 failed. Status: device kernel image is "
            "invalid",
        ),
    ),
    # rishizek/tensorflow-deeplab-v3-plus#8
    "host allocation of an unknown kind": (
        FAILED,
        _told(INTERNAL, "failed to alloc 2304 bytes on host: CUDA_ERROR_UNKNOWN"),
    ),
    # tensorflow/tensorflow#60790
    "libdevice": (
        FAILED,
        _told(INTERNAL, "libdevice not found at ./libdevice.10.bc [Op:__inference_f_1]"),
    ),
    # tensorflow/tensorflow#35423
    "ptxas": (FAILED, _told(INTERNAL, "Internal: ./bin/ptxas not found", smaller_size_passed=True)),
    # ROCm/legacy-rocm-build#4554
    "fault of a page": (
        CRASHED,
        _died(
            -6,
            "Memory access fault by GPU node-1 (Agent handle: 0x1f82) on address 0x7a8. "
            "Reason: Page not present or supervisor privilege.\nAborted (core dumped)\n",
        ),
    ),
    # tensorflow/tensorflow#83371
    "heap": (
        CRASHED,
        _died(
            -6, "malloc: *** error for object 0x315008234: pointer being freed was not allocated"
        ),
    ),
    # tensorflow/tensorflow#41532
    "threads": (
        CRASHED,
        _died(
            -6,
            "F tensorflow/core/platform/default/env.cc:73] Check failed: ret == 0 (11 vs. 0)"
            "Thread tf_Compute creation via pthread_create() failed.\n",
        ),
    ),
    # rwth-i6/returnn#299
    "the allocator's arithmetic": (
        CRASHED,
        _died(
            -6,
            "F tensorflow/core/common_runtime/bfc_allocator.cc:53] Check failed: "
            "BinForSize(bin_size) == BinFromIndex(b) (0x1 vs. 0x2)\n",
        ),
    ),
    # tensorflow/tensorflow#57058
    "Metal, internal": (
        FAILED,
        _told(
            INTERNAL,
            "Error: command buffer exited with error status.\n\tInternal Error (0000000e:Internal "
            "Error)",
        ),
    ),
    # the user's own errors that mention memory
    "NaN": (FAILED, _told(INVALID, "Tensor had NaN values\n\t [[CheckNumerics]]")),
    "a shape and an allocation": (
        FAILED,
        _told(
            INVALID,
            "Incompatible shapes: [32,10] vs. [32,11] when allocating the output [Op:AddV2]",
        ),
    ),
    "memory cells": (FAILED, _told(VALUE, "expected 4 memory cells, out of memory slots: 3")),
    "replay memory": (FAILED, _told(RUNTIME, "Replay memory exhausted after 10 episodes")),
    "an argument": (FAILED, _told(VALUE, "memory_limit must be positive; cannot allocate -1")),
    "a key": (FAILED, _told(("KeyError", "LookupError", "Exception"), "'out_of_memory'")),
    "advice": (
        FAILED,
        _told(VALUE, "batch_size=9000 would make CUDA out of memory; choose a smaller one"),
    ),
    "a budget": (
        FAILED,
        _told(
            ("AssertionError", "Exception"),
            "allocation of 12 GiB exceeds the budget of 8 GiB (not enough memory)",
        ),
    ),
    "a file's name": (
        FAILED,
        _told(
            ("FileNotFoundError", "OSError", "Exception"),
            "[Errno 2] No such file or directory: '/data/oom/CUDA out of memory.txt'",
        ),
    ),
    "an empty message": (FAILED, _told(VALUE, "")),
    "a print, then a bug in the log": (
        FAILED,
        _died(
            1,
            "freeing the cache so that we never run out of memory\nTraceback (most recent "
            'call last):\n  File "m.py", line 9, in f\nTypeError: f() missing 1 argument\n',
        ),
    ),
    "a print, then a segfault": (
        CRASHED,
        _died(-11, "clearing caches to avoid CUDA out of memory\nstep 3 done\n"),
    ),
    # pytorch/pytorch#1059: too large for cuDNN, or not contiguous; nothing known
    "torch's cuDNN, nothing known": (
        CRASHED,
        _told(RUNTIME, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if"),
    ),
    # intel/torch-xpu-ops#1170
    "torch on XPU, resources, nothing known": (
        CRASHED,
        _told(
            RUNTIME, "UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"
        ),
    ),
    # a user's own words about another's library
    "torch, quoted": (FAILED, _told(VALUE, "expected no 'out of memory' in the log")),
    # deaths that tell nothing
    "segfault": (CRASHED, _died(-11)),
    "segfault, smaller ran": (CRASHED, _died(-11, "Epoch 1/1\n", smaller_size_passed=True)),
    "segfault through a shell": (CRASHED, _died(139)),
    "abort": (CRASHED, _died(-6, "Fatal Python error: Aborted\n")),
    "kill by someone": (CRASHED, _died(-9, "Epoch 1/5\n", smaller_size_passed=True)),
    "137 and no kill": (CRASHED, _died(137)),
    "termination": (CRASHED, _died(-15)),
    "exit 3": (CRASHED, _died(3, "bye\n")),
    "exit 0 without an answer": (CRASHED, _died(0)),
    "a signal nobody knows": (CRASHED, _died(-250)),
    "nothing at all": (CRASHED, Evidence()),
    # pytorch/pytorch#5040, without a kernel that killed
    "a data worker died": (
        FAILED,
        _told(RUNTIME, "DataLoader worker (pid 325) is killed by signal: Segmentation fault."),
    ),
    "a user's bug while the kernel killed others": (
        FAILED,
        _told(TYPE, "unsupported operand", host_oom_kills=1),
    ),
}
