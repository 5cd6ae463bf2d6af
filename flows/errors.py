"""What a person can get wrong before anything runs, and what a machine's own faults ask for."""

import errno
import os


class RecipeError(Exception):
    """A recipe that can't be used; the text says where, what was found, what is allowed."""


class UsageError(Exception):
    """A command that can't be carried out as it was given; the text names the remedy."""


_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in that quota",
    errno.EROFS: "mount it writable, or work on a copy",
    errno.EACCES: "allow this user to write there, or work on a copy",
}


def machine_remedy(fault: Exception) -> str | None:
    """What to do where the machine is at fault (a full disk, a read-only one); None where it isn't.

    Libraries wrap the system's error, some with nothing but its words left.
    """
    number = getattr(fault, "errno", None)
    if number not in _REMEDIES:
        number = next((one for one in _REMEDIES if os.strerror(one) in str(fault)), None)
    return None if number is None else f"; {_REMEDIES[number]}, then run the same command again to go on"
