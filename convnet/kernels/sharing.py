"""Compiled kernels that several threads share, without Python in between.

Waking a sleeping thread takes some 70 µs, as long as a small kernel; waiting for Python's lock as much again. So the threads
wait for their part in compiled code, looking at a word of memory for a moment before they go to sleep. The caller writes down
where the code and the arguments of a kernel are, opens the parts, does the first itself, and then every part that
nobody has taken. It never waits for a thread that has not begun.

The board, an array of integers: the number of the last turn, code, data; then LINE words for each part, which hold what was
opened and taken, and what is done.
"""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from convnet.kernels.caching import compiled

TURN, CODE, DATA, LINE, TAKEN, DONE = 0, 1, 2, 16, 0, 1
llvmlite.binding.initialize_native_asmparser()
_PAUSES = {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}
_PAUSE = _PAUSES.get(llvmlite.binding.get_process_triple().split("-")[0], "")


_FILES = [Path(__file__).with_name(name).read_bytes() for name in ("sharing.py", "tile.py")]
_SOURCES = hashlib.sha256(b"".join(_FILES)).hexdigest()[:12]


def new_board(parts: int) -> np.ndarray:
    """Return the board for up to `parts` parts."""
    return np.zeros(LINE * (parts + 1), np.int64)


def _word(context: Any, builder: Any, kind: Any, board: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, board).data, [at])


@intrinsic
def _look(typingctx, board, at):
    """Return a word, and see all that was written before it was."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_word(context, builder, signature.args[0], *args), "acquire", 8)

    return types.int64(board, types.intp), codegen


@intrinsic
def _show(typingctx, board, at, value):
    """Write a word, after all that was written before."""

    def codegen(context, builder, signature, args):
        board, at, value = args
        builder.store_atomic(value, _word(context, builder, signature.args[0], board, at), "release", 8)
        return context.get_dummy_value()

    return types.void(board, types.intp, types.int64), codegen


@intrinsic
def _take(typingctx, board, at, old, new):
    """Replace `old` by `new` in a word unless another thread was faster; say whether it was done."""

    def codegen(context, builder, signature, args):
        board, at, old, new = args
        pair = builder.cmpxchg(_word(context, builder, signature.args[0], board, at), old, new, "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(board, types.intp, types.int64, types.int64), codegen


@intrinsic
def _pause(typingctx):
    """Leave the core to its other thread for a moment, and look at the memory anew."""

    def codegen(context, builder, signature, args):
        builder.call(ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), _PAUSE, "~{memory}", side_effect=True), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _part_of(rooms, part, parts):
    room = rooms.size // parts
    return rooms[part * room:(part + 1) * room]


def _describing(kernel: Any) -> Any:
    """Return the intrinsic that tells the addresses of the function of a part of `kernel`, and of its data.

    The data live as long as the function that calls the intrinsic.
    """

    @intrinsic
    def described(typingctx, parts, total, rooms, args):
        inner = typingctx.resolve_function_type(types.Dispatcher(kernel), (types.intp,) * 3 + (rooms, *args.types), {})

        def codegen(context, builder, signature, values):
            kinds = [context.get_value_type(kind) for kind in signature.args]
            bundle, word = ir.LiteralStructType(kinds), context.get_value_type(types.int64)
            data = cgutils.alloca_once(builder, bundle)
            for i, value in enumerate(values):
                builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))
            convention = context.call_conv
            code = ir.Function(builder.module, convention.get_function_type(*_PART), f"{builder.function.name}.part")
            code.linkage = "internal"
            inside = ir.IRBuilder(code.append_basic_block())
            address, part = convention.decode_arguments(inside, _PART[1], code)
            held = inside.inttoptr(address, bundle.as_pointer())
            parts, total, rooms, args = (inside.load(cgutils.gep_inbounds(inside, held, 0, i)) for i in range(len(kinds)))
            low = inside.sdiv(inside.mul(total, part), parts)
            high = inside.sdiv(inside.mul(total, inside.add(part, ir.Constant(word, 1))), parts)
            kind = signature.args[2]
            room = context.compile_internal(inside, _part_of, kind(kind, types.intp, types.intp), (rooms, part, parts))
            context.get_function(types.Dispatcher(kernel), inner)(
                inside, [part, low, high, room, *cgutils.unpack_tuple(inside, args)])
            convention.return_value(inside, context.get_dummy_value())
            addresses = [builder.ptrtoint(code, word), builder.ptrtoint(data, word)]
            return context.make_tuple(builder, signature.return_type, addresses)

        return types.UniTuple(types.int64, 2)(types.intp, types.intp, rooms, args), codegen

    return described


# What the function of a part returns and takes: the address of its data, and its number.
_PART = (types.none, (types.int64, types.int64))


@intrinsic
def _succeeds(typingctx, code, data, part):
    """Run a part, and say whether it ended without an error."""

    def codegen(context, builder, signature, args):
        code, *values = args
        function = builder.inttoptr(code, context.call_conv.get_function_type(*_PART).as_pointer())
        status, _ = context.call_conv.call_function(builder, function, *_PART, values)
        return builder.not_(status.is_error)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@compiled
def lead(board, parts, code, data):
    """Open all parts but the first, do that, then those that nobody took, and wait for the others; say whether all succeeded."""
    turn = board[TURN] + 1
    board[TURN], board[CODE], board[DATA] = turn, code, data
    for part in range(1, parts):
        _show(board, LINE * part + TAKEN, 2 * turn)
    well = _succeeds(code, data, 0)
    for part in range(1, parts):
        if _take(board, LINE * part + TAKEN, 2 * turn, 2 * turn + 1):
            well &= _succeeds(code, data, part)
        else:
            while abs(_look(board, LINE * part + DONE)) != turn:
                _pause()
            well &= board[LINE * part + DONE] > 0
    return well


@compiled
def follow(board, part, patience):
    """Do this part whenever it is open; return after `patience` looks in vain."""
    looks = 0
    while looks < patience:
        opened = _look(board, LINE * part + TAKEN)
        if opened % 2 == 0 and opened > 0 and _take(board, LINE * part + TAKEN, opened, opened + 1):
            turn = opened // 2
            _show(board, LINE * part + DONE, turn if _succeeds(board[CODE], board[DATA], part) else -turn)
            looks = 0
        _pause()
        looks += 1


def shared(function: Any) -> Any:
    """Compile a kernel ``kernel(part, low, high, room, *args)`` into ``kernel(board, parts, total, rooms, *args)``.

    Called so, it runs on the parts of ``range(total)``, each with its part of `rooms`, and returns whether all succeeded.
    """
    kernel = numba.njit(nogil=True, no_cpython_wrapper=True)(function)  # type: ignore[call-overload]
    # Numba's cache takes a function for the same as long as its own file is; what else it holds, its name tells.
    name, names = f"{function.__name__}_{_SOURCES}", {"described": _describing(kernel), "lead": lead}
    source = f"def {name}(board, parts, total, rooms, *args):\n" \
             "    return lead(board, parts, *described(parts, total, rooms, args))\n"
    exec(compile(source, function.__code__.co_filename, "exec"), names)
    names[name].__module__, names[name].__doc__ = function.__module__, function.__doc__
    return compiled(names[name])
