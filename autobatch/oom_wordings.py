"""What programs say when memory runs out, and what only sounds like it.

A section is a set of patterns that mean the same. Sections are ordered: the first that matches a
line decides what the line means. Behind each pattern stands where its wording comes from: a thread
on GitHub, or the program whose own text it is. Every pattern is matched against one line of at
most `MAX_LINE` characters, so none can run away on a long log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

MAX_LINE = 2000


class Says(str, Enum):
    """What a line means."""

    DEVICE = "device"  # the device's memory ran out
    HOST = "host"  # the machine's memory ran out
    POOL = "pool"  # a TensorFlow allocator ran out: its name tells whose memory it was
    EITHER = "either"  # lack of memory, or something else: the surroundings decide
    STATUS = "status"  # RESOURCE_EXHAUSTED, and nothing tells of what
    CHILD = "child"  # a process of the user's died: why, the kernel may know
    OTHER = "other"  # certainly not memory


class Heard(str, Enum):
    """Where a wording is believed."""

    ANYWHERE = "anywhere"  # nobody writes this by hand: counts in a user's own exception as well
    MACHINE = "machine"  # not in exceptions that user code raises, such as ValueError
    EXHAUSTED = "exhausted"  # only under the status RESOURCE_EXHAUSTED


@dataclass(frozen=True, slots=True)
class Section:
    """Patterns that mean the same.

    Attributes:
        says: What a line that matches means.
        heard: Where it is believed.
        sure: A match is certain; otherwise likely.
        pattern: All of them as one expression.
    """

    says: Says
    heard: Heard
    sure: bool
    pattern: re.Pattern[str]


def _section(
    says: Says, *patterns: str, heard: Heard = Heard.ANYWHERE, sure: bool = True
) -> Section:
    return Section(says, heard, sure, re.compile("|".join(patterns), re.IGNORECASE))


_GPU = (
    r"(?:cuda|gpu|hip|rocm|xpu|mps|metal|hbm|vram|tpu|npu|hpu|ipu|mlu|musa|dml|directml|device"
    r"|video|accelerator)"
)
# "out of memory" as a machine ends or goes on, and not "out of memory slots".
_OUT = (
    r"out[ _-]of[ _-]memory(?:[ _]error)?"
    r"(?=\s*(?:$|[^\w\s]|(?:while|when|trying|during|in|on|at|to|allocating|for)\b))"
)

SECTIONS = (
    _section(
        Says.HOST,
        r"failed to alloc\w* \d+ bytes on host(?!: \w*UNKNOWN)",  # talmolab/sleap#2001
        # Accenture/AIR#7; libtensorflow_framework
        r"(?:could not|unable to|failed to) allocate (?:pinned )?host memory",
        r"(?:cuMem|cuda|hip)(?:Host(?:Alloc|Malloc)|AllocHost|MallocHost)\b.{0,80}memory",
        r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",  # pytorch/pytorch#20618
        # /dev/shm is the machine's memory: pytorch/pytorch#5040, NVIDIA/nccl#290, #1683
        r"NCCL WARN Call to posix_fallocate failed",
        r"(?:insufficient|out of|not enough|no) shared memory(?! slots)(?!,? required)",
        r"(?:/dev/shm|shm_open|shared memory|torch_shm|shm\)).{0,200}"
        r"(?:no space left on device|cannot allocate memory|exhausted|insufficient)",
        r"(?:no space left on device|cannot allocate memory|errno 28).{0,200}(?:/dev/shm|torch_)",
        r"unable to (?:m?map|allocate|write|resize).{0,60}(?:torch_|shared memory)"
        r".{0,99}\((?:12|28)\)",
        # oneDNN's status 1, in all its versions; its memory is the machine's
        r"received an exception: ?Status: 1\b",
        # programs and allocators of the machine that name themselves: hku-mars/STD#24
        r"^\W*(?:libgomp|cc1\w*|(?:[\w-]*-)?(?:g\+\+|gcc|ld|as)|(?:je|tc|mi)malloc)\b\W{1,3}"
        r".{0,60}\b(?:out of memory|alloc\w* fail)",
        r"failed to CUDA host alloc",  # NVIDIA/nccl
        # the machine's monitors: ray-project/ray#30312, kubeflow/kubeflow#1261
        r"node (?:was |is )?running low on memory|low on resource: memory"
        r"|tried to allocate more memory than is available",  # Kaggle
    ),
    _section(
        Says.OTHER,
        r"no space left on device|disk quota exceeded|errno 28\b",  # tensorflow/tensorflow#4350
        r"too many open files|errno 24\b",  # tensorflow/io#1682, google-research/meta-dataset#24
        # tensorflow/serving#1382
        r"(?:received|sent|serialized|decompressed|trying to send) message.{0,40}(?:larger|exceed)",
        r"message (?:length|size).{0,40}(?:larger|exceed|too (?:large|big))",
        r"quota\b.{0,60}(?:exceed|limit|exhaust)|(?:check|exceed\w*|over|insufficient).{0,20}quota",
        r"rate.?limit|too many (?:requests|pending|concurrent)",  # tensorflow/tensorboard#6454
        # GoogleCloudPlatform/gcs-connector-for-pytorch#48
        r"(?:^|(?:http|status|code|error)\W{1,10})429\b",
        r"(?:file-system byte-size allowance|threadpool|stream ids?|scheduling queue).{0,60}"
        r"(?:exhausted|full)",  # libtensorflow_cc
        r"CUDA_ERROR_ILLEGAL|illegal memory access|misaligned address",  # tensorflow#46247, #3224
        r"CUDA_ERROR_LAUNCH|unspecified launch failure|device-side assert",  # tensorflow#25866
        r"too many resources requested for launch|LAUNCH_OUT_OF_RESOURCES",  # tensorflow#16187
        r"out of resources?: (?:shared|tensor) memory|exceed\w* (?:the )?shared memory"
        r"|uses too much shared data",  # on the chip: triton-lang/triton#8182
        r"CUDA_ERROR_(?:NO_DEVICE|INVALID|UNKNOWN|NOT_FOUND|ECC|NO_BINARY|UNSUPPORTED|SYSTEM)"
        r"|no CUDA-capable device|invalid device ordinal|devices are busy or unavailable",  # #44869
        # livepeer/lpms#244
        r"no kernel image|kernel image is invalid|driver version is insufficient",
        r"uncorrectable ECC|fallen off the bus|NVRM: Xid",
        r"loaded (?:runtime )?cudnn library.{0,80}but source|cudnn.{0,30}version.{0,40}(?:mismatch"
        r"|incompatib|needs to match)|CUDNN_STATUS_(?:VERSION|ARCH|SUBLIBRARY)\w*MISMATCH"
        r"|CUDNN_STATUS_BAD_PARAM",  # tensorflow#33666, #2174
        # what a library has not; only PyTorch also says so where memory ran out
        r"(?<!cuDNN error: )\b[A-Z]+_STATUS_NOT_SUPPORTED",
        # oneDNN's arguments, and what it has not: tensorflow#18905, ppliuboy/DDFlow#9
        r"received an exception: ?Status: [235]\b",
        r"could not load (?:dynamic )?library|cannot open shared object|undefined symbol",
        r"libdevice.{0,60}(?:not found|is required)|(?:can't|couldn't) find libdevice"
        r"|ptxas.{0,60}(?:not found|fatal|exited|returned|couldn't)|No PTX compilation",  # #60790
        r"overflow (?:when|in) multiply|exceeds? (?:the )?(?:int32|2\^31|2147483647)|int32 overflow"
        # tensorflow#61631, #31351
        r"|32-bit index|larger than 2 ?GB|too many elements|> ?2\*\*3[12]",
        r"(?:tensor|array|dimension|slice|input|graphdef|protobuf|proto|literal)\b.{0,40}"
        r"(?:is )?too (?:large|big)",
        r"memory access fault by GPU|page not present",  # ROCm/legacy-rocm-build#4554
        r"double free|heap corruption|corrupted (?:size|double|unsorted|top)|invalid pointer"
        r"|memory corruption|being freed was not allocated",  # tensorflow/tensorflow#83371
        r"(?:thread creation|pthread_create|can't start new thread|libgomp: thread)",  # #41532
        r"Check failed: BinForSize",  # rwth-i6/returnn#299: the allocator's own arithmetic
    ),
    _section(
        Says.POOL,
        # santi-pdp/segan#42 (old, names no allocator), Azure/MachineLearningNotebooks#880
        r"OOM when allocating (?:temporary )?tensor (?:with|of) shape",
        # one without a name: intel/intel-extension-for-tensorflow#34
        r"Allocator (?:\([^)]{1,80}\) )?ran out of memory trying to allocate [^(]{1,40}"
        r"\(rounded to",
        r"ran out of memory trying to allocate.{0,40}see logs for memory state",  # tensorflow#7025
        r"BFCArena::AllocateRaw.{0,160}failed to allocate memory",  # microsoft/onnxruntime#20038
        r"SameWorkerRecvDone unable to allocate output tensor",  # libtensorflow_framework
        r"not enough memory to allocate \d+",  # libtensorflow_framework
        r"failed to allocate memory for the batch of component",  # tf.data in libtensorflow_cc
        r"(?:failed|unable|could not|cannot).{0,40}\balloc.{0,200}\bby allocator \w",
    ),
    _section(
        Says.DEVICE,
        r"out of memory while trying to allocate \d+",  # jax-ml/jax#13428
        # kingoflolz/mesh-transformer-jax#66
        r"failed to allocate request for \d[\d.]*\s*[KMGT]?i?B",
        r"failed to allocate [\d.]+[^:\n]{0,40} (?:from|on) (?:the )?device\b",
        r"CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation",  # tensorflow#7272, #60607; cupy#314
        r"HIP_ERROR_OutOfMemory|hipError(?:OutOfMemory|MemoryAllocation)|hipError_t\(1002\)",
        # pytorch/pytorch#59778, and its back ends: vllm-project/vllm-omni#1199
        r"\b[a-z]{2,12} out of memory\. Tried to allocate",
        r"MODULE:PT_DEVMEM Allocation failed",  # mila-iqia/milabench#301
        r"(?:UR_RESULT|PI|ZE_RESULT)_ERROR_OUT_OF_DEVICE_MEMORY",  # intel/torch-xpu-ops#1598
        r"MPS backend out of memory \(",  # pytorch/pytorch#105839
        # rowanz/neural-motifs#58, junjie18/CMT#15, NVIDIA/TensorRT#948
        r"cuda runtime error \(2\)|CUDA failure 2\b|error 2 out of memory|: 2 \(out of memory\)",
        # apache/mxnet#5341
        r"(?:(?:cu|hip|cuda)(?:Mem|Malloc|Array)\w*|parallel_for)\b.{0,40}\bfail\w*\b.{0,20}"
        r"\bout of memory",
        # google-research/bert#791
        r"implicit initialization on \S+ failed\. Status: out of memory",
        r"status: (?:\w+: )?out of memory|Cuda failure '?out of memory",  # tensorflow#36510
        r"out of memory (?:allocating|to allocate) [\d,]+ bytes",  # cupy/cupy#2242, #1912
        # PaddlePaddle/Paddle#42228
        r"out of memory error on GPU|cannot allocate \S+ memory on GPU",
        r"ran out of memory in memory space hbm|exceeded hbm capacity|HbmOom",  # tensorflow/tpu#385
        r"allocation \(size=\d+\) would exceed memory(?!.*space=[vs]mem)",
        r"attempting to (?:reserve|allocate) [\d.]+\s*[KMGT]?i?B?\b.{0,60}that was not possible",
        r"kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory \((?:IOAF|0{7}8)",
        r"failed to (?:allocate|create) (?:a )?(?:MTL|metal )\w*(?:buffer|heap)",
        # lmstudio-ai/lmstudio-bug-tracker#2240, scikit-learn-contrib/fastcan#262
        r"metal::malloc\]|Invalid buffer size: [\d.]+ [GM]",
        r"Memory not available to allocate buffer",  # ROCm/MIOpen#47
        r"memory \(\d+ bytes\) could not be allocated",  # NVIDIA/TensorRT#4258
        # NVIDIA-AI-IOT/torch2trt#661, marcoslucianops/DeepStream-Yolo#366
        r"Error Code 2: OutOfMemory|OutOfMemory Error in allocate",
        r"E_OUTOFMEMORY|0x8007000E",  # microsoft/tensorflow-directml#294
        # NVIDIA/cccl#2092, OrangeOwlSolutions/Thrust#1, rapidsai/rmm#894
        r"(?:thrust|rmm|cub)\b.{0,60}bad_alloc|bad_alloc: .{0,60}(?:cuda|hip|rmm|out.of.memory)"
        r"|rmm::out_of_memory",
    ),
    _section(
        Says.HOST,
        r"\bstd::bad_alloc\b",  # tensorflow/tensorflow#9487, #16097
        r"^(?:\w+\.)*_?(?:Array)?MemoryError(?:: |:?$)",  # Python, through tensorflow#39442
        r"unable to allocate (?:[\d.]+ \w+ for an )?array with shape",  # numpy; keras#11938
        r"(?:_Array)?MemoryError: unable to allocate [\d.]+ \w*B\b",  # tensorflow#45238
        r"OOM-?Killed|invoked oom-killer|oom[-_]kill(?:er)?[ :]|oom_reaper",  # kubernetes#56891
        r"out of memory: kill(?:ed)? process|memory cgroup out of memory",
        r"paging file is too small|WinError (?:8|14|1455)\b",
        r"LLVM ERROR: (?:out of memory|unable to allocate)",
        r"mach_vm_map\(size=\d+\) failed|can't allocate region",  # tensorflow/tensorflow#41457
        r"OpenBLAS.{0,40}memory allocation (?:still )?failed|MKL.{0,40}memory allocation fail",
        r"fatal error: (?:runtime: )?out of memory|virtual memory exhausted",
        r"^memory allocation of \d+ bytes failed",  # Rust
        r"Insufficient memory\) Failed to allocate",  # OpenCV
        r"(?:UR_RESULT|PI|ZE_RESULT)_ERROR_OUT_OF_HOST_MEMORY",  # oneapi-src/unified-runtime
    ),
    _section(
        Says.DEVICE,
        r"(?:Dst|Src) tensor is not initialized",  # tensorflow/tensorflow#7025
        r"(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|HIPSPARSE|HIPSOLVER|CUTENSOR)_STATUS_ALLOC_FAILED",
        r"(?:CU|HIP)FFT_ALLOC_FAILED|(?:CU|HIP)RAND_STATUS_ALLOCATION_FAILED",  # BVLC/caffe#1026
        r"rocblas_status_memory_error|miopenStatusAllocFailed|ROC\w*_STATUS_\w*MEMORY\w*",
        r"CUFFT_SUCCESS \(2 vs|cuFFT batched plan: ?2\b",  # tensorflow/tensorflow#8710
        r"failed to allocate (?:the |cu\w+ )?(?:scratch|work ?(?:space|area))",  # tensorflow#60783
        r"failed memory allocation, while a secondary algorithm",  # tensorflow/tensorflow#24044
        r"no algorithm without scratch worked",  # tensorflow/tensorflow#12251
        r"failed to allocate (?:device|gpu|unified) memory",
        r"newBufferWith\w*.{0,20}\blength \w+ must not exceed",  # Metal's longest buffer
        r"failed to CUDA [cm]alloc (?:async )?\d+ bytes",  # microsoft/NPKit#37
        r"HSA_STATUS_ERROR_OUT_OF_MEMORY|CL_(?:OUT_OF_RESOURCES|MEM_OBJECT_ALLOCATION_FAILURE)"
        r"|VK_ERROR_OUT_OF_DEVICE_MEMORY",
        sure=False,
    ),
    _section(
        Says.DEVICE,
        rf"\b{_GPU}\W{{1,4}}(?:\w+\W{{1,3}}){{0,3}}{_OUT}",  # adityaarun1/Detectron.pytorch#11
        rf"out of {_GPU} memory|(?:not enough|insufficient) (?:\w+ )?{_GPU} (?:\w+ )?memory",
        rf"{_OUT}.{{0,40}}\b(?:on|in) (?:the )?{_GPU}\b",
        rf"^\W*(?:\w+: ?){{0,2}}{_OUT}\W*$",
        heard=Heard.MACHINE,
        sure=False,
    ),
    _section(
        Says.DEVICE,
        r"Check failed: h != kInvalidChunkHandle",  # tensorflow#60607: what XLA frees after an OOM
        heard=Heard.MACHINE,
        sure=False,
    ),
    _section(
        Says.POOL,
        r"failed to allocate memory|failed to allocate \d|\bOOM\b",  # iperov/DeepFaceLab#5581
        _OUT,
        heard=Heard.EXHAUSTED,
    ),
    _section(
        Says.POOL,
        # lshqqytiger/stable-diffusion-webui-amdgpu#174
        r"(?:failed|unable|could not|cannot|can't) (?:to )?allocate (?:\w+ ){0,4}[\d.,]+ ?"
        r"(?:[KMGT]i?B|bytes)\b",
        heard=Heard.MACHINE,
        sure=False,
    ),
    _section(
        Says.HOST,
        r"\[?Errno 12\b|\bos error 12\b|error code:? 12\b|\bENOMEM\b",  # matterport/Mask_RCNN#776
        r"(?:cannot|can't|could not|unable to) allocate memory\s*(?:$|[\])'\".,;:(])",
        r"\bbad[ _]alloc(?:ation)?\b",
        r"(?:not enough|insufficient|out of) (?:host |system |cpu |main )(?:memory|ram)\b",
        heard=Heard.MACHINE,
    ),
    _section(
        Says.EITHER,
        r"failed to get convolution algorithm",  # tensorflow#24828: memory, or a version mismatch
        r"no algorithm worked|unable to find a suitable algorithm",  # tensorflow#45068, #2174
        r"failed to determine best cudnn convolution|cudnn frontend",  # tensorflow#55633
        # tensorflow#35029, #9489, #48041
        r"blas x?gem[mv]\w* launch failed|BLAS operation using StreamExecutor without",
        r"failed to (?:create|initialize) \w*(?:blas|dnn|solver|fft|sparse|rand)\w*",
        r"could not create \w*dnn handle|DNN library (?:is not found|initialization failed)",
        r"(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS)_STATUS_(?:NOT_INITIALIZED|INTERNAL_ERROR"
        r"|EXECUTION_FAILED|NOT_SUPPORTED|MAPPING_ERROR)\w*",  # tensorflow#35950
        r"CUFFT_(?:INTERNAL_ERROR|SETUP_FAILED|EXEC_FAILED)|cufft \w* ?plan",  # tensorflow#56159
        r"cusolverDnCreate|cuSolverDN (?:instance|call failed)",  # NVlabs/stylegan2-ada#23
        r"(?:Then|Do)Rnn(?:Forward|Backward)|cuDNN launch failure",  # tensorflow#17410
        r"miopenStatus\w+|rocblas_status_(?!success)\w+|MIOpen Error",
        r"NCCL.{0,60}unhandled (?:cuda|system) error|unhandled cuda error",  # tensorflow#36510
        r"GPU sync failed|failed initializing StreamExecutor",  # tensorflow#30594
        r"CUDACachingAllocator|unable to find an engine to execute",  # torch
        r"could not (?:execute|create) a (?:primitive|memory object)",  # uxlfoundation/oneDNN#914
        r"out of memory in memory space (?!hbm)\w+",  # tensorflow#35603: on the chip
        r"HSA_STATUS_ERROR_OUT_OF_RESOURCES",  # ROCm/legacy-rocm-build#1088
        r"(?:UR_RESULT|PI)_ERROR_OUT_OF_RESOURCES",  # intel/torch-xpu-ops#1170
        heard=Heard.MACHINE,
        sure=False,
    ),
    _section(
        Says.CHILD,
        r"worker.{0,60}(?:killed by signal|exited unexpectedly)",  # pytorch/pytorch#5040
        r"process in the process pool was terminated abruptly",  # concurrent.futures
        heard=Heard.MACHINE,
        sure=False,
    ),
)

# In a log these lines come from programs that then go on with less.
HINT = re.compile(
    r"failed to allocate .{0,60}from device"  # growth tries a smaller region next
    r"|could not allocate pinned host memory|failed to alloc \d+ bytes on host"
    r"|algorithm_picker|autotun|gemm_algorithm|tactic",  # jax-ml/jax#788: one candidate did not fit
    re.IGNORECASE,
)

# Allocations that TensorFlow makes on the CPU without saying so.
ON_CPU = re.compile(r"memory for the batch of component", re.IGNORECASE)

# Spans that mean nothing, whatever else stands there: presence decides nothing.
NOISE = re.compile(
    # talmolab/sleap#2142; where the caveat stands in the next line, no failure may stand between
    r"(?:Allocator \([^)\n]{1,80}\) )?ran out of memory trying to allocate"
    r"(?:(?:(?!ran out)[^\n]){0,200}?|(?:(?!ran out|rounded)[\s\S]){0,160}?)"
    r"caller indicates that this is not a failure[^\n]{0,200}"
    # tensorflow's hint after every RESOURCE_EXHAUSTED, disk and files included
    r"|(?:Hint: )?If you want to see a list of allocated tensors when OOM happens[^\n]{0,200}"
    r"|Allocation of \d+ exceeds \d+% of (?:free )?system memory"  # yuxng/PoseCNN#31
    r"|Garbage collection: deallocate free memory regions[^\n]{0,500}"
    r"|If the cause is memory fragmentation[^\n]{0,200}"
    r"|Failed to allocate memory for convolution redzone checking[^\n]{0,300}"
    r"|tcmalloc: large alloc[^\n]{0,200}"
    r"|Can't reduce memory use below[^\n]{0,300}"  # XLA's rematerialization
    r"|If you encounter CUDA out of memory[^\n]{0,200}"  # xinntao/Real-ESRGAN#272
    r"|leaked shared_memory objects",
    re.IGNORECASE,
)

# What a line must hold for any section to look at it: keeps megabytes cheap.
SUSPECT = re.compile(
    r"memory|alloc|oom|exhaust|_status_|cuda|hip|errno|winerror|enomem|error code|launch|algorithm"
    r"|initializ|device|quota|limit|too many|message|larg|too big|librar|dnn|blas|fft|solver|sparse"
    r"|rnn|miopen|nccl|sync failed|check failed|primitive|hbm|buffer|not possible|resource|thread"
    r"|pointer|free|ptxas|ptx|overflow|32-bit|elements|terminated|killed|undefined|xid|ecc|paging"
    r"|page not|0x8007000e|region|mach_vm|full|429",
    re.IGNORECASE,
)

# In a log these explain an `EITHER` otherwise than by memory.
EXCUSES = re.compile(
    r"loaded (?:runtime )?cudnn library.{0,80}but source|needs to match|version mismatch"
    r"|_MISMATCH|no kernel image|kernel image is invalid|driver version is insufficient"
    r"|CUDA_ERROR_(?:ILLEGAL|LAUNCH|MISALIGNED|ECC|NO_BINARY|UNKNOWN)|illegal memory access"
    r"|unspecified launch failure|device-side assert|fallen off the bus",
    re.IGNORECASE,
)

# A log line that a program's machinery wrote, not the user's own print.
MACHINE_LINE = re.compile(
    r"\.(?:cc|cpp|cu|h|hpp|c|mm|pyx):\d+|^[EFW]\d{4} |Check fail|what\(\):|terminate called"
    r"|\b\w+(?:Error|Exception):? |NCCL WARN|^\W*(?:Fatal|Error)\b|^Failed to "
    r"|\[(?:[EFW]|ERROR|FATAL|WARN(?:ING)?)\]|^\W*[EFW] |\bERROR: "  # loggers' levels
    r"|fork: |: [Cc]annot allocate memory$",
)

# Exceptions whose class alone says it.
CLASSES = {
    "OutOfMemoryError": Says.DEVICE,  # torch, cupy
    "MemoryError": Says.HOST,
    "ArrayMemoryError": Says.HOST,  # numpy, also as _ArrayMemoryError
    "ResourceExhaustedError": Says.STATUS,  # memory, disk, files, messages
    "BrokenPipeError": Says.CHILD,
    "ConnectionError": Says.CHILD,
    "EOFError": Says.CHILD,
    "BrokenExecutor": Says.CHILD,
}

# Raised by user code or about its arguments: only wordings heard anywhere count in them.
USERS_OWN = frozenset(
    {
        "ArithmeticError",
        "AlreadyExistsError",
        "AssertionError",
        "AttributeError",
        "DataLossError",
        "FileExistsError",
        "FileNotFoundError",
        "ImportError",
        "IndexError",
        "InvalidArgumentError",
        "KeyError",
        "KeyboardInterrupt",
        "LookupError",
        "ModuleNotFoundError",
        "NameError",
        "NotImplementedError",
        "OutOfRangeError",
        "OverflowError",
        "PermissionDeniedError",
        "PermissionError",
        "RecursionError",
        "StopIteration",
        "SyntaxError",
        "SystemExit",
        "TypeError",
        "UnauthenticatedError",
        "UnicodeError",
        "ValueError",
        "ZeroDivisionError",
    }
)

# Raised for a server, whose memory is not the trial's: a database, a cache.
SERVERS = frozenset({"DatabaseError", "OperationalError", "RedisError"})

# Raised where something else failed: for these the log may hold the reason.
WRAPPERS = frozenset(
    {
        "AbortedError",
        "CancelledError",
        "FailedPreconditionError",
        "InternalError",
        "JaxRuntimeError",
        "ResourceExhaustedError",
        "UnavailableError",
        "UnfilteredStackTrace",
        "UnknownError",
        "XlaRuntimeError",
    }
)
