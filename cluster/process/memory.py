"""A full memory, told from other faults, and given back.

In: an exception. Out: whether a smaller call would have gone well. torch is imported only where it must be.
"""

import gc
import re
import sys

# Only torch's own allocator has a type for it; cuBLAS, cuDNN, the CUDA runtime and the CPU's allocator have words.
# CUDNN_STATUS_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
MEMORY_WORDS = re.compile(r"out of memory|ALLOC(ATION)?_FAILED|can't allocate memory")


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of the machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and MEMORY_WORDS.search(str(error)) is not None
    )


def free_memory() -> None:
    """Give back what failed calls left: exceptions that know their own frames keep tensors until a full collection."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
