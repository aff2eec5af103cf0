"""Running out of memory: how to tell it from other faults, and how to free what failed calls left.

In: an exception. Out: whether a smaller call may work. Does not import torch; uses it if it is loaded.
"""

import gc
import re
import sys

# Only torch's own allocator has an exception type for it; cuBLAS, cuDNN, CUDA and the CPU's allocator have messages:
# CUDNN_STATUS_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
MEMORY_WORDS = re.compile(r"out of memory|ALLOC(ATION)?_FAILED|can't allocate memory")


def is_memory_error(error: BaseException) -> bool:
    """Whether a GPU or the machine ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and MEMORY_WORDS.search(str(error)) is not None
    )


def free_memory() -> None:
    """Free the tensors of failed calls; an exception that refers to its own frames keeps them until a collection."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
