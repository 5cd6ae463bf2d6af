"""What can go wrong with a workspace, one class for each fault that a caller can act on."""


class StorageError(Exception):
    """Base of all storage faults; its text is one or two lines and names the remedy."""


class NotAWorkspace(StorageError):
    """The folder holds no `workspace.json`, or one that this version can't read."""


class CommitLost(StorageError):
    """Another writer committed this shard first; this writer's work is discarded, nothing is damaged."""


class BooksDontBalance(StorageError):
    """units_in differs from units_out + dropped + pending (law 1), or the rows differ from the counts."""


class SchemaMismatch(StorageError):
    """A table's columns differ from the schema that the stage promises."""


class NotCommitted(StorageError):
    """A slice was asked for that no manifest names."""


class NotAPlace(StorageError):
    """What was named as a workspace is neither a folder nor the URL of an object store."""


class StoreFailed(StorageError, OSError):
    """An object store refused, or could not be reached for longer than its client tries; an OSError, as a disk's is."""


class NoConditionalPut(StorageError):
    """An object store without create-only puts, on which commits would not be safe (law 2)."""


class LocalOnly(StorageError):
    """The command works on a folder, not yet on an object store."""
