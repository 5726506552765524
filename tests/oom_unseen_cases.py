"""Wordings that were labelled before the rules had seen any of them, in our words.

Rules that are tried on the cases that they were made from tell nothing of the next death. These
were collected afterwards, round after round: from threads on GitHub, from the texts inside
TensorFlow's libraries, from other programs that a training starts, and from what a user's own code
may say. Above each stands where it comes from. Where the rules were wrong, they were mended for the
kind, not for the case.
"""

from __future__ import annotations

from oom_cases import (
    EXHAUSTED,
    INTERNAL,
    INVALID,
    NOT_FOUND,
    OS,
    RUNTIME,
    TYPE,
    UNKNOWN,
    VALUE,
    XLA,
)

from autobatch.oom import Evidence


def told(types: tuple[str, ...], message: str = "", log: str = "") -> Evidence:
    """A trial that answered with an exception."""
    return Evidence(exception_types=types, message=message, log=log)


def died(status: int, log: str, kills: int = 0) -> Evidence:
    """A trial that ended without an answer."""
    return Evidence(exit_status=status, log=log, host_oom_kills=kills)


DEVICE_UNSEEN = (
    # hotosm/fAIr#59
    told(
        EXHAUSTED,
        "Graph execution error:\n"
        "\n"
        "Detected at node 'gradient_tape/unet/conv2d_14/Conv2D/Conv2DBackpropFilter' defined "
        "at (most recent call last):\n"
        '    File "train.py", line 58, in <module>\n'
        "      history = the_model.fit(\n"
        "Node: 'gradient_tape/unet/conv2d_14/Conv2D/Conv2DBackpropFilter'\n"
        "OOM when allocating tensor with shape[16,64,64,64] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc\n"
        "\t [[{{node gradient_tape/unet/conv2d_14}}]]",
    ),
    # keras-team/keras#9643
    told(
        EXHAUSTED,
        "OOM when allocating tensor with shape[128,128,109,109] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:1 by allocator GPU_1_bfc\n"
        "\t [[Node: replica_1/xception/block2_sepconv1_bn/FusedBatchNorm]]",
    ),
    # titu1994/keras-attention-augmented-convs#5
    told(
        EXHAUSTED,
        "2 root error(s) found.\n"
        "  (0) RESOURCE_EXHAUSTED: OOM when allocating tensor with shape[32,4,4096,4096] and "
        "type float on /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc\n"
        "\t [[{{node MatMul}}]]\n"
        "  (1) RESOURCE_EXHAUSTED: OOM when allocating tensor",
    ),
    # faustomorales/keras-ocr#195
    told(EXHAUSTED, "failed to allocate memory [Op:AddV2]"),
    # TensorFlow's eager kernels
    told(
        EXHAUSTED,
        "{{function_node __wrapped__Mul_device_/job:localhost/replica:0/task:0/device:GPU:0}} "
        "failed to allocate memory [Op:Mul] name: ",
    ),
    # tensorflow/tensorflow#55502
    told(
        INTERNAL,
        "Failed copying input tensor from /job:localhost/replica:0/task:0/device:CPU:0 to "
        "/job:localhost/replica:0/task:0/device:GPU:0 in order to run _EagerConst: Dst tensor "
        "is not initialized.",
    ),
    # tensorflow/tensorflow#20301
    told(
        INTERNAL,
        "Dst tensor is not initialized.\n"
        "\t [[Node: dynamic_seq2seq/decoder/embedding_lookup/_61 = "
        "_Recv[client_terminated=false, "
        'recv_device="/job:localhost/replica:0/task:0/device:GPU:0"]]]',
    ),
    # tensorflow/serving#730
    told(
        INTERNAL,
        "WhereOp: Could not launch cub::DeviceReduce::Sum to count number of true / nonzero "
        "indices.  temp_storage_bytes: 1, status: out of memory",
    ),
    # brade31919/SRGAN-tensorflow#27
    told(
        INTERNAL,
        "failed initializing StreamExecutor for CUDA device ordinal 0: Internal: failed call "
        "to cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory; total memory "
        "reported: 8499691520",
    ),
    # tensorflow/tfjs#6026
    told(
        NOT_FOUND,
        "No algorithm worked!  Error messages:\n"
        "  Profiling failure on CUDNN engine 1: RESOURCE_EXHAUSTED: Out of memory while trying "
        "to allocate 17711632 bytes.\n"
        "  Profiling failure on CUDNN engine 0: RESOURCE_EXHAUSTED: Out of memory while trying "
        "to allocate 16777216 bytes. [Op:Conv2DBackpropInput]",
    ),
    # PyTorch on ROCm
    told(
        RUNTIME,
        "HIP out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.98 GiB total capacity; 13.01 "
        "GiB already allocated; 1.11 GiB free; 14.30 GiB reserved in total by PyTorch)",
    ),
    # instructlab/instructlab#2568
    told(
        RUNTIME,
        "MPS backend out of memory (MPS allocated: 33.48 GB, other allocations: 2.45 GB, max "
        "allowed: 36.27 GB). Tried to allocate 600.15 MB on private pool. Use "
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations "
        "(may cause system failure).",
    ),
    # ggml-org/llama.cpp#22673
    died(
        -6,
        "Error: command buffer exited with error status.\n"
        "\tThe Metal Performance Shaders operations encoded on it may not have completed.\n"
        "\tError: \n"
        "\t(null)\n"
        "\tInsufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
        "\t<AGXG13XFamilyCommandBuffer: 0x3c48bf500>\n",
    ),
    # tensorflow/tensorflow#30803
    told(
        RUNTIME,
        "Compilation failed: Compilation failure: Ran out of memory in memory space hbm. Used "
        "27.90G of 16.00G hbm. Exceeded hbm capacity by 11.90G.\n"
        "\n"
        "Total hbm usage >= 27.90G:\n"
        "    reserved        528.00M",
    ),
    # erfanzar/EasyDeL#166
    told(
        XLA,
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
        "space hbm. Used 63.80G of 30.75G hbm. Exceeded hbm capacity by 33.05G.",
    ),
    # XLA on TPUs
    told(
        EXHAUSTED,
        "{{function_node __inference_train_function_1}} Attempting to reserve 5.31G at the "
        "bottom of memory. That was not possible. There are 5.60G free, 0B reserved, and 4.38G "
        "reservable. If fragmentation is eliminated, the maximum reservable bytes would be "
        "5.60G, so compaction will enable this reservation.",
    ),
    # XLA on TPUs
    told(
        EXHAUSTED,
        "Attempting to allocate 2.34G. That was not possible. There are 1.92G free.; (0x0x0_HBM0)",
    ),
    # XLA
    told(XLA, "RESOURCE_EXHAUSTED: Out of memory allocating 34359738368 bytes."),
    # XLA
    told(
        EXHAUSTED,
        "Out of memory while trying to allocate 4294967296 bytes.\n"
        "BufferAssignment OOM Debugging.\n"
        "BufferAssignment stats:\n"
        "             parameter allocation:    1.21GiB\n"
        " [[{{node StatefulPartitionedCall}}]] [Op:__inference_one_step_on_data_3045]",
    ),
    # XLA
    told(XLA, "INTERNAL: Failed to allocate 1073741824 bytes for new constant"),
    # tensorflow cuda_solvers.cc
    told(
        INTERNAL,
        "Failed to create cuSolverDN instance: CUSOLVER_STATUS_ALLOC_FAILED [Op:MatrixInverse]",
    ),
    # tensorflow/tensorflow#44291
    told(
        INTERNAL,
        "Blas GEMM launch failed : a.shape=(32, 784), b.shape=(784, 512), m=32, n=512, k=784 "
        "[Op:MatMul]",
        log="2020-11-17 19:56:29.679590: E tensorflow/stream_executor/cuda/cuda_blas.cc:226] "
        "failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED\n",
    ),
    # tensorflow/tensorflow#30912
    told(
        INTERNAL,
        "Blas xGEMMBatched launch failed : a.shape=[8,128,64], b.shape=[8,64,128], m=128, "
        "n=128, k=64, batch_size=8",
        log="2020-03-01 10:00:00.0: E tensorflow/stream_executor/cuda/cuda_driver.cc:828] failed "
        "to allocate 32.00M (33554432 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of "
        "memory\n"
        "E tensorflow/stream_executor/cuda/cuda_blas.cc:238] failed to create cublas handle: "
        "CUBLAS_STATUS_NOT_INITIALIZED\n",
    ),
    # tensorflow/tensorflow#24496
    told(
        UNKNOWN,
        "Failed to get convolution algorithm. This is probably because cuDNN failed to "
        "initialize, so try looking to see if a warning log message was printed above. [Op:Conv2D]",
        log="2020-03-01 10:00:00.0: I tensorflow/stream_executor/cuda/cuda_driver.cc:831] failed "
        "to allocate 3.07G (3299803136 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of "
        "memory\n"
        "E tensorflow/stream_executor/cuda/cuda_dnn.cc:329] Could not create cudnn handle: "
        "CUDNN_STATUS_ALLOC_FAILED\n",
    ),
    # a user's kernel
    told(INTERNAL, "cudaMalloc failed with: out of memory"),
    # TensorFlow 1.14's XLA device
    told(
        EXHAUSTED,
        "OOM when allocating tensor with shape[2048,2048] and type float on "
        "/job:localhost/replica:0/task:0/device:XLA_GPU:0 by allocator XLA_GPU_bfc",
    ),
    # tensorflow/tensorflow#50651 (its change)
    told(
        EXHAUSTED,
        "failed to allocate memory [Op:Conv2D]",
        log="2021-07-08 12:44:27: E "
        "tensorflow/core/common_runtime/gpu/gpu_cudamallocasync_allocator.cc:288] "
        "cudaMallocAsync failed to allocate 2147483648 bytes: CUDA error: out of memory "
        "(CUDA_ERROR_OUT_OF_MEMORY)\n"
        " Reported by CUDA: Free memory/Total memory: 114294784/8367439872\n",
    ),
    # XLA's allocator
    told(EXHAUSTED, "Failed to allocate request for 1.21GiB (1302331392B) on device ordinal 0"),
    # jaxlib
    told(
        XLA,
        "INTERNAL: CustomCall failed: jaxlib/cuda/cufft.cc: cufftMakePlanMany failed: "
        "CUFFT_ALLOC_FAILED",
    ),
    # TensorFlow's FFT kernels
    told(
        INTERNAL, "Failed to create cuFFT batched plan with scratch allocator: CUFFT_ALLOC_FAILED"
    ),
    # Thrust
    died(
        -6,
        "terminate called after throwing an instance of 'thrust::system::system_error'\n"
        "  what():  parallel_for failed: cudaErrorMemoryAllocation: out of memory\n"
        "Aborted (core dumped)\n",
    ),
    # Thrust
    died(
        -6,
        "terminate called after throwing an instance of 'thrust::system::detail::bad_alloc'\n"
        "  what():  std::bad_alloc: cudaErrorMemoryAllocation: out of memory\n",
    ),
    # TensorFlow's rendezvous
    told(
        EXHAUSTED,
        "SameWorkerRecvDone unable to allocate output tensor. Key: "
        "/job:worker/replica:0/task:0/device:GPU:0;1;/job:worker;edge_12;0:0",
        log="W tensorflow/core/common_runtime/bfc_allocator.cc:419] Allocator (GPU_0_bfc) ran out "
        "of memory trying to allocate 1.50GiB (rounded to 1610612736)\n",
    ),
    # TensorFlow's GPU start
    told(INTERNAL, "CUDA runtime implicit initialization on GPU:0 failed. Status: out of memory"),
    # TensorFlow's GPU start
    told(INTERNAL, "cudaGetDevice() failed. Status: out of memory"),
    # XLA on cuDNN
    told(
        INTERNAL,
        "Cudnn graph failed to build: INTERNAL: CUDNN_STATUS_ALLOC_FAILED\n"
        "in external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc(4812)",
    ),
    # XLA's command buffers
    told(
        INTERNAL,
        "INTERNAL: Failed to instantiate CUDA graph: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    ),
    # XLA's command buffers
    told(
        EXHAUSTED,
        "RESOURCE_EXHAUSTED: Underlying backend ran out of memory trying to instantiate graph "
        "with 2381 nodes and 0 conditionals (total of 0 alive graphs in the process). You can "
        "try to (a) Give more memory to the driver by reducing XLA_CLIENT_MEM_FRACTION (b) "
        "Disable command buffers with 'XLA_FLAGS=--xla_gpu_enable_command_buffer='",
    ),
    # after google-deepmind/ferminet#45
    died(
        -6,
        "F external/org_tensorflow/tensorflow/compiler/xla/pjrt/pjrt_stream_executor_client.cc:"
        "2288] Replicated computation launch failed, but not all replicas terminated. Aborting "
        "process to work around deadlock. Failure message:\n"
        "\n"
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\n"
        "Fatal Python error: Aborted\n",
    ),
    # no program's own
    told(EXHAUSTED, "Failed to allocate tensor of shape [64,1024,1024] by allocator GPU_0_bfc"),
    # PyTorch
    told(
        ("OutOfMemoryError", "RuntimeError", *VALUE[1:]),
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.65 "
        "GiB of which 12.19 MiB is free.",
    ),
    # XLA: E0101
    told(
        EXHAUSTED,
        "Error loading program 'jit_train': Attempting to reserve 29.49G at the bottom of "
        "memory. That was not possible. There are 147.64M free, 0B reserved, and 147.64M "
        "reservable.",
    ),
    # XLA: E0100
    told(
        EXHAUSTED,
        "Error allocating device buffer: Attempting to allocate 8.00M. That was not possible. "
        "There are 6.43M free.; (0x0x1_HBM0)",
    ),
    # XLA: E1000
    told(
        XLA,
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
        "space hbm. Used 49.34G of 32.00G hbm. Exceeded hbm capacity by 17.34G.",
    ),
    # rocBLAS
    told(INTERNAL, "rocblas_status_memory_error [Op:MatMul]"),
    # miopen
    died(
        -6, "MIOpen(HIP): Error [FindSolution] Hip error: hipErrorOutOfMemory(2): out of memory\n"
    ),
    # CUDA: vmm
    told(INTERNAL, "cuMemCreate failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    # CUDA
    told(INTERNAL, "CUDA error: cudaMallocAsync: cudaErrorMemoryAllocation"),
    # no program's own
    told(INTERNAL, "Failed to allocate 268435456 bytes of device memory"),
    # PyTorch
    told(
        RUNTIME,
        "cuSOLVER error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    ),
    # XLA: nccl
    told(
        INTERNAL,
        "NCCL operation ncclGroupEnd() failed: unhandled cuda error. Last NCCL warning(error) "
        "log entry (may be unrelated) 'Cuda failure 2 'out of memory''.",
    ),
    # cusparse
    told(INTERNAL, "cusparseCreate failed: CUSPARSE_STATUS_ALLOC_FAILED"),
    # curand
    told(INTERNAL, "CURAND_STATUS_ALLOCATION_FAILED"),
    # JAX
    died(
        1,
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request "
        "for 15.26GiB (16384000000B) on device ordinal 0\n",
    ),
    # intel/intel-extension-for-tensorflow#34
    told(
        EXHAUSTED,
        "{{function_node __wrapped__AddV2_device_/job:localhost/replica:0/task:0/device:XPU:0}}"
        " OOM when allocating tensor with shape[3,3,2560,1280] and type float on "
        "/job:localhost/replica:0/task:0/device:XPU:0 by allocator Simple allocator [Op:AddV2]",
    ),
    # intel/intel-extension-for-tensorflow#34
    died(
        -6,
        "2023-05-13 17:10:55.926325: E itex/core/devices/bfc_allocator.cc:98] Allocator ran "
        "out of memory trying to allocate 117964800 Bytes (rounded to 117964800 Bytes)\n"
        "If you need help, create an issue at "
        "https://github.com/intel/intel-extension-for-tensorflow/issues\n",
    ),
    # microsoft/tensorflow-directml#294
    died(
        -6,
        "2021-06-28 09:24:26.758346: W tensorflow/core/framework/op_kernel.cc:1651] "
        "OP_REQUIRES failed at dml_kernel_context.cc:167 : Resource exhausted: OOM when "
        "allocating tensor with shape[1,64,150,150] and type float on "
        "/job:localhost/replica:0/task:0/device:DML:0 by allocator DmlAllocator\n",
    ),
    # lshqqytiger/stable-diffusion-webui-amdgpu#174
    told(
        RUNTIME,
        "Could not allocate tensor with 38535168 bytes. There is not enough GPU video memory "
        "available!",
        log="[W D:\\a\\_work\\1\\s\\csrc\\engine\\dml_heap_allocator.cc:120] DML allocator out of "
        "memory!\n",
    ),
    # NVIDIA/TensorRT#4258
    died(
        1,
        "[E] Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of "
        "memory)\n"
        "[W] [TRT] Requested amount of GPU memory (15485030400 bytes) could not be allocated. "
        "There may not be enough free memory for allocation to succeed.\n",
    ),
    # horovod/horovod#2691
    told(RUNTIME, "CUDA error: out of memory"),
    # pytorch/xla#2569
    told(
        EXHAUSTED,
        "  (1) Resource exhausted: Attempting to allocate 180.59M. That was not possible. "
        "There are 142.58M free.; (0x3x0_HBM1)",
    ),
    # intel/intel-extension-for-pytorch#629
    told(
        RUNTIME,
        "XPU out of memory. Tried to allocate 1.00 GiB (GPU 0; 15.56 GiB total capacity; "
        "990.00 MiB already allocated)",
    ),
    # PyTorch
    told(RUNTIME, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    # JAX
    died(
        1,
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in <module>\n'
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying "
        "to allocate 17179869184 bytes.\n",
    ),
    # TensorFlow
    died(
        1,
        "W external/local_tsl/tsl/framework/bfc_allocator.cc:482] Allocator (GPU_0_bfc) ran "
        "out of memory trying to allocate 24.00GiB (rounded to 25769803776)requested by op\n",
    ),
    # TensorFlow
    told(INTERNAL, "Failed to allocate scratch space for convolution"),
    # Keras 3
    told(
        EXHAUSTED,
        "Exception encountered when calling Functional.call().\n"
        "\n"
        "OOM when allocating tensor with shape[64,128,56,56] and type half on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:BiasAdd]",
    ),
    # Ascend
    told(
        RUNTIME,
        "NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.96 GiB total capacity; 58.10 "
        "GiB already allocated)",
    ),
    # MLX
    told(
        RUNTIME,
        "[metal::malloc] Attempting to allocate 34359738368 bytes which is greater than the "
        "maximum allowed buffer size of 17179869184 bytes.",
    ),
    # TensorFlow 2.19
    died(
        -6,
        "E0000 00:00:1736.1 948 cuda_executor.cc:1228] failed to allocate 5.64GiB (6060769280 "
        "bytes) from device: RESOURCE_EXHAUSTED: : CUDA_ERROR_OUT_OF_MEMORY: out of memory\n"
        "Fatal Python error: Aborted\n",
    ),
    # CUDA graphs
    told(INTERNAL, "the graph could not be instantiated: cudaErrorMemoryAllocation"),
    # JAX
    died(
        1,
        "E external/xla/xla/pjrt/pjrt_stream_executor_client.cc:2985] Execution of replica 0 "
        "failed: RESOURCE_EXHAUSTED: Out of memory allocating 4294967296 bytes.\n",
    ),
    # XLA: on TPUs
    told(
        XLA,
        "RESOURCE_EXHAUSTED: TPU backend error: Allocation (size=137438953472) would exceed "
        "memory (size=17179869184) :: #allocation7 [shape = 'u8[137438953472]{0}', space=hbm]",
    ),
    # Keras 3 on XLA
    told(
        EXHAUSTED,
        "Graph execution error:\n"
        "\n"
        "Detected at node StatefulPartitionedCall defined at (most recent call last):\n"
        "<stack traces unavailable>\n"
        "Out of memory while trying to allocate 10737418240 bytes.\n"
        "\t [[{{node StatefulPartitionedCall}}]] [Op:__inference_multi_step_on_iterator_8213]",
    ),
    # XLA
    told(
        INTERNAL,
        "Failed to load in-memory CUBIN (compiled for a different GPU?).: "
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    ),
    # TensorFlow
    told(
        INTERNAL,
        "{{function_node __wrapped__Qr_device_/job:localhost/replica:0/task:0/device:GPU:0}} "
        "cuSolver call failed with status =CUSOLVER_STATUS_ALLOC_FAILED",
    ),
)

HOST_UNSEEN = (
    # tensorflow/tensorflow#42586
    told(
        EXHAUSTED,
        "OOM when allocating tensor with shape[25600,1000] and type double on "
        "/job:localhost/replica:0/task:0/device:CPU:0 by allocator cpu [Op:Mul]",
    ),
    # TensorFlow on oneDNN
    told(
        EXHAUSTED,
        "OOM when allocating tensor with shape[8192,3,512,512] and type uint8 on "
        "/job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu",
    ),
    # tensorflow/tensorflow#63761
    told(
        ("_ArrayMemoryError", "MemoryError", *VALUE[1:]),
        "Unable to allocate 115. TiB for an array with shape (3983360, 3983360) and data type "
        "float64",
    ),
    # tensorflow/tensorflow#657
    told(("MemoryError", *VALUE[1:])),
    # pybind11 on Windows
    told(("MemoryError", *VALUE[1:]), "bad allocation"),
    # the C++ runtime
    died(
        -6,
        "terminate called after throwing an instance of 'std::bad_alloc'\n"
        "  what():  std::bad_alloc\n",
    ),
    # fork
    told(OS, "[Errno 12] Cannot allocate memory"),
    # Python's shared memory
    told(OS, "[Errno 28] No space left on device: '/dev/shm/psm_4dd26c5e'"),
    # tensorflow/models#7725
    died(-9, "Filling up shuffle buffer (this may take a while): 1359 of 2048\n", kills=1),
    # TensorFlow's CPU allocator
    died(
        -6,
        "mmap: Cannot allocate memory\n"
        "F tensorflow/core/framework/tensor.cc:1] Check failed: ptr != nullptr Failed to "
        "allocate 8589934592 bytes on CPU\n",
    ),
    # PyTorch c10
    told(
        RUNTIME,
        "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 13107200000 bytes. Error code 12 (Cannot allocate memory)",
    ),
    # tf.data
    told(
        UNKNOWN,
        "MemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,) and "
        "data type float64",
        log="numpy.core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array "
        "with shape (1000000000,) and data type float64\n",
    ),
    # opencv alloc.cpp
    told(
        ("error", *VALUE[1:]),
        "OpenCV(4.5.4) /tmp/pip-req-build/opencv/modules/core/src/alloc.cpp:73: error: "
        "(-4:Insufficient memory) Failed to allocate 1244160000 bytes in function "
        "'OutOfMemoryError'",
    ),
    # OpenMathLib/OpenBLAS memory.c
    died(1, "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.\n"),
    # hku-mars/STD#24
    died(1, "libgomp: Out of memory allocating 4194304 bytes\n"),
    # Arrow
    told(("ArrowMemoryError", "MemoryError", *VALUE[1:]), "malloc of size 2147483648 failed"),
    # Slurm
    died(
        -9,
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5522.batch. Some of your "
        "processes may have been killed by the cgroup out-of-memory handler.\n",
    ),
    # oneDNN
    told(
        ("AbortedError", *EXHAUSTED[1:]),
        "Operation received an exception:Status: 1, message: could not create a memory object, "
        "in file tensorflow/core/kernels/mkl/mkl_conv_ops.cc:1100",
    ),
    # tf.data batch
    told(EXHAUSTED, "Failed to allocate memory for the batch of component 0"),
    # the operating system: ENOMEM
    told(EXHAUSTED, "/data/train.tfrecord; Cannot allocate memory"),
    # jemalloc
    died(-6, "<jemalloc>: Error in malloc(): out of memory\n"),
    # Windows' commit limit
    told(
        OS,
        "[WinError 1455] The paging file is too small for this operation to complete. Error "
        'loading "cudnn_cnn_infer64_8.dll" or one of its dependencies.',
    ),
    # Windows
    told(OS, "[WinError 8] Not enough memory resources are available to process this command"),
    # opencv
    told(
        ("error", *VALUE[1:]),
        "OpenCV(4.8.0) error: (-4:Insufficient memory) Failed to allocate 37324800 bytes in "
        "function 'cv::OutOfMemoryError'",
    ),
    # hdf5 strings
    told(
        RUNTIME, "Can't read data (unable to allocate memory for chunk: virtual memory exhausted)"
    ),
    # Kaggle
    died(-9, "Your notebook tried to allocate more memory than is available. It has restarted.\n"),
    # CUDA
    told(INTERNAL, "cudaHostAlloc failed: out of memory"),
    # PyTorch
    told(
        RUNTIME, "unable to mmap 3221225472 bytes from file </torch_1>: Cannot allocate memory (12)"
    ),
    # Arrow
    told(("ArrowMemoryError", "MemoryError", *VALUE[1:]), "realloc of size 8589934592 failed"),
    # Rust
    died(-6, "memory allocation of 8589934592 bytes failed\nAborted (core dumped)\n"),
    # Python
    told(OS, "[Errno 12] Cannot allocate memory: 'ffmpeg'"),
    # kernel
    died(-9, "[12345.678] Out of memory: Killed process 1234 (python) total-vm:28000000kB\n"),
    # pybind11
    told(("MemoryError", *VALUE[1:]), "std::bad_alloc"),
    # pybind11
    told(RUNTIME, "std::bad_alloc"),
    # tf.py_function
    told(
        UNKNOWN,
        "MemoryError: \n"
        "Traceback (most recent call last):\n"
        "\n"
        '  File "/x/script_ops.py", line 270, in __call__\n'
        "    ret = func(*args)\n"
        "\n"
        "MemoryError\n"
        "\n"
        "\t [[{{node PyFunc}}]]",
    ),
)

OTHER_UNSEEN = (
    # google-research/meta-dataset#24
    told(
        EXHAUSTED, "/st1/dataset/meta-dataset/records/quickdraw/73.tfrecords; Too many open files"
    ),
    # tensorflow/tensorflow#4350
    told(
        EXHAUSTED,
        "/home/user/model.ckpt-826.data-00000-of-00001.tempstate5787507096018461664; No space "
        "left on device\n"
        "\t [[node save/SaveV2]]\n"
        "Hint: If you want to see a list of allocated tensors when OOM happens, add "
        "report_tensor_allocations_upon_oom to RunOptions for current allocation info.",
    ),
    # tensorflow/serving#1382
    told(EXHAUSTED, "Received message larger than max (88260328 vs. 4194304)"),
    # flwrlabs/flower#3006
    told(
        ("_MultiThreadedRendezvous", "RpcError", *VALUE[1:]),
        "<_MultiThreadedRendezvous of RPC that terminated with:\n"
        "\tstatus = StatusCode.RESOURCE_EXHAUSTED\n"
        '\tdetails = "Sent message larger than max (544715979 vs. 536870912)"\n'
        '\tdebug_error_string = "grpc_status:8">',
    ),
    # Google's cloud
    told(
        EXHAUSTED,
        "Quota exceeded for quota metric 'Read requests' and limit 'Read requests per minute' "
        "of service 'storage.googleapis.com'",
    ),
    # tensorflow/tensorflow#60530
    told(
        INTERNAL,
        "Failed to load in-memory CUBIN: CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is "
        "available for execution on the device",
    ),
    # tensorflow/tensorflow#39958
    died(
        -6,
        "2020-05-28 18:52:43.846256: E tensorflow/stream_executor/cuda/cuda_event.cc:29] Error "
        "polling for event status: failed to query event: CUDA_ERROR_LAUNCH_FAILED: "
        "unspecified launch failure\n"
        "2020-05-28: F tensorflow/core/common_runtime/gpu/gpu_event_mgr.cc:220] Unexpected "
        "Event status: 1\n",
    ),
    # jaxleyverse/jaxley#53
    told(
        INTERNAL,
        "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered\n"
        "Failed to execute XLA Runtime executable: run time error: custom call "
        "'xla.gpu.func.launch' failed: Failed to launch CUDA kernel: fusion_1560 with block "
        "dimensions: 160x1x1",
    ),
    # tensorflow/tensorflow#23107
    told(
        INVALID,
        "Number of elements was larger than representable by 32-bit output type\n"
        "\t [[{{node training/Adam/gradients}}]]",
    ),
    # tensorflow/tensorflow#8471
    told(INVALID, "BiasGrad requires tensor size <= int32 max"),
    # keras-team/keras#15698
    died(
        -6,
        "2021-12-01: F ./tensorflow/core/util/gpu_launch_config.h:129] Check failed: "
        "work_element_count > 0 (-1018167296 vs. 0)\n"
        "Aborted (core dumped)\n",
    ),
    # tensorflow/tensorflow#24828
    told(
        UNKNOWN,
        "Failed to get convolution algorithm. This is probably because cuDNN failed to "
        "initialize, so try looking to see if a warning log message was printed above.",
        log="E tensorflow/stream_executor/cuda/cuda_dnn.cc:319] Loaded runtime CuDNN library: "
        "7.1.2 but source was compiled with: 7.6.0.  CuDNN library major and minor version "
        "needs to match or have higher minor version in case of CuDNN 7.0 or later version.\n",
    ),
    # ROCm/tensorflow-upstream#2163
    died(
        -6,
        "2023-07-19 22:08:36.875173: F ./tensorflow/core/util/gpu_launch_config.h:174] Check "
        "failed: err == hipSuccess (98 vs. 0)\n",
    ),
    # the warning: EricZgw/PyramidBox#12
    told(
        VALUE,
        'Input 0 of layer "sequential" is incompatible with the layer: expected shape=(None, '
        "224, 224, 3), found shape=(None, 32, 32, 3)",
        log="2022-05-06: W tensorflow/core/framework/cpu_allocator_impl.cc:82] Allocation of "
        "774471680 exceeds 10% of free system memory.\n",
    ),
    # the warning: Accenture/AIR#4
    told(
        INVALID,
        "Nan in summary histogram for: dense/kernel_0 [Op:WriteHistogramSummary]",
        log="2022-03-03 14:59:00.303723: W tensorflow/core/common_runtime/bfc_allocator.cc:239] "
        "Allocator (GPU_0_bfc) ran out of memory trying to allocate 3.34GiB with "
        "freed_by_count=0. The caller indicates that this is not a failure, but may mean that "
        "there could be performance gains if more memory were available.\n",
    ),
    # tensorflow/tensorflow#39257
    told(
        ("OverflowError", "ArithmeticError", *VALUE[1:]),
        "cannot serialize a bytes object larger than 4 GiB",
    ),
    # tensorflow/tensorflow#74914
    told(INVALID, "Attr strides has value 4634247419717959497 out of range for an int32"),
    # tensorflow/tensorflow#44281
    told(
        NOT_FOUND,
        "No OpKernel was registered to support Op 'NcclAllReduce' used by {{node "
        'NcclAllReduce}} with these attrs: [reduction="sum"]\n'
        "Registered devices: [CPU, GPU]",
    ),
    # XLA: ptxas
    told(
        INTERNAL,
        "ptxas exited with non-zero error code 2, output: ptxas fatal : Unresolved extern function",
    ),
    # XLA
    told(INTERNAL, "libdevice not found at ./libdevice.10.bc [Op:__inference_train_function_1]"),
    # PyTorch
    told(
        RUNTIME,
        "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
    ),
    # TensorFlow
    told(
        INTERNAL,
        "cudaGetDevice() failed. Status: CUDA driver version is insufficient for CUDA runtime "
        "version",
    ),
    # TensorFlow
    told(RUNTIME, "no CUDA-capable device is detected (CUDA_ERROR_NO_DEVICE)"),
    # TensorFlow
    told(
        INVALID,
        "Input to reshape is a tensor with 802816 values, but the requested shape requires a "
        "multiple of 100352 [Op:Reshape]",
    ),
    # TensorFlow: tf.data
    told(
        INVALID,
        "{{function_node __wrapped__IteratorGetNext}} Cannot batch tensors with different "
        "shapes in component 0. First element had shape [224,224,3] and element 3 had shape "
        "[224,224,4].",
    ),
    # a user's own
    told(VALUE, "memory_size must be positive; could not allocate a replay memory of size -1"),
    # Python
    told(OS, "[Errno 24] Too many open files: '/data/img_1231.png'"),
    # Python
    told(OS, "[Errno 28] No space left on device"),
    # TensorFlow on cuDNN
    told(
        UNKNOWN,
        "CUDNN_STATUS_BAD_PARAM\n"
        "in tensorflow/stream_executor/cuda/cuda_dnn.cc(1424): 'cudnnSetRNNDataDescriptor( "
        "data_desc.get(), data_type, layout, max_seq_length, batch_size, data_size, "
        "seq_lengths_array, (void*)&padding_fill)'",
    ),
    # TensorFlow
    told(
        ("FailedPreconditionError", *EXHAUSTED[1:]),
        "Could not find variable dense_1/kernel. This could mean that the variable has been "
        "deleted.",
    ),
    # a user's own
    told(("KeyError", "LookupError", *VALUE[1:]), "'OOM'"),
    # TensorFlow: where_op_gpu / gpuprim
    told(
        INTERNAL,
        "Failed to launch gpuprim::DeviceReduce::Sum to calculate temp_storage_bytes, status: "
        "invalid configuration argument",
    ),
    # XLA
    told(INTERNAL, "INTERNAL: ptxas 9.0.0 has a bug that we think can affect XLA"),
    # no word at all
    died(-11, ""),
    # TensorFlow
    told(INTERNAL, "Memory type mismatch: tensor is in HOST_MEMORY but expected DEVICE_MEMORY"),
    # XLA
    told(
        INTERNAL,
        "INTERNAL: Failed to launch CUDA kernel: loop_fusion with block dimensions: 1024x1x1 "
        "and grid dimensions: 0x1x1 and shared memory size: 0: CUDA_ERROR_INVALID_VALUE: "
        "invalid argument",
    ),
    # a kernel's shared memory
    told(
        INTERNAL,
        "Requested shared memory size 98304 exceeds device limit 49152: CUDA_ERROR_INVALID_VALUE",
    ),
    # TensorFlow
    told(
        ("DataLossError", *EXHAUSTED[1:]),
        "truncated record at 1345 failed with Read less bytes than requested",
    ),
    # TensorFlow's parameter servers
    told(
        ("UnavailableError", *EXHAUSTED[1:]),
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.2:2222: "
        "Connection refused",
    ),
    # TensorFlow: multiworker
    told(("DeadlineExceededError", *EXHAUSTED[1:]), "Deadline Exceeded [Op:CollectiveReduceV2]"),
    # XLA: graphs
    told(
        INTERNAL,
        "Multiple devices: cuda graph capture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: "
        "operation failed due to a previous error during capture",
    ),
    # the loader's few static bytes
    told(("ImportError", *VALUE[1:]), "libcudnn.so.8: cannot allocate memory in static TLS block"),
    # TensorFlow
    told(
        INTERNAL,
        "Non-OK-status: GpuLaunchKernel(...) status: INTERNAL: too many resources requested "
        "for launch",
    ),
    # TensorFlow: stage_op.cc
    told(
        EXHAUSTED,
        "Attempted to insert tensors with combined size of '8388608' bytes into Staging Area "
        "with a memory limit of '4194304'.",
    ),
    # TensorFlow: batching
    told(
        ("UnavailableError", *EXHAUSTED[1:]),
        "The batch scheduling queue to which this task was submitted is full",
    ),
    # gRPC
    told(EXHAUSTED, "Server Threadpool Exhausted"),
    # gRPC
    told(EXHAUSTED, "Transport Stream IDs exhausted"),
    # Google's interfaces
    told(EXHAUSTED, "Resource has been exhausted (e.g. check quota)."),
    # Google's storage
    told(
        EXHAUSTED,
        "Error executing an HTTP request: HTTP response code 429 with body 'rateLimitExceeded'",
    ),
    # TensorFlow: debug_io_utils.cc
    told(
        EXHAUSTED,
        "TensorFlow Debugger has exhausted file-system byte-size allowance (107374182400), "
        "therefore it cannot dump an additional 400000 byte(s) of tensor data for the debug tensor",
    ),
    # the operating system: EDQUOT
    told(EXHAUSTED, "/scratch/ckpt/model-49.data-00000-of-00001; Disk quota exceeded"),
    # LLVM
    told(INTERNAL, "ran out of registers during register allocation"),
    # LLVM
    told(
        INTERNAL,
        "register allocation failed: maximum depth for recoloring reached. Use "
        "-fexhaustive-register-search to skip cutoffs",
    ),
    # TensorFlow: modular_filesystem
    told(
        ("FailedPreconditionError", *EXHAUSTED[1:]),
        "Cannot load filesystem plugin which does not provide `plugin_memory_allocate`",
    ),
    # LLVM
    told(INTERNAL, "unable to allocate function argument #3"),
    # oneDNN
    told(
        ("AbortedError", *EXHAUSTED[1:]),
        "Operation received an exception:Status: 2, message: could not create a memory "
        "descriptor for a 4D tensor, in file tensorflow/core/kernels/mkl/mkl_conv_ops.cc:711",
    ),
    # oneDNN; tensorflow/tensorflow#18905
    told(
        ("AbortedError", *EXHAUSTED[1:]),
        "Operation received an exception:Status: 3, message: could not create a primitive "
        "descriptor for a matmul primitive, in file "
        "tensorflow/core/kernels/mkl/mkl_matmul_op_fused.cc:240",
    ),
    # PJRT
    told(
        INTERNAL,
        "Could not attach a PjRtCpuDevice to a PjRtMemorySpace owned by a different client, "
        "the device's client: 0x1, the memory space's client: 0x2.",
    ),
    # tf.data
    told(("OutOfRangeError", *EXHAUSTED[1:]), "DirectedInterleave selected an exhausted input: 3"),
    # MLIR
    told(
        INTERNAL, "failed to legalize operation 'memref.alloc' that was explicitly marked illegal"
    ),
    # TensorFlow: tensor_util
    told(INVALID, "Cannot create a tensor proto whose content is larger than 2GB."),
    # TensorFlow: tensor_util
    told(VALUE, "Cannot create a tensor proto whose content is larger than 2GB."),
    # TensorFlow: tensor_shape
    told(
        INVALID,
        "Encountered overflow when multiplying 3000000000 with 4000000000, result: "
        "-6446744073709551616",
    ),
    # TensorFlow: tensor_shape
    told(
        INVALID,
        "Shape [1048576,1048576,1048576,1048576] is too large (more than 2**63 - 1 entries)",
    ),
    # TensorFlow
    told(
        INVALID,
        "Tensor is too large to serialize: Exceeded maximum protobuf size of 2GB: 3221225472",
    ),
    # CUDA
    told(INTERNAL, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested for launch"),
    # XLA
    told(
        INTERNAL,
        "Failed to launch CUDA kernel: fusion_3 with block dimensions: 1024x1x1: "
        "CUDA_ERROR_MISALIGNED_ADDRESS: misaligned address",
    ),
    # CUDA: broken memory
    told(
        INTERNAL, "CUDA error: uncorrectable ECC error encountered (CUDA_ERROR_ECC_UNCORRECTABLE)"
    ),
    # TensorFlow
    told(INTERNAL, "failed call to cuInit: CUDA_ERROR_UNKNOWN: unknown error"),
    # cublas
    told(INTERNAL, "CUBLAS_STATUS_ARCH_MISMATCH"),
    # cudnn
    told(
        INTERNAL,
        "CUDNN_STATUS_NOT_SUPPORTED\n"
        "in external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc(4369): "
        "'cudnnBackendFinalize(engine)'",
    ),
    # ROCm
    died(
        -6,
        "Memory access fault by GPU node-1 (Agent handle: 0x55d0d1b0) on address "
        "0x7f3b00000000. Reason: Page not present or supervisor privilege.\n"
        "Aborted (core dumped)\n",
    ),
    # ROCm
    died(
        -6,
        ":0:rocdevice.cpp:2660: Callback: Queue 0x7f aborting with error : "
        "HSA_STATUS_ERROR_MEMORY_APERTURE_VIOLATION: The agent attempted to access memory "
        "beyond the largest legal address. code: 0x29\n",
    ),
    # ROCm
    died(
        -6,
        "rocBLAS error: Cannot read /opt/rocm/lib/library/TensileLibrary.dat: No such file or "
        "directory\n",
    ),
    # ROCm
    told(INTERNAL, "hipErrorNoBinaryForGpu: Unable to find code object for all current devices!"),
    # Metal
    died(
        -6,
        "Error: command buffer exited with error status.\n"
        "\tThe Metal Performance Shaders operations encoded on it may not have completed.\n"
        "\tError: \n"
        "\t(null)\n"
        "\tCaused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)\n",
    ),
    # Metal
    died(
        -6,
        "Error: command buffer exited with error status.\n"
        "\tImpacting Interactivity "
        "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)\n",
    ),
    # TPU
    told(
        NOT_FOUND,
        "TPU initialization failed: open(/dev/accel0): Operation not permitted: Device or "
        "resource busy",
    ),
    # TensorFlow: env.cc EAGAIN
    died(
        -6,
        "F0000 tsl/platform/default/env.cc:74] Check failed: ret == 0 (11 vs. 0)Thread "
        "tf_data_private_threadpool creation via pthread_create() failed.\n",
    ),
    # python fork limit
    told(("BlockingIOError", "OSError", *VALUE[1:]), "[Errno 11] Resource temporarily unavailable"),
    # watchdog
    told(OS, "[Errno 28] inotify watch limit reached"),
    # h5py
    told(
        OS,
        "Can't write data (file write failed: time = Mon, filename = 'w.h5', errno = 28, error "
        "message = 'No space left on device')",
    ),
    # a user's own
    told(VALUE, "batch of 37 does not fit into the memory bank of 36 entries"),
    # a user's own
    told(RUNTIME, "memory bank overflow: cannot allocate slot 37 of 36"),
    # a user's own
    told(VALUE, "could not allocate 37 workers to 4 GPUs"),
    # a user's own
    told(RUNTIME, "failed to allocate a port for the profiler server"),
    # a user's own
    told(RUNTIME, "search budget exhausted after 37 evaluations"),
    # a user's own
    told(VALUE, "Replay memory exhausted: 0 transitions left"),
    # a user's own
    told(("AssertionError", *VALUE[1:]), "memory leak detected: 37 tensors were not released"),
    # a user's own
    told(("IndexError", "LookupError", *VALUE[1:]), "memory slot 37 is out of range"),
    # a user's own
    told(("KeyError", "LookupError", *VALUE[1:]), "'memory_limit'"),
    # a user's own
    told(VALUE, "Exceeded maximum memory length of 36 tokens for the recurrent memory transformer"),
    # a user's own
    told(TYPE, "allocate() got an unexpected keyword argument 'memory'"),
    # a user's own
    told(
        ("FileNotFoundError", "OSError", *VALUE[1:]),
        "[Errno 2] No such file or directory: '/data/out_of_memory/train.csv'",
    ),
    # redis
    told(
        ("ResponseError", "RedisError", *VALUE[1:]),
        "OOM command not allowed when used memory > 'maxmemory'.",
    ),
    # PIL
    told(
        ("DecompressionBombError", *VALUE[1:]),
        "Image size (225000000 pixels) exceeds limit of 178956970 pixels, could be "
        "decompression bomb DOS attack.",
    ),
    # a user's own
    told(
        ("CalledProcessError", *VALUE[1:]),
        "Command '['nvidia-smi', '--query-gpu=memory.free']' returned non-zero exit status 9.",
    ),
    # Keras
    told(
        VALUE,
        "Layer lstm_memory expected 3 variables, but received 0 variables during loading. "
        "Expected: ['kernel:0', 'allocated:0']",
    ),
    # a user's own
    told(("AttributeError", *VALUE[1:]), "module 'tensorflow' has no attribute 'get_memory_info'"),
    # a user's own
    told(
        VALUE,
        "Argument `memory` of size (64, 512) cannot be broadcast to a buffer of size (32, 512)",
    ),
    # TensorFlow, in a layer that is called so
    told(
        INVALID,
        "Incompatible shapes: [37,1024] vs. [36,1024]\n"
        "\t [[{{node memory_network/allocation/add}}]] [Op:__inference_train_function_11]",
    ),
    # TensorFlow
    told(
        INVALID,
        "indices[3,37] = 30522 is not in [0, 30522)\n\t [[{{node model/memory/embedding_lookup}}]]",
    ),
    # a user's own
    died(
        1,
        "Traceback (most recent call last):\n"
        '  File "train.py", line 3, in <module>\n'
        "KeyError: 'x'\n",
    ),
    # tensorflow/tensorflow#84523
    died(
        1,
        "E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:477] Unable to register "
        "cuFFT factory: Attempting to register factory for plugin cuFFT when one has already "
        "been registered\n"
        "KeyboardInterrupt\n",
    ),
    # TensorFlow without a GPU
    told(
        VALUE,
        "No gradients provided for any variable",
        log="2021 E cuda_driver.cc:328] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no "
        "CUDA-capable device is detected\n",
    ),
    # TensorFlow: log
    told(
        TYPE,
        "'NoneType' object is not subscriptable",
        log="I gpu_device.cc:2022] Created device /job:localhost/replica:0/task:0/device:GPU:0 "
        "with 10240 MB memory:  -> device: 0\n",
    ),
    # a user's own
    told(
        ("StopIteration", *VALUE[1:]),
        "",
        log="I bfc_allocator.cc:1039] Total memory limit 8 GiB\n"
        "I0000 xla/service/service.cc:168] XLA service\n",
    ),
    # TensorFlow: libdevice
    told(UNKNOWN, "JIT compilation failed. [Op:__some_op]"),
    # the loader
    told(
        ("ImportError", *VALUE[1:]),
        "libcublas.so.12: cannot open shared object file: No such file or directory",
    ),
    # the operating system
    told(OS, "[Errno 5] Input/output error"),
    # TensorFlow: memory growth
    told(RUNTIME, "Physical devices cannot be modified after being initialized"),
    # TensorFlow
    told(VALUE, "Memory growth cannot differ between GPU devices"),
    # TensorFlow
    told(VALUE, "Cannot set memory growth on device when virtual devices configured"),
    # TensorFlow
    told(RUNTIME, "Virtual devices cannot be modified after being initialized; memory_limit=4096"),
    # the C++ runtime
    died(
        -6,
        "terminate called after throwing an instance of 'std::length_error'\n"
        "  what():  vector::_M_default_append\n",
    ),
    # heap corruption
    died(
        -6,
        "python: malloc.c:2379: sysmalloc: Assertion `(old_top == initial_top (av) && old_size "
        "== 0)' failed.\n",
    ),
    # heap corruption
    died(-6, "double free or corruption (!prev)\n"),
    # heap corruption
    died(-6, "free(): invalid pointer\n"),
    # glibc: heap corruption
    died(-6, "malloc(): memory corruption\n"),
    # glibc
    died(-6, "malloc(): unaligned tcache chunk detected\n"),
    # tcmalloc's notice
    told(VALUE, "x must be 2-D", log="tcmalloc: large alloc 8589934592 bytes == 0x7f40 @\n"),
    # tcmalloc
    died(-6, "src/tcmalloc.cc:277] Attempt to free invalid pointer 0x7f\n"),
    # tensorflow/tensorflow#56423
    died(
        -6,
        "terminate called after throwing an instance of 'std::system_error'\n"
        "  what():  Resource temporarily unavailable\n",
    ),
    # TensorFlow's GPU start
    told(
        INTERNAL,
        "CUDA runtime implicit initialization on GPU:0 failed. Status: device kernel image is "
        "invalid",
    ),
    # tensorflow/tensorflow#30665
    died(
        -6,
        "F tensorflow/core/kernels/bias_op_gpu.cu.cc:1] Non-OK-status: CudaLaunchKernel( "
        "BiasNHWCKernel<T>, config.block_count, config.thread_per_block, 0, d.stream()) "
        "status: Internal: invalid configuration argument\n",
    ),
    # tensorflow/tensorflow#33696
    died(
        -6,
        "F .\\tensorflow/core/kernels/random_op_gpu.h:227] Non-OK-status: "
        "GpuLaunchKernel(FillPhiloxRandomKernelLaunch<Distribution>, num_blocks, block_size, "
        "0, d.stream()) status: Internal: invalid device function\n",
    ),
    # keras-team/autokeras#1916
    told(
        INTERNAL, "Failed to launch CUDA kernel: CUDA_ERROR_INVALID_HANDLE: invalid resource handle"
    ),
    # NVIDIA/DeepLearningExamples#972
    told(
        UNKNOWN,
        "Horovod has been shut down. This was caused by an exception on one of the ranks or an "
        "attempt to allreduce, allgather or broadcast a tensor after one of the ranks finished "
        "execution.",
    ),
    # tensorflow/tensorflow#52287
    told(
        VALUE,
        "Unexpected result of `train_function` (Empty Logs).",
        log="2021-10-04: E tensorflow/compiler/tf2tensorrt/utils/trt_logger.cc:42] DefaultLogger "
        "INVALID_ARGUMENT: Cannot set empty memory.\n",
    ),
    # tensorflow/tensorflow#56935
    died(
        -6,
        "F tensorflow/core/common_runtime/gpu/gpu_cudamallocasync_allocator.cc:390] Trying to "
        "set the stream twice. This isn't supported.\n",
    ),
    # tensorflow/tensorflow#48545
    told(INTERNAL, "No allocator statistics"),
    # google/automl#127
    told(
        VALUE,
        "logits and labels must have the same shape",
        log="E tensorflow/core/grappler/optimizers/meta_optimizer.cc:533] memory_optimizer failed: "
        "Deadline exceeded: memory_optimizer exceeded deadline.\n",
    ),
    # tensorflow/tensorflow#74914
    died(
        -6,
        "F tensorflow/core/common_runtime/mkl_layout_pass.cc:2703] Non-OK-status: "
        'GetNodeAttr(orig_node->def(), "strides", &strides)\n'
        "Status: INVALID_ARGUMENT: Attr strides has value 4634247419717959497 out of range for "
        "an int32\n",
    ),
    # gpustack/gpustack#1242
    told(
        VALUE,
        "x",
        log="WARNING config.py:678] Possibly too large swap space. 256.00 GiB out of the 460.30 "
        "GiB total CPU memory is allocated for the swap space.\n",
    ),
    # tensorflow/tensorflow#10961
    died(
        -6,
        "cudaCheckError() failed : invalid resource handle\n"
        "E tensorflow/stream_executor/cuda/cuda_event.cc:49] Error polling for event status: "
        "failed to query event: CUDA_ERROR_DEINITIALIZED\n"
        "F tensorflow/core/common_runtime/gpu/gpu_event_mgr.cc:203] Unexpected Event status: 1\n"
        "W bfc_allocator.cc:217] Allocator (GPU_1_bfc) ran out of memory trying to allocate "
        "3.51GiB. The caller indicates that this is not a failure, but may mean that there "
        "could be performance gains if more memory is available.\n",
    ),
    # rwth-i6/returnn#299
    died(-6, "bfc_allocator.cc:1] Check failed: BinForSize(bin_size) == BinFromIndex(b)\n"),
    # ZJULearning/pixel_link#98
    died(
        -6,
        "F tensorflow/core/kernels/mkl/mkl_softmax_op.cc:164] Aborted: Operation received an "
        "exception:Status: 3, message: could not initialize a memory descriptor, in file "
        "tensorflow/core/kernels/mkl_softmax_op.cc:164\n",
    ),
    # ppliuboy/DDFlow#9
    told(
        ("AbortedError", *EXHAUSTED[1:]),
        "Operation received an exception:Status: 5, message: could not initialize a memory "
        "descriptor, in file tensorflow/core/kernels/mkl_concat_op.cc:781",
    ),
    # tensorflow/tensorflow#11628
    died(
        -6,
        "F env->NewWritableFile tfdebug Non-OK-status: env->NewWritableFile(file_path, &f) "
        "status: Resource exhausted: "
        "/tmp/tfdbg_9_gcc3sc/gradients/output/Reshape_1_grad/Reshape_0_DebugIdentity_150023213;"
        " Too many open files\n"
        "Aborted (core dumped)\n",
    ),
    # tensorflow/tensorflow#4350
    told(
        EXHAUSTED,
        "./model/model-49.tempstate5787507096018461664\n"
        "\t [[Node: save/save = SaveSlices[T=[DT_FLOAT, DT_FLOAT]]]]",
    ),
    # tensorflow/tensorflow#7013
    told(EXHAUSTED, "/mnt/imagenet-data/raw-data/train"),
    # rishizek/tensorflow-deeplab-v3-plus#8
    died(
        -6,
        "E tensorflow/stream_executor/cuda/cuda_driver.cc:967] failed to alloc 2304 bytes on "
        "host: CUDA_ERROR_UNKNOWN\n",
    ),
    # TensorFlow
    told(INVALID, "Dimension size must be evenly divisible by 3 but is 37 for '{{node Reshape}}'"),
    # PyTorch
    told(
        RUNTIME,
        "Trying to backward through the graph a second time (or directly access saved tensors "
        "after they have already been freed). Saved intermediate values of the graph are freed "
        "when you call .backward()",
    ),
    # PyTorch
    told(RUNTIME, "CUDA error: device-side assert triggered"),
    # PyTorch
    told(RUNTIME, "CUDA error: an illegal instruction was encountered"),
    # TensorFlow
    told(
        INVALID,
        "Cannot assign a device for operation model/dense/MatMul: Could not satisfy explicit "
        "device specification '/device:GPU:3' because no supported kernel for GPU devices is "
        "available.",
    ),
    # TensorFlow
    told(TYPE, "Cannot convert 37 to EagerTensor of dtype float"),
    # PyTorch
    told(RUNTIME, "DataLoader worker (pid 123) exited unexpectedly with exit code 1"),
    # Python
    told(("ConnectionResetError", *VALUE[1:]), "[Errno 104] Connection reset by peer"),
    # Python
    told(("RecursionError", *VALUE[1:]), "maximum recursion depth exceeded"),
    # Python
    told(OS, "[Errno 122] Disk quota exceeded"),
    # Python
    told(VALUE, "Exceeds the limit (4300 digits) for integer string conversion"),
    # PyTorch
    told(
        RUNTIME,
        "Too many open files. Communication with the workers is no longer possible. Please "
        "increase the limit using `ulimit -n` in the shell",
    ),
    # XLA
    told(
        XLA,
        "INVALID_ARGUMENT: Executable expected parameter 0 of size 1024 but got buffer with "
        "incompatible size 512",
    ),
    # XLA
    told(XLA, "DEADLINE_EXCEEDED: Barrier timed out. Barrier_id: PjRT_Client_Connect"),
    # XLA
    told(XLA, "UNIMPLEMENTED: Memory kind pinned_host is not supported on this device"),
    # a user's own
    told(VALUE, "The batch size 37 exceeds the maximum memory size 36"),
    # a user's own
    told(RUNTIME, "Insufficient data: not enough samples in memory to fill the batch"),
    # a user's own
    told(RUNTIME, "not enough memory cells to allocate a batch of 37"),
    # a user's own
    told(RUNTIME, "ring buffer: out of memory slots"),
    # a user's own
    told(VALUE, "GPU memory fraction must be in (0, 1]"),
    # a user's own
    told(RUNTIME, "gpu memory pool must be created before use"),
    # a user's own
    told(RUNTIME, "failed to allocate 37 episodes of 100 steps"),
    # a user's own
    told(RUNTIME, "device memory profiler is not supported on this platform"),
    # a user's own
    told(RUNTIME, "could not allocate 12 samples to shards"),
    # a user's own
    told(("Exception", *VALUE[1:]), "Out of luck: memory of the last 37 episodes is empty"),
    # CUDA
    told(
        INTERNAL,
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an unsupported "
        "toolchain.",
    ),
    # CUDA
    told(
        INTERNAL,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has unsupported display driver / cuda "
        "driver combination",
    ),
    # CUDA
    told(
        INTERNAL,
        "failed call to cuInit: CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: forward "
        "compatibility was attempted on non supported HW",
    ),
    # CUDA
    told(INTERNAL, "CUDA error: peer access is not supported between these two devices"),
    # CUDA
    told(INTERNAL, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED: could not map memory of the peer"),
    # CUDA
    told(INTERNAL, "CUDA_ERROR_TIMEOUT: the launch timed out and was terminated"),
    # CUDA
    told(INTERNAL, "CUDA_ERROR_ASSERT: device-side assert triggered"),
    # CUDA
    told(
        INTERNAL,
        "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: part or all of the requested memory range "
        "is already mapped",
    ),
    # CUDA
    told(INTERNAL, "CUDA_ERROR_MAP_FAILED: mapping of buffer object failed"),
    # a stack with such names
    died(
        -11,
        "Fatal Python error: Segmentation fault\n"
        "\n"
        "Current thread 0x00007f (most recent call first):\n"
        '  File "/x/memory/allocate.py", line 3 in allocate_memory\n',
    ),
    # TensorFlow
    died(
        1,
        "Error: Node: 'IteratorGetNext' Cannot batch tensors with different shapes in "
        "component 0.\n",
    ),
    # TensorFlow
    told(
        ("FailedPreconditionError", *EXHAUSTED[1:]),
        "GetNext() failed because the iterator has not been initialized. Memory cached dataset",
    ),
    # TensorFlow
    told(
        INVALID, "You must feed a value for placeholder tensor 'memory/allocated' with dtype float"
    ),
    # TensorFlow
    told(
        ("AbortedError", *EXHAUSTED[1:]),
        "All operations were aborted because the parameter server ran out of time",
    ),
)
