"""A stand-in for CuPy on machines without a GPU: arrays that behave like device arrays, on host memory.

What makes it strict where NumPy is lax, as CuPy is:

- NumPy's functions refuse its arrays (CuPy would dispatch or raise), and so does every implicit conversion;
- arithmetic with NumPy arrays is an error; numbers and NumPy scalars are fine;
- every reduction and every index gives an array, never a number;
- reading a value on the host (``float``, ``bool``, ``get``, printing) and sending an array to the device are counted.

Kernels are the real sources, compiled with g++ (`shim`). A stream can be captured: what is done is then put on a tape and not
executed, results hold NaN until the graph is launched, and values cannot be read. Launching runs the tape on the same memory.
"""
from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tests.kernels_cuda import shim

# What operators call. Other ufuncs were called by name, as numpy.exp(x).
OPERATORS = {
    np.add, np.subtract, np.multiply, np.true_divide, np.floor_divide, np.remainder, np.power, np.negative, np.positive,
    np.absolute, np.invert, np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.matmul,
    np.bitwise_and, np.bitwise_or, np.bitwise_xor,
}
# Functions of the module, with NumPy's meaning; `test_cupy_double` checks that CuPy has them all.
FUNCTIONS = [
    "abs", "absolute", "add", "all", "any", "arange", "argmax", "argmin", "broadcast_to", "concatenate", "copyto",
    "cos", "divide", "exp", "expand_dims", "eye", "floor", "isfinite", "isnan", "log", "log1p", "matmul", "maximum", "mean",
    "minimum", "moveaxis", "multiply", "negative", "ones", "pad", "power", "prod", "repeat", "rint", "result_type", "sign",
    "sin", "sqrt", "square", "stack", "subtract", "sum", "swapaxes", "tanh", "tile", "transpose", "where", "zeros",
    "full", "clip", "logical_and", "logical_not", "logical_or", "zeros_like", "ones_like", "full_like",
]
CONSTANTS = [
    "float32", "float64", "complex64", "complex128", "int32", "int64", "uint8", "uint32", "uint64", "bool_", "pi",
    "inf", "nan", "newaxis", "finfo", "dtype",
]
VIEWS = ["reshape", "transpose", "ravel", "swapaxes", "view", "squeeze"]
REDUCTIONS = [
    "sum", "mean", "max", "min", "argmax", "argmin", "all", "any", "prod", "std", "var", "cumsum", "astype", "copy",
    "conj", "round", "clip", "dot", "repeat", "take",
]


@dataclass
class Log:
    """What was done with device arrays."""

    host_reads: int = 0
    uploads: int = 0
    launches: list[str] = field(default_factory=list)
    forbidden: bool = False

    def read(self, what: str) -> None:
        """Count a value read on the host."""
        if tape is not None:
            raise RuntimeError(f"{what} of an array whose stream is being captured")
        if self.forbidden:
            raise AssertionError(f"{what} waits for the device")
        self.host_reads += 1

    def upload(self) -> None:
        """Count an array sent to the device."""
        if tape is not None:
            raise RuntimeError("an array is sent to the device while a stream is being captured")
        if self.forbidden:
            raise AssertionError("an array is sent from the host")
        self.uploads += 1


log = Log()
# The operations of the stream that is being captured, or None.
tape: list[Callable[[], None]] | None = None


@contextlib.contextmanager
def no_transfers() -> Iterator[None]:
    """Forbid reading and sending values inside the block."""
    log.forbidden = True
    try:
        yield
    finally:
        log.forbidden = False


def host(x: Any) -> Any:
    """Return what NumPy is to compute with in place of `x`."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a NumPy array meets a device array")
    if isinstance(x, (list, tuple)):
        return type(x)(host(v) for v in x)
    if isinstance(x, dict):
        return {name: host(value) for name, value in x.items()}
    return x


def device(x: Any) -> Any:
    """Return NumPy's result as a device array."""
    return ndarray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def perform(function: Callable, *inputs: Any, **options: Any) -> Any:
    """Compute a new array, now or when the graph is launched."""
    given, extra = host(inputs), host(options)
    if tape is None:
        return device(function(*given, **extra))
    # The run that finds out the shape reads memory only.
    with np.errstate(all="ignore"):
        result = np.array(function(*given, **extra))
    result.fill(np.nan if result.dtype.kind in "fc" else 0)
    tape.append(lambda: np.copyto(result, function(*given, **extra)))
    return ndarray(result)


def change(function: Callable[[], Any]) -> None:
    """Change memory in place, now or when the graph is launched."""
    if tape is None:
        function()
    else:
        tape.append(function)


class ndarray(NDArrayOperatorsMixin):  # noqa: N801
    """A device array; `host` is its memory, which only this module looks at."""

    __array_priority__ = 100

    def __init__(self, values: np.ndarray):
        self.host = values

    # --- what NumPy must not do ---------------------------------------------------------------------------------------

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, function: Any, *rest: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was given a device array: use the functions of the array's own module")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if ufunc not in OPERATORS or method != "__call__":
            raise TypeError(f"numpy.{ufunc.__name__} was given a device array: use the functions of the array's own module")
        if ufunc is np.matmul and tape is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        return call(ufunc, *inputs, out=None if out is None else out[0], **options)

    # --- attributes ---------------------------------------------------------------------------------------------------

    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    dtype = property(lambda self: self.host.dtype)
    flags = property(lambda self: self.host.flags)
    itemsize = property(lambda self: self.host.itemsize)
    T = property(lambda self: ndarray(self.host.T))
    real = property(lambda self: ndarray(self.host.real))
    imag = property(lambda self: ndarray(self.host.imag))
    data = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data))

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        index = host(index)
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, np.ndarray) for part in parts):
            return perform(lambda: self.host[index])
        found = self.host[index if any(part is Ellipsis for part in parts) else (*parts, ...)]
        return ndarray(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        index, value = host(index), host(value)
        change(lambda: self.host.__setitem__(index, value))

    # --- reading and sending ------------------------------------------------------------------------------------------

    def get(self) -> np.ndarray:
        """Return a copy on the host."""
        log.read("get")
        return self.host.copy()

    def item(self, *index: int) -> Any:
        """Return one value on the host."""
        log.read("item")
        return self.host.item(*index)

    def tolist(self) -> list:
        """Return the values on the host."""
        log.read("tolist")
        return self.host.tolist()

    def set(self, values: np.ndarray) -> None:
        """Send values to the device."""
        log.upload()
        assert isinstance(values, np.ndarray) and values.shape == self.shape and values.dtype == self.dtype
        self.host[...] = values

    def fill(self, value: Any) -> None:
        """Set all values."""
        value = host(value)
        change(lambda: self.host.fill(value))

    def __bool__(self) -> bool:
        log.read("bool")
        return bool(self.host)

    def __float__(self) -> float:
        log.read("float")
        return float(self.host)

    def __int__(self) -> int:
        log.read("int")
        return int(self.host)

    __index__ = __int__

    def __repr__(self) -> str:
        return f"<device array {self.shape} {self.dtype}>"

    def __deepcopy__(self, memo: dict) -> ndarray:
        return self.copy()


def _view_method(name: str) -> Callable:
    return lambda self, *args, **options: ndarray(getattr(self.host, name)(*args, **options))


def _method(name: str) -> Callable:
    def method(self: ndarray, *args: Any, **options: Any) -> Any:
        return call(getattr(np.ndarray, name), self, *args, **options)

    return method


for _name in VIEWS:
    setattr(ndarray, _name, _view_method(_name))
for _name in REDUCTIONS:
    setattr(ndarray, _name, _method(_name))


def call(function: Callable, *inputs: Any, out: ndarray | None = None, **options: Any) -> Any:
    """Call a function of NumPy on device arrays."""
    if out is None:
        return perform(function, *inputs, **options)
    assert isinstance(out, ndarray), "the result would go to a NumPy array"
    given, extra, target = host(inputs), host(options), out.host
    change(lambda: function(*given, out=target, **extra))
    return out


# --- the module -----------------------------------------------------------------------------------------------------------


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Return memory that has not been written to."""
    made = np.empty(shape, dtype)
    made.fill(np.nan if made.dtype.kind in "fc" else 0)
    return ndarray(made)


def add_at(target: ndarray, index: ndarray, values: ndarray) -> None:
    """Add values at indices, some of which may be the same."""
    # CuPy adds atomically in these types; sums of floating-point numbers would depend on the order.
    assert target.dtype in (np.uint32, np.uint64), f"sums of {target.dtype} would not repeat"
    place, given = host(index), host(values)
    change(lambda: np.add.at(target.host, place, given))


def asarray(values: Any, dtype: Any = None) -> ndarray:
    """Return a device array; values of the host are sent."""
    if isinstance(values, ndarray):
        return values if dtype is None or values.dtype == dtype else values.astype(dtype)
    log.upload()
    return ndarray(np.array(values, dtype))


def ascontiguousarray(values: ndarray, dtype: Any = None) -> ndarray:
    """Return a contiguous device array."""
    same = values.flags.c_contiguous and (dtype is None or values.dtype == dtype)
    return values if same else perform(np.ascontiguousarray, values, dtype)


def asnumpy(values: ndarray) -> np.ndarray:
    """Return a copy on the host."""
    return values.get()


class RawModule:
    """Kernels compiled from source, by g++."""

    def __init__(self, *, code: str, options: tuple[str, ...]):
        real = next(option.removeprefix("-DREAL=") for option in options if option.startswith("-DREAL="))
        self._library = shim.library({"float": np.float32, "double": np.float64}[real])
        assert code == shim.source.text()

    def get_function(self, name: str) -> Callable:
        """Return a kernel, to be called with grid, block and arguments."""
        assert name in self._library.signatures, f"there is no kernel {name}"

        def kernel(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            for given in arguments:
                assert not isinstance(given, np.ndarray) or given.dtype.names, f"{name} was given a NumPy array"
            values = tuple(a.host if isinstance(a, ndarray) else a for a in arguments)
            log.launches.append(name)
            change(lambda: self._library.launch(name, grid, block, values))

        return kernel


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class Graph:
    """A tape that can be run again."""

    def __init__(self, operations: list[Callable[[], None]]):
        self._operations = operations

    def launch(self, stream: Any = None) -> None:
        """Run the tape."""
        for operation in self._operations:
            operation()

    def upload(self, stream: Any = None) -> None:
        """Do nothing: there is nowhere to go."""


class Stream:
    """A stream that can be captured."""

    ptr = 1234

    def __init__(self, null: bool = False, non_blocking: bool = False):
        self.non_blocking = non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def begin_capture(self, mode: int | None = None) -> None:
        """Put on a tape what follows."""
        global tape
        assert self.non_blocking and tape is None
        tape = []

    def end_capture(self) -> Graph:
        """Return the tape."""
        global tape
        assert tape is not None
        operations, tape = tape, None
        return Graph(operations)

    def is_capturing(self) -> bool:
        """Return whether operations go on the tape."""
        return tape is not None

    def synchronize(self) -> None:
        """Wait, which is not allowed in a capture."""
        log.read("synchronize")


class Event:
    """A moment, by the clock of the host."""

    def record(self, stream: Any = None) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Count the wait."""
        log.read("synchronize")


class MemoryPool:
    """As CuPy's, without memory of its own."""

    freed = 0

    def __init__(self, allocator: Callable[[int], Any] | None = None):
        self.allocator = allocator

    def malloc(self, size: int) -> Any:
        """Never called: host memory is NumPy's."""
        raise AssertionError(size)

    def free_bytes(self) -> int:
        """Return what the pool holds and nobody uses: nothing here."""
        return 0

    def free_all_blocks(self) -> None:
        """Count the call, for all pools together."""
        MemoryPool.freed += 1


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(f"status {status}")


class Device:
    """The only device."""

    id = 0

    def synchronize(self) -> None:
        """Wait."""
        log.read("synchronize")


def module() -> types.ModuleType:
    """Return a module to stand in for cupy."""
    made = types.ModuleType("cupy")
    made.__version__ = "14.0.0 (double)"
    for name in FUNCTIONS:
        function = getattr(np, name)
        setattr(made, name, lambda *args, _function=function, **options: call(_function, *args, **options))
    made.add.at = add_at
    for name in CONSTANTS:
        setattr(made, name, getattr(np, name))
    made.result_type = lambda *types_: np.result_type(*(t.dtype if isinstance(t, ndarray) else t for t in types_))
    made.empty, made.empty_like = empty, lambda like: empty(like.shape, like.dtype)
    made.ndarray, made.RawModule = ndarray, RawModule
    made.asarray, made.array, made.ascontiguousarray, made.asnumpy = asarray, asarray, ascontiguousarray, asnumpy
    made.get_default_pinned_memory_pool = lambda: types.SimpleNamespace(malloc=None)
    null, pool = Stream(null=True), MemoryPool()
    made.get_default_memory_pool = lambda: pool
    # Few multiprocessors, so that small products are cut into slices.
    properties = {"name": b"CPU double", "multiProcessorCount": 6}
    made.cuda = types.SimpleNamespace(
        Device=Device, Event=Event, Graph=Graph, MemoryPool=MemoryPool, get_current_stream=lambda: null, alloc=_alloc,
        get_elapsed_time=lambda start, end: 1.0, memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        Memory=lambda size: size, MemoryPointer=lambda memory, offset: (memory, offset),
        runtime=types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1,
                                      getDeviceProperties=lambda device: properties,
                                      memGetInfo=lambda: (1 << 30, 1 << 31)),
        using_allocator=lambda allocator: contextlib.nullcontext(), set_pinned_memory_allocator=lambda allocator: None,
        Stream=type("Stream", (Stream,), {"null": null}),
    )
    return made


def _alloc(size: int) -> Any:
    memory = np.empty(size, np.uint8)
    return types.SimpleNamespace(ptr=memory.ctypes.data, memory=memory)


def out_of_memory() -> None:
    """Fail as CuPy does when the device is full."""
    raise OutOfMemoryError("Out of memory allocating 1,000 bytes (allocated so far: 10 bytes).")
