"""A system call filter on top of the engine's default one, for the zygote and all programs.

It closes what older default profiles leave open: sockets that no network namespace holds back (AF_VSOCK
reaches the host of a virtual machine), io_uring and userfaultfd (much of the kernel, little of use to a
program), and foreign call tables (32-bit and x32), through which a filter by number could be walked around.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_ARCH = {  # machine: (audit architecture, {system call: number})
    "x86_64": (0xC000003E, {"clone": 56, "socket": 41, "socketpair": 53, "userfaultfd": 323}),
    "aarch64": (0xC00000B7, {"clone": 220, "socket": 198, "socketpair": 199, "userfaultfd": 282}),
}
_IO_URING = (425, 426, 427)  # the same everywhere
_CLONE3 = 435  # its flags lie in memory, where a filter can't look; C libraries fall back to clone
_CLONE_PARENT = 0x8000
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (which getaddrinfo asks)
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _GREATER_EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def instructions(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand)."""
    architecture, numbers = _ARCH[machine]
    deny = [_ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO | errno.EAFNOSUPPORT]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, deny[0]),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_EQUAL, 0, 1, 0x40000000),
        (_RETURN, 0, 0, deny[0]),
    ]
    for number in (*_IO_URING, _CLONE3, numbers["userfaultfd"]):
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, deny[1])]
    # A child of the zygote that it did not make would stay as a zombie, and cost the container.
    program += [
        (_EQUAL, 0, 4, numbers["clone"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_BITS, 0, 1, _CLONE_PARENT),
        (_RETURN, 0, 0, deny[0]),
        (_RETURN, 0, 0, _ALLOW),
    ]
    families = [(_EQUAL, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
    check = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *families, (_RETURN, 0, 0, deny[2]), (_RETURN, 0, 0, _ALLOW)]
    program += [
        (_EQUAL, 2, 0, numbers["socket"]),
        (_EQUAL, 1, 0, numbers["socketpair"]),
        (_RETURN, 0, 0, _ALLOW),
        *check,
    ]
    return program


def install() -> None:
    """Put the filter on this process and its children; needs no-new-privileges, which the container sets."""
    machine = platform.machine()
    if machine not in _ARCH:
        return  # the engine's default profile stands alone
    filter_ = instructions(machine)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in filter_)
    program = _Program(len(filter_), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system call filter was refused")
